"""What evaluation measures, as pure functions of answers and their scores: before, after, change,
wins, held-out pairs.

Every number stands with its n and a 95 % interval over resampled clips. A clip is a video file
here: parts of one file are drawn together. An answer that the judge could not score is left out of
every rate and mean, on both sides of a comparison, and counted: a rate is over the scored answers,
with the bounds that the unscored ones could make of it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

import numpy as np

from dpo_video.core.report import Estimate
from dpo_video.core.statistics import (
    Statistic,
    bootstrap_ci,
    length_controlled_win_rate,
    preferences,
    weighted_mean,
)
from dpo_video.evaluate.answer_rows import EvaluatedAnswer, answered_by_both
from dpo_video.evaluate.report import (
    AnswerMetrics,
    HeldoutPairMetrics,
    PairwiseWinRates,
    WinRates,
)
from dpo_video.judge.modes.pairwise import Comparison, preferred, swap_summary
from dpo_video.recipe import EvaluateSettings

PUNCTUATION = re.compile(r"(?<!\d)[^\w\s]|[^\w\s](?!\d)|_")
"""All but a mark between digits: 3.5 is not 35."""
LONGEST_LABEL = 8
"""Words of gold answers, in the median, from which on they are sentences that could be put
otherwise.
"""
LONGER_ANSWERS = 2
"""Median words of the answers over those of the gold answers, above which they say the same in more
words.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairMargin:
    """One held-out pair with what the tuned model makes of it."""

    clip: str
    margin: float
    """Implicit reward of chosen minus that of rejected, beta x nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One question's part of a rate."""

    clip: str
    value: float | None
    """None: unscored."""
    lowest: float = 0.0
    """The least that an unscored one could be."""
    highest: float = 1.0


@dataclass(frozen=True, slots=True)
class Intervals:
    """Estimates with their intervals, all from the same resampled clips."""

    settings: EvaluateSettings
    seed: int

    def estimate(
        self,
        values: Sequence[Any],
        clips: Sequence[str],
        statistic: Statistic = weighted_mean,
        *,
        unscored: int = 0,
    ) -> Estimate:
        """Return a statistic of the values, one for each clip named; without a value of none."""
        estimate = bootstrap_ci(
            np.asarray(values, dtype=np.float64),
            clusters=clips,
            statistic=statistic,
            resamples=self.settings.bootstrap,
            seed=self.seed,
        )
        return replace(estimate, unscored=unscored)

    def rate(self, observations: Sequence[Observation]) -> Estimate:
        """Return the mean over the scored observations, with the bounds that the unscored ones
        could make.
        """
        scored = [row for row in observations if row.value is not None]
        unscored = len(observations) - len(scored)
        estimate = self.estimate(
            [row.value for row in scored], [row.clip for row in scored], unscored=unscored
        )
        if not scored or not unscored:
            return estimate
        low = fmean(row.lowest if row.value is None else row.value for row in observations)
        high = fmean(row.highest if row.value is None else row.value for row in observations)
        return replace(estimate, bounds=(low, high))


def normalise_answer(text: str) -> str:
    """Return lower-case words without punctuation: answers equal in this are the same answer."""
    return " ".join(PUNCTUATION.sub("", text.casefold()).split())


def why_exact_match_misleads(gold: Sequence[str], answers: Sequence[str]) -> str | None:
    """Return why the exact match with these gold answers says little about these answers, or None.

    Gold answers that are sentences can be said in other words, and answers that are much longer
    than theirs put the right thing into a sentence: both count as wrong. Lengths are medians in
    words.
    """
    if not gold or not answers:
        return None
    gold_words = median(len(text.split()) for text in gold)
    answer_words = median(len(text.split()) for text in answers)
    if gold_words > LONGEST_LABEL:
        return (
            f"the gold answers are sentences, of {gold_words:g} words in the median: a right "
            f"answer in other words counts as wrong"
        )
    if answer_words > LONGER_ANSWERS * gold_words:
        return (
            f"answers have {answer_words:g} words in the median and gold answers {gold_words:g}: "
            f"a right answer in more words counts as wrong"
        )
    return None


