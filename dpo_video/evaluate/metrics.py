"""What evaluation measures, as pure functions of answers and their scores: before, after, change,
wins, held-out pairs.

Every number stands with its n and a 95 % interval over resampled clips. A clip is a video file
here: parts of one file are drawn together. An answer that the judge could not score stays in the
    denominator of a rate and never counts in the
model's favour: it is no win, and no supported answer. A mean score has no denominator to stay in:
its unscored count is given beside it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpo_video.core.statistics import (
    Statistic,
    bootstrap_ci,
    length_controlled_win_rate,
    preferences,
    weighted_mean,
)
from dpo_video.judge.modes.pairwise import Comparison, preferred, swap_summary
from dpo_video.recipe import EvaluateSettings

PUNCTUATION = re.compile(r"(?<!\d)[^\w\s]|[^\w\s](?!\d)|_")
"""All but a mark between digits: 3.5 is not 35."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """One answer to one held-out question with all that is measured of it."""

    sample_id: str
    clip: str
    """Name of the video file."""
    length: int
    """Characters."""
    correct: bool | None = None
    """None where the sample has no gold answer."""
    score: float | None = None
    """None: unscored."""
    supported: bool | None = None
    """Whether the hallucination scorer put it at or above its threshold; None: unscored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairMargin:
    """One held-out pair with what the tuned model makes of it."""

    clip: str
    margin: float
    """Implicit reward of chosen minus that of rejected, beta x nats."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """Values with their intervals as metrics: `<name>`, `<name>_ci`, `<name>_n`."""

    settings: EvaluateSettings
    seed: int

    def of(
        self,
        name: str,
        values: Sequence[Any],
        clips: Sequence[str],
        statistic: Statistic = weighted_mean,
    ) -> dict[str, Any]:
        """Return a statistic of the values; all None where there is no value."""
        if not len(values):
            return {name: None, f"{name}_ci": None, f"{name}_n": 0}
        found = bootstrap_ci(
            np.asarray(values, dtype=np.float64),
            clusters=clips,
            statistic=statistic,
            resamples=self.settings.bootstrap,
            seed=self.seed,
        )
        return {
            name: found.value,
            f"{name}_ci": None if found.interval is None else list(found.interval),
            f"{name}_n": len(values),
        }


def normalise_answer(text: str) -> str:
    """Return lower-case words without punctuation: answers equal in this are the same answer."""
    return " ".join(PUNCTUATION.sub("", text.casefold()).split())


def side(answers: Sequence[Graded], intervals: Intervals) -> dict[str, Any]:
    """Return accuracy, judged score, hallucination rate and answer length of one model's
    answers.
    """
    gold = [answer for answer in answers if answer.correct is not None]
    scored = [answer for answer in answers if answer.score is not None]
    out: dict[str, Any] = {"n": len(answers)}
    out |= intervals.of("accuracy", [answer.correct for answer in gold], _clips(gold))
    out |= intervals.of("judged_score", [answer.score for answer in scored], _clips(scored))
    out["judged_score_unscored"] = len(answers) - len(scored)
    if intervals.settings.hallucination_scorer is not None:
        out |= intervals.of(
            "hallucination_rate", [_hallucinated(answer) for answer in answers], _clips(answers)
        )
        out["hallucination_rate_unscored"] = sum(answer.supported is None for answer in answers)
    return out | intervals.of(
        "answer_length", [answer.length for answer in answers], _clips(answers)
    )


def change(
    before: Sequence[Graded], after: Sequence[Graded], intervals: Intervals
) -> dict[str, Any]:
    """Return after minus before, question by question: each difference with the interval of paired
    differences.
    """
    both = list(_together(before, after))
    gold = [(old, new) for old, new in both if old.correct is not None and new.correct is not None]
    scored = [
        (old, new, new.score - old.score)
        for old, new in both
        if old.score is not None and new.score is not None
    ]
    out: dict[str, Any] = {"n": len(both)}
    out |= intervals.of(
        "accuracy",
        [float(bool(new.correct)) - float(bool(old.correct)) for old, new in gold],
        [old.clip for old, _ in gold],
    )
    out |= intervals.of(
        "judged_score", [gap for _, _, gap in scored], [old.clip for old, _, _ in scored]
    )
    if intervals.settings.hallucination_scorer is not None:
        out |= intervals.of(
            "hallucination_rate",
            [_hallucinated(new) - _hallucinated(old) for old, new in both],
            [old.clip for old, _ in both],
        )
    return out | intervals.of(
        "answer_length",
        [new.length - old.length for old, new in both],
        [old.clip for old, _ in both],
    )


def judged(
    before: Sequence[Graded], after: Sequence[Graded], intervals: Intervals, *, tie_margin: float
) -> dict[str, Any]:
    """Return how often the tuned answer beats the base model's, as it is and at equal length.

    Pointwise scores of the two answers are compared; less than `tie_margin` apart is a tie.
    `win_rate` is (wins + ties / 2) / n, unscored questions in n. `compared` is the same by a
    pairwise scorer.
    """
    both = list(_together(before, after))
    scored = [(old, new) for old, new in both if old.score is not None and new.score is not None]
    preferred = preferences(
        [old.score for old, _ in scored if old.score is not None],
        [new.score for _, new in scored if new.score is not None],
        tie_margin=tie_margin,
    )
    known = {old.sample_id: value for (old, _), value in zip(scored, preferred, strict=True)}
    out: dict[str, Any] = {
        "n": len(both),
        "win": preferred.count(1.0),
        "tie": preferred.count(0.5),
        "loss": preferred.count(0.0),
        "unscored": len(both) - len(scored),
        "tie_margin": tie_margin,
    }
    out |= intervals.of(
        "win_rate",
        [known.get(old.sample_id, 0.0) for old, _ in both],
        [old.clip for old, _ in both],
    )
    table = [
        (value, new.length - old.length)
        for value, (old, new) in zip(preferred, scored, strict=True)
    ]
    return out | intervals.of(
        "length_controlled_win_rate",
        table,
        [old.clip for old, _ in scored],
        length_controlled_win_rate,
    )


def compared(
    results: Sequence[Comparison], clips: Sequence[str], intervals: Intervals
) -> dict[str, Any]:
    """Return how often the tuned answer, shown as the first, beats the base model's in both orders.

    A tie is a question whose orders disagree, or whose answers are the same. `win_rate` is (wins +
    ties / 2) / n, unscored questions in n; `better_probability` is the mean over scored questions
    of both orders' mean probability.
    """
    known = [preferred(result) for result in results]
    chances = [
        (result.first_better, clip)
        for result, clip in zip(results, clips, strict=True)
        if result.first_better is not None
    ]
    out: dict[str, Any] = {
        "n": len(known),
        "win": known.count(1.0),
        "tie": known.count(0.5),
        "loss": known.count(0.0),
        "unscored": known.count(None),
    }
    out |= intervals.of("win_rate", [value or 0.0 for value in known], clips)
    out |= intervals.of(
        "better_probability", [chance for chance, _ in chances], [clip for _, clip in chances]
    )
    return out | swap_summary(results)


def heldout_pairs(pairs: Sequence[PairMargin], intervals: Intervals) -> dict[str, Any]:
    """Return how often the implicit reward prefers the chosen answer (a margin above 0), and the
    mean margin.
    """
    clips = [pair.clip for pair in pairs]
    out: dict[str, Any] = {"n": len(pairs)}
    out |= intervals.of("reward_accuracy", [pair.margin > 0 for pair in pairs], clips)
    return out | intervals.of("margin", [pair.margin for pair in pairs], clips)


def _hallucinated(answer: Graded) -> float:
    return 0.0 if answer.supported else 1.0


def _clips(answers: Sequence[Graded]) -> list[str]:
    return [answer.clip for answer in answers]


def _together(before: Sequence[Graded], after: Sequence[Graded]) -> list[tuple[Graded, Graded]]:
    """Join the two models' answers by question."""
    new = {answer.sample_id: answer for answer in after}
    return [(old, new[old.sample_id]) for old in before if old.sample_id in new]
