"""An audit as a page that needs no network, and as a table for the terminal."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 14, 40
"""Space around the bars of a chart, in pixels."""
WIDEST = 90
"""Most pixels of a group of bars."""
COLOURS = ("#2f6fb0", "#d9822b")
"""Blue and orange: told apart by those who see few colours, too."""
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2430; background: #f5f6f8; margin: 0; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 0 0 10px; }
p { margin: 0 0 10px; } .quiet { color: #5b6675; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 18px;
  margin-top: 18px; }
.stack { display: grid; gap: 18px; align-content: start; }
section { background: #fff; border: 1px solid #dfe3e8; border-radius: 8px; padding: 16px 18px; }
.warn { background: #fff6e5; border-color: #f0c36d; margin-top: 18px; } .warn li { margin: 2px 0; }
table { border-collapse: collapse; width: 100%; } td, th { padding: 3px 6px; text-align: left;
  }
tr + tr td { border-top: 1px solid #edf0f3; }
td.number, th.number { text-align: right; white-space: nowrap;
font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; display: block; margin-bottom: 8px; }
td { white-space: pre-wrap; }
svg text { font: 11px system-ui, sans-serif; fill: #5b6675; }
""".strip()


def page(numbers: Mapping[str, Any]) -> str:
    """Return the numbers of an audit as one HTML file with its charts inside."""
    length, margin, position = numbers["length"], numbers["margin"], numbers["position"]
    count = numbers["counts"]
    charts = [
        _card(
            "Length of answers in characters",
            histogram_chart(length["histogram"]),
            f"Score is fitted on length within questions, over {length['answers']:,} "
            f"{length['fitted_on']}.",
        ),
        _card("Margin between chosen and rejected score", histogram_chart(margin["histogram"]), ""),
        _card(
            "Place among the candidates",
            bar_chart(
                list(position["by_place"]),
                {
                    "chosen": [row[0] for row in position["by_place"].values()],
                    "rejected": [row[1] for row in position["by_place"].values()],
                },
            ),
            "Candidates are draws of equal standing: each place should be chosen and rejected "
            "alike. Early "
            "places are the most common, as the first of equal answers stays.",
        )
        if position["n"]
        else "",
        _card(
            "Pairs per question",
            bar_chart(
                list(count["pairs_per_question"]),
                {"questions": list(count["pairs_per_question"].values())},
            ),
            "",
        ),
    ]
    aside = _card(
        "Left out", _table(left_out(numbers)) if left_out(numbers) else "<p>Nothing.</p>", ""
    )
    if numbers["samplers"]:
        aside += _card(
            "Samplers",
            _table(sampler_rows(numbers)),
            "Where one sampler wins, pairs teach its style.",
        )
    tables = [_card("Numbers", _table(figures(numbers)), ""), f'<div class="stack">{aside}</div>']
    found = "".join(f"<li>{escape(line)}</li>" for line in numbers["warnings"])
    warned = (
        f'<section class="warn"><h2>Look at this first</h2><ul>{found}</ul></section>'
        if found
        else ""
    )
    title = f"Audit of the pairs of {escape(numbers['run'])}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body><main><h1>{title}</h1><p "
        f'class="quiet">{count["pairs"]:,} pairs '
        f"of {count['questions']:,} questions about {count['clips']:,} clips; intervals are 95 %, "
        f"over clips</p>"
        f'{warned}<div class="grid">{"".join(tables)}{"".join(charts)}</div></main></body></html>\n'
    )


def table(numbers: Mapping[str, Any]) -> RenderableType:
    """Return the numbers of an audit for the terminal."""
    count = numbers["counts"]
    shown = Table(
        box=box.SIMPLE,
        title=f"{count['pairs']} pairs of {count['questions']} questions about "
        f"{count['clips']} clips, 95 % intervals over clips",
        title_justify="left",
    )
    shown.add_column("", no_wrap=True)
    shown.add_column("", justify="right", no_wrap=True)
    for name, value in [*figures(numbers), *left_out(numbers), *sampler_rows(numbers)]:
        shown.add_row(name, value)
    lines = [f"warning: {line}" for line in numbers["warnings"]]
    return Group(shown, Text("\n".join(lines))) if lines else shown