def answer_metrics(answers: Sequence[EvaluatedAnswer], intervals: Intervals) -> AnswerMetrics:
    """Return exact match, judged score, hallucination rate and length of one model's answers."""
    with_gold = [answer for answer in answers if answer.exact_match is not None]
    scored = [answer for answer in answers if answer.score is not None]
    num_judged = sum(answer.was_judged("score") for answer in answers)
    hallucinated = [
        Observation(clip=row.clip, value=row.hallucinated)
        for row in answers
        if row.was_judged("supported")
    ]
    return AnswerMetrics(
        n=len(answers),
        exact_match=intervals.estimate(
            [answer.exact_match for answer in with_gold], _clips(with_gold)
        ),
        judged_score=intervals.estimate(
            [answer.score for answer in scored],
            _clips(scored),
            unscored=num_judged - len(scored),
        ),
        hallucination_rate=(
            None
            if intervals.settings.hallucination_scorer is None
            else intervals.rate(hallucinated)
        ),
        answer_length=intervals.estimate([answer.length for answer in answers], _clips(answers)),
    )


def paired_differences(
    before: Sequence[EvaluatedAnswer], after: Sequence[EvaluatedAnswer], intervals: Intervals
) -> AnswerMetrics:
    """Return after minus before, question by question: each mean difference with the interval of
    paired differences.
    """
    joined = answered_by_both(before, after)
    matches: list[tuple[str, float]] = []
    scores: list[tuple[str, float]] = []
    num_judged = sum(old.was_judged("score") and new.was_judged("score") for old, new in joined)
    hallucinated = [
        _hallucination_difference(old, new)
        for old, new in joined
        if old.was_judged("supported") and new.was_judged("supported")
    ]
    for old, new in joined:
        if old.exact_match is not None and new.exact_match is not None:
            matches.append((old.clip, float(new.exact_match) - float(old.exact_match)))
        if old.score is not None and new.score is not None:
            scores.append((old.clip, new.score - old.score))
    return AnswerMetrics(
        n=len(joined),
        exact_match=intervals.estimate(
            [difference for _, difference in matches], [clip for clip, _ in matches]
        ),
        judged_score=intervals.estimate(
            [difference for _, difference in scores],
            [clip for clip, _ in scores],
            unscored=num_judged - len(scores),
        ),
        hallucination_rate=(
            None
            if intervals.settings.hallucination_scorer is None
            else intervals.rate(hallucinated)
        ),
        answer_length=intervals.estimate(
            [new.length - old.length for old, new in joined], [old.clip for old, _ in joined]
        ),
    )


def win_rates(
    before: Sequence[EvaluatedAnswer],
    after: Sequence[EvaluatedAnswer],
    intervals: Intervals,
    *,
    tie_margin: float,
    scorer: str,
    judge: str | None,
) -> WinRates:
    """Return how often the tuned answer beats the base model's, as it is and at equal length.

    Pointwise scores of the two answers are compared; less than `tie_margin` apart is a tie.
    `win_rate` is (wins + ties / 2) over the questions whose answers both have a score.
    `pairwise_win_rates` is the same by a pairwise scorer.
    """
    joined = [
        (old, new)
        for old, new in answered_by_both(before, after)
        if old.was_judged("score") and new.was_judged("score")
    ]
    scored: list[tuple[EvaluatedAnswer, EvaluatedAnswer]] = []
    scores: list[tuple[float, float]] = []
    for old, new in joined:
        if old.score is not None and new.score is not None:
            scored.append((old, new))
            scores.append((old.score, new.score))
    outcomes = preferences(
        [old for old, _ in scores], [new for _, new in scores], tie_margin=tie_margin
    )
    outcome_of = {old.sample_id: win for (old, _), win in zip(scored, outcomes, strict=True)}
    extra_lengths = [new.length - old.length for old, new in scored]
    return WinRates(
        scorer=scorer,
        judge=judge,
        hallucination_scorer=intervals.settings.hallucination_scorer,
        n=len(joined),
        **_outcome_counts(outcomes, n=len(joined)),
        tie_margin=tie_margin,
        win_rate=intervals.rate(
            [Observation(clip=old.clip, value=outcome_of.get(old.sample_id)) for old, _ in joined]
        ),
        length_controlled_win_rate=intervals.estimate(
            list(zip(outcomes, extra_lengths, strict=True)),
            [old.clip for old, _ in scored],
            length_controlled_win_rate,
        ),
    )


