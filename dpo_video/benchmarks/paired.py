"""Two models on one set: what each question gained or lost, the exact McNemar test, Holm's
correction over sets, and a sentence that says what came of it. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import NormalDist

from dpo_video.benchmarks.metrics import count_together, is_right
from dpo_video.benchmarks.questions import GradedQuestion
from dpo_video.core.report import Estimate, estimate_text, number_text
from dpo_video.core.statistics import CONFIDENCE, bootstrap_ci

SIGNIFICANCE = 1 - CONFIDENCE
POWER = 0.8
"""Chance with which a change of the size that a sentence names would have been found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedResult:
    """A set before and after, unit by unit: a unit is a question, or a group that counts
    together.
    """

    before: float
    """Share of units answered right."""
    after: float
    change: Estimate
    """After less before, with the interval of paired differences over resampled clips."""
    gained: int
    """Units wrong before and right after."""
    lost: int
    p_value: float
    """Exact McNemar, two-sided."""


def compare_graded(
    before: Sequence[GradedQuestion],
    after: Sequence[GradedQuestion],
    *,
    resamples: int,
    seed: int,
) -> PairedResult:
    """Return how a set changed from one model's answers to another's, to the same questions."""
    old_groups, new_groups = count_together(before), count_together(after)
    assert [group[0].question.id for group in old_groups] == [
        group[0].question.id for group in new_groups
    ], "both models answered the same questions"
    assert old_groups, "a set has a question"
    were_right = [is_right(group) for group in old_groups]
    are_right = [is_right(group) for group in new_groups]
    differences = [float(new - old) for old, new in zip(were_right, are_right, strict=True)]
    gained, lost = differences.count(1.0), differences.count(-1.0)
    return PairedResult(
        before=sum(were_right) / len(were_right),
        after=sum(are_right) / len(are_right),
        change=bootstrap_ci(
            differences,
            clusters=[group[0].question.video for group in old_groups],
            resamples=resamples,
            seed=seed,
        ),
        gained=gained,
        lost=lost,
        p_value=mcnemar(gained, lost),
    )


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided p-value of the exact McNemar test.

    McNemar 1947 (Psychometrika 12:153): of the units that changed, each is as likely gained as
    lost. P = min(1, 2 x sum of C(n, k) / 2^n for k up to the smaller count). 1 where none changed.
    """
    changed = gained + lost
    tail = sum(comb(changed, count) for count in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values that hold for all sets together, in the order given.

    Holm 1979 (Scandinavian Journal of Statistics 6:65): the k-th smallest of m is multiplied by m -
    k + 1, and none is smaller than the one before it.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    ranked = sorted(p_values, key=lambda name: p_values[name])
    for rank, name in enumerate(ranked):
        largest = max(largest, min(1.0, (len(ranked) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def outcome(result: PairedResult, adjusted_p: float) -> str:
    """Return `better`, `worse` or `not distinguishable`.

    A change counts where two things say so: the p-value, which is exact but takes questions about a
    clip for independent, and the interval over clips, which does not.
    """
    interval = result.change.interval
    if adjusted_p >= SIGNIFICANCE or interval is None or interval[0] <= 0 <= interval[1]:
        return "not distinguishable"
    return "better" if interval[0] > 0 else "worse"


def detectable_change(result: PairedResult) -> float | None:
    """Return the change that would have been found with a chance of 80 %, as a share; None without
    an interval.

    (z of 97.5 % + z of 80 %) x the standard error, which is the width of the 95 % interval over 2 x
    1.96.
    """
    if result.change.interval is None:
        return None
    low, high = result.change.interval
    normal = NormalDist()
    quantile = normal.inv_cdf(1 - SIGNIFICANCE / 2)
    return (quantile + normal.inv_cdf(POWER)) * (high - low) / (2 * quantile)


def verdict_line(name: str, result: PairedResult, adjusted_p: float) -> str:
    """Return what came of a set in a sentence.

    `temporal: worse, 64.0 % to 58.5 %: -5.5 pts [-8.1, -2.9], 12 gained, 40 lost, p 0.0003`
    """
    decided = outcome(result, adjusted_p)
    line = (
        f"{name}: {decided}, {number_text(result.before, share=True)} to "
        f"{number_text(result.after, share=True)}: "
        f"{estimate_text(result.change, share=True, signed=True)}, {result.gained} gained, "
        f"{result.lost} lost, p {adjusted_p:.2g}"
    )
    size = detectable_change(result)
    if decided != "not distinguishable" or size is None:
        return line
    return f"{line}; a change of {100 * size:.1f} pts would have been found 4 times in 5"