def figures(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the main numbers in words."""
    length, margin, position = numbers["length"], numbers["margin"], numbers["position"]
    found = [
        (
            "length of chosen / rejected answers",
            f"{length['chosen']:.1f} / {length['rejected']:.1f}",
        ),
        ("chosen longer by (characters)", _cell(length["extra"], ".1f")),
        ("chosen answer is the longer one", _share(length["chosen_longer"])),
        ("correlation of score and length", _cell(length["score_correlation"], ".2f")),
        ("  within questions", _cell(length["score_correlation_within_questions"], ".2f")),
        ("score per 100 characters", _cell(length["score_per_100_characters"], ".2f")),
        ("margin", _cell(length["margin"], ".2f")),
        ("  with length taken out", _cell(length["residual_margin"], ".2f")),
        ("pairs whose margin is all length", f"{length['explained_by_length']:.1%}"),
        (
            "margin: least / median / most",
            " / ".join(f"{margin['quantiles'][name]:.2f}" for name in ("min", "median", "max")),
        ),
    ]
    if "implicit" in margin:
        found += [
            ("implicit margin: median", f"{margin['implicit']['quantiles']['median']:.3f}"),
            ("pairs that the policy ranks wrongly", f"{margin['implicit']['wrongly_ranked']:.1%}"),
        ]
    if position["n"]:
        found += [("chosen answer was drawn earlier", _share(position["chosen_earlier"]))]
        found += [
            (
                f"{place} answer is chosen / rejected",
                " / ".join(f"{position[side][place]:.1%}" for side in ("chosen", "rejected")),
            )
            for place in ("first", "last")
        ]
    repeated = numbers["duplicates"]
    return [
        *found,
        (
            "answers that repeat another / judged once for several",
            f"{repeated['answers']} / {repeated['judged_once_for_several']}",
        ),
        ("pairs that repeat another", str(repeated["pairs"])),
    ]


def left_out(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was left out, by unit and reason."""
    count = numbers["counts"]
    rows = [
        (f"{unit} cleaned: {reason}", str(times))
        for unit, reasons in count["cleaned"].items()
        for reason, times in reasons.items()
    ]
    return rows + [
        (f"{unit} dropped: {reason}", str(times))
        for unit, reasons in count["dropped"].items()
        for reason, times in reasons.items()
    ]


def sampler_rows(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return by sampler how often it was chosen and rejected, and the share chosen."""
    return [
        (
            f"{name}: chosen / rejected",
            f"{row['chosen']} / {row['rejected']}"
            + ("" if row["share_chosen"] is None else f", chosen {_share(row['share_chosen'])}"),
        )
        for name, row in numbers["samplers"].items()
    ]


def histogram_chart(found: Mapping[str, Any]) -> str:
    """Return a histogram as SVG; the edges of the bins stand below."""
    edges = [f"{edge:.4g}" for edge in found["edges"]]
    return bar_chart(edges[:-1], found["series"], last=edges[-1])


def bar_chart(
    labels: Sequence[str], series: Mapping[str, Sequence[int]], *, last: str | None = None
) -> str:
    """Return bars in groups as SVG: a group for each label, a bar in it for each series.

    Args:
        labels: of the groups, (groups,).
        series: counts by name, (groups,) each.
        last: right end of the last group; the labels are then edges and stand below the left ends.
    """
    most = max((max(values, default=0) for values in series.values()), default=0) or 1
    most += most % 2  # the middle line is a whole count
    group = min(WIDEST, (WIDTH - LEFT - RIGHT) / max(1, len(labels)))
    bar = group * 0.84 / len(series)
    tall = HEIGHT - TOP - BOTTOM
    parts = []
    for share in (0, 0.5, 1):
        y = TOP + tall * (1 - share)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e7ec"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{most * share:.4g}</text>'
        )
    for number, (name, values) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        for place, value in enumerate(values):
            x, height = LEFT + place * group + group * 0.08 + number * bar, tall * value / most
            parts.append(
                f'<rect x="{x:.1f}" y="{TOP + tall - height:.1f}" width="{bar:.1f}" '
                f'height="{height:.1f}" '
                f'fill="{colour}"><title>{escape(name)}: {value}</title></rect>'
            )
        if len(series) > 1:
            x = LEFT + number * 110
            parts.append(
                f'<rect x="{x}" y="{HEIGHT - 11}" width="10" height="10" fill="{colour}"/>'
                f'<text x="{x + 15}" y="{HEIGHT - 2}">{escape(name)}</text>'
            )
    ticks = [*labels, last] if last is not None else list(labels)
    step = -(-len(ticks) // 11)
    for place, label in enumerate(ticks):
        if place % step == 0:
            x = LEFT + place * group + (0 if last is not None else group / 2)
            parts.append(
                f'<text x="{x:.1f}" y="{TOP + tall + 15}" '
                f'text-anchor="middle">{escape(label)}</text>'
            )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _card(title: str, content: str, note: str) -> str:
    below = f'<p class="quiet">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{content}{below}</section>"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{escape(value)}</td></tr>'
        for name, value in rows
    )
    return f"<table>{cells}</table>"


def _cell(estimate: Mapping[str, Any], form: str) -> str:
    if estimate["ci"] is None:
        return f"{estimate['value']:{form}} [no interval: one clip]"
    low, high = estimate["ci"]
    return f"{estimate['value']:{form}} [{low:{form}}, {high:{form}}]"


def _share(estimate: Mapping[str, Any]) -> str:
    return _cell(estimate, ".1%")