def pairwise_win_rates(
    comparisons: Sequence[Comparison], clips: Sequence[str], intervals: Intervals, *, scorer: str
) -> PairwiseWinRates:
    """Return how often the tuned answer, shown as the first, beats the base model's in both orders.

    A tie is a question whose orders disagree, or whose answers are the same. `win_rate` is (wins +
    ties / 2) over the scored questions; `better_probability` is the mean over these of both orders'
    mean probability.
    """
    outcomes = [preferred(comparison) for comparison in comparisons]
    probabilities: list[float] = []
    scored_clips: list[str] = []
    for comparison, clip in zip(comparisons, clips, strict=True):
        if comparison.first_better is not None:
            probabilities.append(comparison.first_better)
            scored_clips.append(clip)
    swaps: Mapping[str, Any] = swap_summary(comparisons)
    return PairwiseWinRates(
        scorer=scorer,
        failed=sum(comparison.status == "failed" for comparison in comparisons),
        n=len(outcomes),
        **_outcome_counts([win for win in outcomes if win is not None], n=len(outcomes)),
        win_rate=intervals.rate(
            [Observation(clip=clip, value=win) for clip, win in zip(clips, outcomes, strict=True)]
        ),
        better_probability=intervals.estimate(probabilities, scored_clips),
        compared=swaps["compared"],
        swap_inconsistent=swaps["swap_inconsistent"],
        first_position_gain=swaps["first_position_gain"],
    )


def heldout_pair_metrics(
    margins: Sequence[PairMargin], intervals: Intervals, counts: Mapping[str, Any]
) -> HeldoutPairMetrics:
    """Return how often the implicit reward prefers the chosen answer (a margin above 0), and the
    mean margin.

    Args:
        counts: `questions`, `answers` and what was dropped of them, as pairing summarises them.
    """
    clips = [row.clip for row in margins]
    return HeldoutPairMetrics(
        n=len(margins),
        reward_accuracy=intervals.estimate([row.margin > 0 for row in margins], clips),
        margin=intervals.estimate([row.margin for row in margins], clips),
        questions=counts["questions"],
        questions_dropped=counts["questions_dropped"],
        answers=counts["answers"],
        answers_dropped=counts["answers_dropped"],
    )


def _outcome_counts(outcomes: Sequence[float], *, n: int) -> dict[str, int]:
    """Return wins, ties, losses and unscored questions; they add up to n."""
    return {
        "win": outcomes.count(1.0),
        "tie": outcomes.count(0.5),
        "loss": outcomes.count(0.0),
        "unscored": n - len(outcomes),
    }


def _hallucination_difference(before: EvaluatedAnswer, after: EvaluatedAnswer) -> Observation:
    """Return after minus before; where one is unscored, with what the difference could be."""
    old, new = before.hallucinated, after.hallucinated
    return Observation(
        clip=before.clip,
        value=None if old is None or new is None else new - old,
        lowest=(0.0 if new is None else new) - (1.0 if old is None else old),
        highest=(1.0 if new is None else new) - (0.0 if old is None else old),
    )


def _clips(answers: Sequence[EvaluatedAnswer]) -> list[str]:
    return [answer.clip for answer in answers]
