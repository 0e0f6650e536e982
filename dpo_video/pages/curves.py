"""The training curves of a report."""

from collections.abc import Mapping, Sequence
from itertools import chain
from math import floor, log10
from typing import Any

from dpo_video.core.charts import Axis, Chart, Curve, line_chart

Log = Sequence[Mapping[str, Any]]


def training_charts(log: Log) -> list[Chart]:
    """Return loss, rewards of chosen and rejected answers apart, accuracy, and distance from the
    reference; a chart is left out where nothing of it was logged.
    """
    charts = [
        _chart(log, {"loss": "loss"}, title="Loss", y_title="loss"),
        _chart(
            log,
            {"rewards/chosen": "chosen", "rewards/rejected": "rejected"},
            title="Implicit reward of chosen and rejected answers",
            y_title="reward (beta x nats)",
            note=chosen_warning(log),
        ),
        _chart(
            log,
            {"rewards/accuracies": "accuracy"},
            title="Pairs whose chosen answer has the higher reward",
            y_title="share of pairs",
            bounds=(0.0, 1.0),
        ),
        _chart(
            log,
            {"kl": "KL"},
            title="Distance from the reference",
            y_title="KL a token (nats)",
            note="Estimated on the answers of the pairs.",
        ),
    ]
    return [chart for chart in charts if chart is not None]


def chosen_warning(log: Log) -> str:
    """Return a warning where the chosen answers' reward ends below zero."""
    rewards = [row["rewards/chosen"] for row in log if "rewards/chosen" in row]
    if not rewards or rewards[-1] >= 0:
        return ""
    rejected = [row["rewards/rejected"] for row in log if "rewards/rejected" in row]
    tail = " The margin comes from the rejected ones falling faster." if rejected else ""
    return (
        "The chosen answers' reward ends below zero: the tuned model gives them less probability "
        f"than the base did.{tail}"
    )


def _chart(
    log: Log,
    names: Mapping[str, str],
    *,
    title: str,
    y_title: str,
    note: str = "",
    bounds: tuple[float, float] | None = None,
) -> Chart | None:
    curves = []
    for number, (name, label) in enumerate(names.items()):
        points = [(float(row["step"]), float(row[name])) for row in log if name in row]
        if len(points) > 1:
            colour = ("first", "second")[number % 2]
            curves.append(Curve(name=label, colour=colour, points=points))
    if not curves:
        return None
    points = list(chain.from_iterable(curve.points for curve in curves))
    steps, heights = [across for across, _ in points], [up for _, up in points]
    low, high = bounds or round_ends(min(heights), max(heights))
    return line_chart(
        curves,
        x=Axis(title="optimizer step", low=0.0, high=max(steps)),
        y=Axis(title=y_title, low=low, high=high),
        title=title,
        note=note,
    )


def round_ends(low: float, high: float) -> tuple[float, float]:
    """Return ends of an axis around some values, five equal steps of a round size apart."""
    span = (high - low) or abs(high) or 1.0
    size = 10 ** floor(log10(span / 5))
    for factor in (1, 2, 2.5, 5, 10, 20):
        step = size * factor
        begin = floor(low / step) * step
        if begin + 5 * step >= high:
            return begin, begin + 5 * step
    return low, high
