"""Line charts as SVG text: axes from 0 or 0.5 to 1, curves, dots and a legend; no library, no
script.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from dpo_video.agree.requirements import MEASURES
from dpo_video.agree.table import against_rows, grouped_rows, lines, margin_line

WIDTH, HEIGHT = 460, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis: what it shows, and from where to where."""

    title: str
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points in the order they are joined; `weights` make dots of that area (largest = 1)."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    weights: Sequence[float] = ()
    dashed: bool = False


def chart(curves: Sequence[Curve], *, x: Axis, y: Axis, title: str) -> str:
    """Return the chart as one <svg> element."""

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return (
            LEFT + (point[0] - x.low) / (x.high - x.low) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (point[1] - y.low) / (y.high - y.low) * (HEIGHT - TOP - BOTTOM),
        )

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts += _axes(x, y)
    for curve in curves:
        places = [at(point) for point in curve.points]
        dash = ' stroke-dasharray="5 4"' if curve.dashed else ""
        joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(
            f'<polyline points="{joined}" fill="none" stroke="{curve.colour}" '
            f'stroke-width="2"{dash}/>'
        )
        parts += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{2.5 + 6 * weight**0.5:.1f}" '
            f'fill="{curve.colour}" '
            f'fill-opacity="0.55"/>'
            for (a, b), weight in zip(places, curve.weights, strict=False)
        ]
    named = [curve for curve in curves if curve.name]
    for row, curve in enumerate(named):
        below = HEIGHT - BOTTOM - 12 - 18 * (len(named) - 1 - row)
        parts.append(
            f'<rect x="{WIDTH - 190}" y="{below - 8}" width="14" height="4" fill="{curve.colour}"/>'
            f'<text x="{WIDTH - 170}" y="{below - 2}">{escape(curve.name)}</text>'
        )
    return "\n".join([*parts, "</svg>"])


def interval_bar(
    value: float, ci: Sequence[float] | None, *, low: float, high: float, mark: float | None
) -> str:
    """Return a small <svg> bar: the interval as a line, the value as a dot, `mark` (chance, no
    change) as a tick.
    """

    def at(number: float) -> float:
        return 4 + (min(max(number, low), high) - low) / (high - low) * 152

    line = (
        ""
        if ci is None
        else (
            f'<line x1="{at(ci[0]):.1f}" x2="{at(ci[1]):.1f}" y1="8" y2="8" '
            'stroke="#2b6cb0" stroke-width="4" stroke-opacity="0.45"/>'
        )
    )
    tick = (
        ""
        if mark is None
        else f'<line x1="{at(mark):.1f}" x2="{at(mark):.1f}" y1="1" y2="15" stroke="#999"/>'
    )
    return (
        '<svg class="bar" viewBox="0 0 160 16" aria-hidden="true">'
        f'<line x1="4" x2="156" y1="8" y2="8" stroke="#ddd"/>{tick}{line}'
        f'<circle cx="{at(value):.1f}" cy="8" r="4" fill="#2b6cb0"/></svg>'
    )


def _axes(x: Axis, y: Axis) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    out = [
        f'<rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}" fill="none" '
        f'stroke="#bbb"/>'
    ]
    for k in range(6):
        share = k / 5
        across, up = LEFT + share * (right - LEFT), bottom - share * (bottom - TOP)
        at_x, at_y = (axis.low + share * (axis.high - axis.low) for axis in (x, y))
        out.append(
            f'<text x="{across:.1f}" y="{bottom + 16}" text-anchor="middle">{at_x:.3g}</text>'
            f'<text x="{LEFT - 6}" y="{up + 4:.1f}" text-anchor="end">{at_y:.3g}</text>'
            f'<line x1="{LEFT}" x2="{right}" y1="{up:.1f}" y2="{up:.1f}" stroke="#eee"/>'
        )
    middle = (TOP + bottom) / 2
    out.append(
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 10}" '
        f'text-anchor="middle">{escape(x.title)}</text>'
        f'<text transform="rotate(-90 14 {middle})" x="14" y="{middle}" '
        f'text-anchor="middle">{escape(y.title)}'
        "</text>"
    )
    return out


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1000px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em;
  }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; color: #555; }
td, th { padding: 4px 8px; border-bottom: 1px solid #eee; vertical-align: top;
  }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap;
  }
