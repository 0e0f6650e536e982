"""The metrics of a small evaluation, made by the functions that make them in a run."""

from typing import Any

from dpo_video.evaluate.answer_rows import EvaluatedAnswer
from dpo_video.evaluate.metrics import (
    Intervals,
    PairMargin,
    answer_metrics,
    heldout_pair_metrics,
    paired_differences,
    win_rates,
)
from dpo_video.evaluate.report import HeldoutCounts, Metrics
from dpo_video.recipe import EvaluateSettings


def metrics(*, hallucination: str | None = "caption_support", missing: int = 0) -> Metrics:
    """The metrics of four questions on two clips: 1 of 4 right before, 3 of 4 after; the first
    `missing` answers after have no score, and as many questions no answer.
    """
    intervals = Intervals(
        EvaluateSettings(bootstrap=50, hallucination_scorer=hallucination), seed=0
    )
    before = [
        EvaluatedAnswer(
            sample_id=str(n),
            clip=str(n // 2),
            set="heldout",
            model="before",
            prompt="p",
            text="x" * 20,
            exact_match=n == 0,
            score=2.0,
            supported=n == 0,
        )
        for n in range(4)
    ]
    after = [
        EvaluatedAnswer(
            sample_id=str(n),
            clip=str(n // 2),
            set="heldout",
            model="after",
            prompt="p",
            text="x" * 30,
            exact_match=n > 0,
            score=4.0 if n >= missing else None,
            supported=True if n >= missing else None,
            unscored=None if n >= missing else {"score": "no", "supported": "no"},
        )
        for n in range(4)
    ]
    counts: dict[str, Any] = {
        "questions": {"in": 4, "out": 2},
        "questions_dropped": {"tie": 2},
        "answers": {"in": 16, "out": 16},
        "answers_dropped": {},
    }
    return Metrics(
        before=answer_metrics(before, intervals),
        after=answer_metrics(after, intervals),
        change=paired_differences(before, after, intervals),
        judged=win_rates(before, after, intervals, tie_margin=0.5, scorer="s@1", judge="j"),
        heldout_pairs=heldout_pair_metrics(
            [PairMargin(clip="0", margin=0.2), PairMargin(clip="1", margin=0.4)], intervals, counts
        ),
        heldout=HeldoutCounts(samples=4 + missing, clips=2, unanswered=missing),
        seconds={"generate": 61.2, "evaluate": 30.4},
    )
