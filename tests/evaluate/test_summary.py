"""The table at the end of a run shows the numbers of metrics.json, and says what is missing."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dpo_video.core.errors import UserError
from dpo_video.evaluate.metrics import (
    Graded,
    Intervals,
    PairMargin,
    change,
    heldout_pairs,
    judged,
    side,
)
from dpo_video.evaluate.summary import WIDTH, cell, print_summary
from dpo_video.recipe import EvaluateSettings


def metrics(*, hallucination: str | None = "caption_support", missing: int = 0) -> dict[str, Any]:
    """The metrics of four questions on two clips: 1 of 4 right before, 3 of 4 after."""
    intervals = Intervals(
        EvaluateSettings(bootstrap=50, hallucination_scorer=hallucination), seed=0
    )
    before = [
        Graded(
            sample_id=str(n),
            clip=str(n // 2),
            length=20,
            correct=n == 0,
            score=2.0,
            supported=n == 0,
        )
        for n in range(4)
    ]
    after = [
        Graded(
            sample_id=str(n),
            clip=str(n // 2),
            length=30,
            correct=n > 0,
            score=4.0 if n >= missing else None,
            supported=True,
        )
        for n in range(4)
    ]
    return {
        "before": side(before, intervals),
        "after": side(after, intervals),
        "change": change(before, after, intervals),
        "judged": judged(before, after, intervals, tie_margin=0.5),
        "heldout_pairs": heldout_pairs(
            [PairMargin(clip="0", margin=0.2), PairMargin(clip="1", margin=0.4)], intervals
        ),
        "heldout": {"samples": 4 + missing, "clips": 2, "unanswered": missing},
        "seconds": {"generate": 61.2, "evaluate": 30.4},
    }


def printed(path: Path, width: int = 2 * WIDTH) -> str:
    console = Console(
        width=width, record=True, highlight=False, file=path.with_suffix(".out").open("w")
    )
    print_summary(path, console)
    return console.export_text()


def test_the_table_shows_before_after_and_change_with_intervals(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    values = metrics()
    path.write_text(json.dumps(values))
    text = printed(path)
    low, high = values["change"]["accuracy_ci"]
    for part in (
        "gold accuracy",
        "25.0 % [0.0, 50.0]",
        "75.0 % [50.0, 100.0]",
        f"+50.0 pts [{low * 100:+.1f}, {high * 100:+.1f}]",
        "judged score",
        "2.00 [2.00, 2.00]",
        "+2.00 [+2.00, +2.00]",
        "hallucination rate",
        "answer length",
        "4 won, 0 tied, 0 lost of 4",
        "100.0 % [100.0, 100.0] of 2",
        "mean margin 0.30 [0.20, 0.40]",
        "seconds: generate 61, evaluate 30; together 92",
    ):
        assert part in text, text
    assert f"metrics: {path}" in text and "unscored" not in text


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(metrics(hallucination=None, missing=1)))
    text = printed(path)
    assert "hallucination rate" not in text
    assert "3 won, 0 tied, 0 lost of 4, 1 unscored" in text
    assert "unscored answers after: 1 by the scorer" in text
    assert "1 of 5 held-out questions have no answer: their clips cannot be read" in text


def test_a_value_without_interval_or_without_value_says_so() -> None:
    assert cell({"x": None, "x_ci": None}, "x", share=True) == "-"
    assert cell({"x": 0.5, "x_ci": None}, "x", share=True) == "50.0 % [no interval: one clip]"
    assert (
        cell({"x": -0.031, "x_ci": [-0.05, 0.01]}, "x", share=True, signed=True)
        == "-3.1 pts [-5.0, +1.0]"
    )


def test_a_run_without_metrics_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make them first: dpo-video evaluate RECIPE"):
        print_summary(tmp_path / "metrics.json")