svg { font: 12px system-ui, sans-serif; fill: #444; max-width: 460px; }
svg.bar { width: 160px; height: 16px; }
.charts { display: flex; flex-wrap: wrap; gap: 24px; } figure { margin: 0; flex: 1 1 400px; }
figcaption { color: #555; }
.text { display: block; min-width: 12em; white-space: pre-wrap; overflow-wrap: anywhere; }
.met { color: #276749; }
.unmet { color: #c53030; }
"""


def render_page(report: Mapping[str, Any]) -> str:
    """Return the whole page as text; it loads nothing from elsewhere."""
    parts = [
        f"<h1>How far the judge of {escape(report['run'])} is to be trusted</h1>",
        "<p>" + "<br>".join(escape(line) for line in lines(report)) + "</p>",
        *_requirements(report),
    ]
    for heading, rows in grouped_rows(report).items():
        parts += [f"<h2>{escape(heading)}</h2>", _measures(report, [row._asdict() for row in rows])]
    if "against" in report:
        other = report["against"]["judge"]
        heads = ("", "this judge", "the other", "other - this", "n (unscored of each)")
        parts += [
            f"<h2>Against {escape(other['name'])} ({escape(other['scorer'])})</h2>",
            _table(heads, [[escape(cell) for cell in row] for row in against_rows(report)]),
        ]
    parts += [*_charts(report), *_examples(report)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Agreement of the '
        "judge</title>\n"
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _requirements(report: Mapping[str, Any]) -> list[str]:
    needs = report.get("requirements")
    if not needs:
        return []
    rows = "".join(
        f'<li class="{"unmet" if row["unmet"] else "met"}">'
        f"{escape(row['unmet'] or row['text'] + ' met')}</li>"
        for row in needs
    )
    return [f"<h2>Required</h2><ul>{rows}</ul>"]


def _measures(report: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> str:
    probed = any(row["without"] for row in rows)
    body = []
    for row in rows:
        found = report["measures"][row["name"]]
        bar = "" if found["value"] is None else _bar(row["name"], found)
        cells = [
            f"{escape(row['title'])}<br><code>{row['name']}</code>",
            bar,
            escape(row["value"]),
            row["n"],
            row["unscored"],
        ]
        body.append([*cells, *([row["without"]] if probed else [])])
    return _table(
        ("", "", "value, 95 % interval", "n", "unscored", *(["no probe"] if probed else [])),
        body,
        first=2,
    )


def _bar(name: str, found: Mapping[str, Any]) -> str:
    signed = name.endswith("_shift") or name in ("kappa", "spearman", "kendall", "annotator_alpha")
    if name == "noise_sigma" or name.endswith("_shift"):
        reach = max([abs(found["value"]), *map(abs, found["ci"] or [])], default=1.0) or 1.0
        return interval_bar(
            found["value"], found["ci"], low=-reach if signed else 0.0, high=reach, mark=0.0
        )
    chance = (
        0.5
        if name.startswith(("auc_", "pair_accuracy")) and "class" not in name
        else found.get("chance")
    )
    return interval_bar(
        found["value"],
        found["ci"],
        low=-1.0 if signed else 0.0,
        high=1.0,
        mark=0.0 if signed or MEASURES[name].group in ("dressings", "noise") else chance,
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, first: int = 1) -> str:
    """Return a table whose columns from `first` on are numbers."""

    def row(cells: Sequence[str], tag: str) -> str:
        return (
            "<tr>"
            + "".join(
                f"<{tag}{' class=number' if place >= first else ''}>{cell}</{tag}>"
                for place, cell in enumerate(cells)
            )
            + "</tr>"
        )

    return "<table>" + row(heads, "th") + "".join(row(cells, "td") for cells in rows) + "</table>"


def _charts(report: Mapping[str, Any]) -> list[str]:
    figures = []
    calibration = report.get("calibration", {})
    if "after" in calibration:
        curves = [
            Curve(name="as it should be", colour="#999", points=[(0.5, 0.5), (1, 1)], dashed=True)
        ]
        for name, colour, side in (
            ("temperature 1", "#dd6b20", "before"),
            (f"temperature {calibration['temperature']:.3g}", "#2b6cb0", "after"),
        ):
            bins = calibration[side]["bins"]
            most = max(row["n"] for row in bins)
            curves.append(
                Curve(
                    name=name,
                    colour=colour,
                    points=[(row["confidence"], row["accuracy"]) for row in bins],
                    weights=[row["n"] / most for row in bins],
                )
            )
        svg = chart(
            curves,
            x=Axis(title="P(gold agrees) as the judge has it", low=0.5, high=1),
            y=Axis(title="share that gold agrees with", low=0, high=1),
            title="Reliability",
        )
        figures.append(
            f"<figure>{svg}<figcaption>Reliability: below the dashed line the judge is too sure. "
            f"The area "
            "of a dot is its share of pairs.</figcaption></figure>"
        )
    suggestion = report.get("min_margin", {})
    if suggestion.get("curve"):
        points = [(row["coverage"], row["precision"]) for row in suggestion["curve"]]
        wanted = suggestion["wanted"]
        low = 0.5 if min(y for _, y in points) >= 0.5 else 0.0
        curves = [
            Curve(
                name=f"wanted: {wanted:.0%}",
                colour="#999",
                points=[(0, wanted), (1, wanted)],
                dashed=True,
            ),
            Curve(name="precision", colour="#2b6cb0", points=points),
        ]
        if suggestion["min_margin"] is not None:
            curves.append(
                Curve(
                    name=f"margin {suggestion['min_margin']:.3g}",
                    colour="#276749",
                    weights=[1.0],
                    points=[(suggestion["coverage"], suggestion["precision"])],
                )
            )
        svg = chart(
            curves,
            x=Axis(title="coverage: share of pairs kept", low=0, high=1),
            y=Axis(title="precision of the kept pairs", low=low, high=1),
            title="Risk and coverage",
        )
        figures.append(
            f"<figure>{svg}<figcaption>Risk and coverage, widest margins first. "
            f"{escape(margin_line(suggestion))}</figcaption></figure>"
        )
    return (
        [f'<h2>What a margin is worth</h2><div class="charts">{"".join(figures)}</div>']
        if figures
        else []
    )


def _examples(report: Mapping[str, Any]) -> list[str]:
    """Return the probes of each kind that did best where they should not."""
    rows = [
        [
            escape(kind.replace("_", ", ")),
            escape(row["sample_id"]),
            *(f'<span class="text">{escape(row[text])}</span>' for text in ("base", "changed")),
            *(f"{row[score]:.2f}" for score in ("base_score", "changed_score")),
        ]
        for kind, found in report["probes"].get("kinds", {}).items()
        for row in found["worst"]
    ]
    if not rows:
        return []
    heads = ("kind", "sample", "true, or plain", "false, or dressed up", "score", "score")
    return ["<h2>Probes that fooled the judge most</h2>", _table(heads, rows, first=4)]
