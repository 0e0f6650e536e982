"""The skeleton of pages: escaping, what a page needs, and where charts put their marks."""

import pytest

from dpo_video.core.charts import (
    HEIGHT,
    LEFT,
    WIDTH,
    Axis,
    Curve,
    bar_chart,
    interval_bar,
    line_chart,
)
from dpo_video.core.page import unbroken_brackets
from dpo_video.core.report import Estimate


def test_brackets_stay_on_one_line_and_everything_is_escaped() -> None:
    assert (
        unbroken_brackets("<b> 50.0 % [40.0, 60.0]")
        == '&lt;b&gt; 50.0 % <span class="unbroken">[40.0, 60.0]</span>'
    )


def test_bars_reach_the_height_of_their_count() -> None:
    chart = bar_chart(["a", "b"], {"x": [1, 4], "y": [0, 2]}, title="t")
    heights = [bar.height for bar in chart.bars]
    assert heights[1] == pytest.approx(4 * heights[0]) and heights[2] == 0
    assert heights[3] == pytest.approx(heights[1] / 2)
    assert [label for _, label in chart.y_ticks] == ["0", "2", "4"]
    assert chart.legend == [("first", "x"), ("second", "y")]
    assert all(LEFT <= bar.x <= WIDTH and bar.y + bar.height <= HEIGHT for bar in chart.bars)


def test_the_edges_of_a_histogram_stand_at_the_ends_of_its_bins() -> None:
    chart = bar_chart(["0", "1", "2"], {"x": [3, 5]}, title="t", edges=True)
    ends = [x for x, _ in chart.x_ticks]
    assert len(chart.bars) == 2 and len(ends) == 3
    assert ends[0] < chart.bars[0].x < ends[1] < chart.bars[1].x < ends[2]


def test_curves_lie_between_their_axes() -> None:
    unit = Axis(title="", low=0, high=1)
    curve = Curve(name="c", colour="first", points=[(0, 0), (1, 1)], weights=[1.0, 0.25])
    (line,) = line_chart([curve], x=unit, y=unit, title="t", note="").lines
    (left, bottom), (right, top) = (
        tuple(map(float, corner.split(","))) for corner in line.corners.split()
    )
    assert left < right and bottom > top
    assert [radius for *_, radius in line.dots] == [8.5, 5.5]


def test_the_bar_of_an_interval_ends_at_the_ends_of_the_scale() -> None:
    bar = interval_bar(Estimate(value=0.5, interval=(-1.0, 2.0)), low=0, high=1, mark=0.5)
    assert bar is not None and bar.interval is not None
    assert bar.value == bar.mark == pytest.approx(sum(bar.interval) / 2)
    assert interval_bar(Estimate(value=None), low=0, high=1, mark=None) is None
