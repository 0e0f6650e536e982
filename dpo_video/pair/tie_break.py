"""Tie-breaks: where a question's scores are too close to say anything, a pairwise scorer compares
two of its answers.

Pairwise verdicts see small differences that pointwise scores do not, and are easier to mislead
(arXiv 2406.12319): they decide only what would be dropped otherwise, in both orders, and only where
the orders agree.
"""

from collections.abc import Sequence
from typing import NamedTuple

from dpo_video.core.records import Sample
from dpo_video.judge.modes.pairwise import Compare, comparer, pairwise_scorer
from dpo_video.judge.types import Judge
from dpo_video.pair.rules import TRUNCATED, Choice, ScoredAnswer
from dpo_video.recipe import Recipe
from dpo_video.store import RunStore

SOURCE = "tie_break"
"""`Pair.source` of such pairs. Their scores stay those of the judge, so the margin may be negative.
"""
TOO_CLOSE = ("tie", "below margin")
"""Reasons of a pair rule that a tie-break may overrule."""

FAILED = "failed"
"""Why a tie stays undecided that the judge may yet break."""


class Tie(NamedTuple):
    """A question without a pair, and the two answers that stand for it."""

    sample: Sample
    high: ScoredAnswer
    low: ScoredAnswer


def tie_of(sample: Sample, answers: Sequence[ScoredAnswer]) -> Tie:
    """Return the highest and the lowest score of a question's answers, two different answers of at
    least two.
    """
    low = min(answers, key=lambda answer: (answer.score, answer.rank))
    above = [answer for answer in answers if answer is not low]
    return Tie(sample, min(above, key=lambda answer: (-answer.score, answer.rank)), low)


def break_ties(ties: Sequence[Tie], compare: Compare) -> list[Choice | str]:
    """Return each tie as a choice, or why it stays undecided.

    The orders disagree, there is no verdict, the better answer is cut, or a call failed: the next
    run asks again.
    """
    results = compare(
        [(tie.sample, tie.high.candidate.text, tie.low.candidate.text) for tie in ties]
    )
    decisions: list[Choice | str] = []
    for tie, result in zip(ties, results, strict=True):
        if result.first_better is None:
            decisions.append(FAILED if result.status == "failed" else "no tie break")
        elif not result.consistent:
            decisions.append("orders disagree")
        else:
            choice = (
                Choice(tie.high, tie.low)
                if result.first_better > 0.5
                else Choice(tie.low, tie.high)
            )
            decisions.append(TRUNCATED if choice.chosen.truncated else choice)
    return decisions


def tie_breaker(recipe: Recipe, store: RunStore, *, judge: Judge | None = None) -> Compare | None:
    """Return what compares tied answers by `pair.tie_break`; None where the recipe names no scorer
    for it.
    """
    if recipe.pair.tie_break is None:
        return None
    return comparer(
        recipe.judge, pairwise_scorer(recipe.pair.tie_break, "pair.tie_break"), store, judge=judge
    )
