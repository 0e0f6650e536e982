"""Charts of the pages: where bars, curves, dots, grid and ticks lie. The templates draw them as SVG
in the page's colours.

Coordinates are in pixels of a view of WIDTH x HEIGHT, from its upper left corner.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dpo_video.core.report import Estimate

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 12, 46
"""Space around what is drawn."""
WIDEST_GROUP = 80
MOST_TICKS = 7
"""Labels of groups that stand below bars; more would touch."""
BAR_WIDTH, BAR_MARGIN = 160, 6
"""Of the small bar of an interval, and what is left free at its ends."""


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
    """`first`, `second`, `good` or `reference`: a class of the style sheet."""
    points: Sequence[tuple[float, float]]
    weights: Sequence[float] = ()
    dashed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One drawn bar and what it says when pointed at."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One drawn curve: its corners as SVG writes them, and its dots as (x, y, radius)."""

    corners: str
    colour: str
    dashed: bool
    dots: Sequence[tuple[float, float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart with all places computed."""

    title: str
    note: str
    x_title: str = ""
    y_title: str = ""
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    bars: Sequence[Bar] = ()
    lines: Sequence[Line] = ()
    legend: Sequence[tuple[str, str]] = ()
    """Colour and name of each series; empty where one series needs no name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalBar:
    """A small bar for a table: the interval as a line, the value as a dot, a tick for chance or no
    change. All are places along x.
    """

    value: float
    interval: tuple[float, float] | None
    mark: float | None


def line_chart(curves: Sequence[Curve], *, x: Axis, y: Axis, title: str, note: str) -> Chart:
    """Return curves over two axes with five equal steps each."""
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    lines = []
    for curve in curves:
        corners = [
            (
                LEFT + (across - x.low) / (x.high - x.low) * inner_width,
                HEIGHT - BOTTOM - (up - y.low) / (y.high - y.low) * inner_height,
            )
            for across, up in curve.points
        ]
        radii = [2.5 + 6 * weight**0.5 for weight in curve.weights]
        lines.append(
            Line(
                corners=" ".join(f"{across:.1f},{down:.1f}" for across, down in corners),
                colour=curve.colour,
                dashed=curve.dashed,
                dots=[(*corner, radius) for corner, radius in zip(corners, radii, strict=False)],
            )
        )
    shares = [step / 5 for step in range(6)]
    return Chart(
        title=title,
        note=note,
        x_title=x.title,
        y_title=y.title,
        x_ticks=[(LEFT + share * inner_width, _tick(x, share)) for share in shares],
        y_ticks=[(HEIGHT - BOTTOM - share * inner_height, _tick(y, share)) for share in shares],
        lines=lines,
        legend=[(curve.colour, curve.name) for curve in curves],
    )


def _tick(axis: Axis, share: float) -> str:
    """Return the number at a share of an axis; what arithmetic leaves of zero is zero."""
    span = axis.high - axis.low
    number = axis.low + share * span
    return "0" if abs(number) < span * 1e-9 else f"{number:.3g}"


def bar_chart(
    labels: Sequence[str],
    series: Mapping[str, Sequence[int]],
    *,
    title: str,
    note: str = "",
    x_title: str = "",
    y_title: str = "",
    edges: bool = False,
) -> Chart:
    """Return bars in groups: a group for each label, a bar in it for each series.

    Args:
        labels: of the groups, (groups,); with `edges` of their ends, (groups + 1,).
        series: counts by name, (groups,) each.
        edges: the groups are bins of a histogram, and the labels stand below their ends.
    """
    num_groups = len(labels) - edges
    top = max((max(counts, default=0) for counts in series.values()), default=0) or 1
    top += top % 2  # the middle line is a whole count
    group = min(WIDEST_GROUP, (WIDTH - LEFT - RIGHT) / max(1, num_groups))
    bar, bottom = group * 0.84 / len(series), HEIGHT - BOTTOM
    bars = []
    for number, (name, counts) in enumerate(series.items()):
        for index, count in enumerate(counts):
            height = (bottom - TOP) * count / top
            bars.append(
                Bar(
                    x=LEFT + index * group + group * 0.08 + number * bar,
                    y=bottom - height,
                    width=bar,
                    height=height,
                    colour=("first", "second")[number % 2],
                    title=f"{name}: {count}",
                )
            )
    step = -(-len(labels) // MOST_TICKS)
    return Chart(
        title=title,
        note=note,
        x_title=x_title,
        y_title=y_title,
        x_ticks=[
            (LEFT + index * group + (0 if edges else group / 2), label)
            for index, label in enumerate(labels)
            if index % step == 0
        ],
        y_ticks=[(bottom - (bottom - TOP) * share, f"{top * share:.4g}") for share in (0, 0.5, 1)],
        bars=bars,
        legend=[(("first", "second")[number % 2], name) for number, name in enumerate(series)]
        if len(series) > 1
        else [],
    )


def interval_bar(
    estimate: Estimate, *, low: float, high: float, mark: float | None
) -> IntervalBar | None:
    """Return the bar of an estimate between two ends; None where it has no value."""
    if estimate.value is None:
        return None

    def at(number: float) -> float:
        share = (min(max(number, low), high) - low) / (high - low)
        return BAR_MARGIN + share * (BAR_WIDTH - 2 * BAR_MARGIN)

    ends = estimate.interval
    return IntervalBar(
        value=at(estimate.value),
        interval=None if ends is None else (at(ends[0]), at(ends[1])),
        mark=None if mark is None else at(mark),
    )
