"""Line charts as SVG text: axes from 0 or 0.5 to 1, curves, dots and a legend; no library, no script."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

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
        return (LEFT + (point[0] - x.low) / (x.high - x.low) * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - (point[1] - y.low) / (y.high - y.low) * (HEIGHT - TOP - BOTTOM))

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts += _axes(x, y)
    for curve in curves:
        places = [at(point) for point in curve.points]
        dash = ' stroke-dasharray="5 4"' if curve.dashed else ""
        joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{curve.colour}" stroke-width="2"{dash}/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{2.5 + 6 * weight**0.5:.1f}" fill="{curve.colour}" '
                  f'fill-opacity="0.55"/>' for (a, b), weight in zip(places, curve.weights, strict=False)]
    named = [curve for curve in curves if curve.name]
    for row, curve in enumerate(named):
        below = HEIGHT - BOTTOM - 12 - 18 * (len(named) - 1 - row)
        parts.append(f'<rect x="{WIDTH - 190}" y="{below - 8}" width="14" height="4" fill="{curve.colour}"/>'
                     f'<text x="{WIDTH - 170}" y="{below - 2}">{escape(curve.name)}</text>')
    return "\n".join([*parts, "</svg>"])


def interval_bar(value: float, ci: Sequence[float] | None, *, low: float, high: float, mark: float | None) -> str:
    """Return a small <svg> bar: the interval as a line, the value as a dot, `mark` (chance, no change) as a tick."""
    def at(number: float) -> float:
        return 4 + (min(max(number, low), high) - low) / (high - low) * 152

    line = "" if ci is None else (f'<line x1="{at(ci[0]):.1f}" x2="{at(ci[1]):.1f}" y1="8" y2="8" '
                                  'stroke="#2b6cb0" stroke-width="4" stroke-opacity="0.45"/>')
    tick = "" if mark is None else f'<line x1="{at(mark):.1f}" x2="{at(mark):.1f}" y1="1" y2="15" stroke="#999"/>'
    return ('<svg class="bar" viewBox="0 0 160 16" aria-hidden="true">'
            f'<line x1="4" x2="156" y1="8" y2="8" stroke="#ddd"/>{tick}{line}'
            f'<circle cx="{at(value):.1f}" cy="8" r="4" fill="#2b6cb0"/></svg>')


def _axes(x: Axis, y: Axis) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    out = [f'<rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}" fill="none" stroke="#bbb"/>']
    for k in range(6):
        share = k / 5
        across, up = LEFT + share * (right - LEFT), bottom - share * (bottom - TOP)
        at_x, at_y = (axis.low + share * (axis.high - axis.low) for axis in (x, y))
        out.append(f'<text x="{across:.1f}" y="{bottom + 16}" text-anchor="middle">{at_x:.3g}</text>'
                   f'<text x="{LEFT - 6}" y="{up + 4:.1f}" text-anchor="end">{at_y:.3g}</text>'
                   f'<line x1="{LEFT}" x2="{right}" y1="{up:.1f}" y2="{up:.1f}" stroke="#eee"/>')
    middle = (TOP + bottom) / 2
    out.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x.title)}</text>'
               f'<text transform="rotate(-90 14 {middle})" x="14" y="{middle}" text-anchor="middle">{escape(y.title)}'
               '</text>')
    return out
