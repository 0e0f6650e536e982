"""Two models on one set: what each question gained or lost, the exact McNemar test, Holm's
correction over sets, and a sentence that says what came of it. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import NormalDist, fmean
from typing import Literal

from dpo_video.benchmarks.linked_clips import linked_clips
from dpo_video.core.report import Estimate, estimate_text, number_text
from dpo_video.core.statistics import CONFIDENCE, bootstrap_ci

SIGNIFICANCE = 1 - CONFIDENCE
POWER = 0.8
"""Chance with which a change of the size that a sentence names would have been found."""
BISECTIONS = 40
"""Halvings of an interval of length 1: more digits than a float shows."""
PairedOutcome = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedQuestion:
    """One question with what two models' answers to it are worth: 1 right and 0 wrong, or scores.

    Example: of a pair of questions that count together, one gained and one lost,
    `PairedQuestion(clip="a.mp4", group="pair0", before=0, after=1)` and
    `PairedQuestion(clip="a.mp4", group="pair0", before=1, after=0)`, the unit is 0 before and
    after.
    """

    clip: str
    group: str | None = None
    """Questions of one group are worth what the worst of them is: 1 where all are right."""
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedResult:
    """A set before and after, unit by unit: a unit is a question, or a group that counts
    together.
    """

    before: float
    """Mean over units: the share that is answered right, where units are right or wrong."""
    after: float
    change: Estimate
    """After less before, with the interval of paired differences over resampled clips."""
    gained: int
    """Units worth more after: of those that are right or wrong, wrong before and right after."""
    lost: int
    p_value: float
    """Exact McNemar, two-sided; of scores the sign test, which is the same count."""
    is_share: bool = True
    """Whether units are right or wrong; else they have scores."""


def compare_questions(
    questions: Sequence[PairedQuestion],
    *,
    resamples: int,
    seed: int,
    is_share: bool = True,
    tie_margin: float = 0.0,
) -> PairedResult:
    """Return how a set changed from one model's answers to another's.

    Args:
        questions: at least one.
        is_share: whether they are right or wrong; else worth a score.
        tie_margin: of scores: units that differ by less are neither gained nor lost.
    """
    assert questions, "a set has a question"
    units = _units(questions)
    clips = linked_clips([[question.clip for question in unit] for unit in units])
    old = [min(question.before for question in unit) for unit in units]
    new = [min(question.after for question in unit) for unit in units]
    differences = [after - before for before, after in zip(old, new, strict=True)]
    gained = sum(difference > 0 and difference >= tie_margin for difference in differences)
    lost = sum(difference < 0 and -difference >= tie_margin for difference in differences)
    return PairedResult(
        before=fmean(old),
        after=fmean(new),
        change=bootstrap_ci(
            differences,
            clusters=[clips[unit[0].clip] for unit in units],
            resamples=resamples,
            seed=seed,
        ),
        gained=gained,
        lost=lost,
        p_value=mcnemar(gained, lost),
        is_share=is_share,
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


def outcome(result: PairedResult, adjusted_p: float) -> PairedOutcome:
    """Return `better`, `worse` or `not distinguishable`.

    A change counts where two things say so: the p-value, which is exact but takes questions about a
    clip for independent, and the interval over clips, which does not.
    """
    interval = result.change.interval
    if adjusted_p >= SIGNIFICANCE or interval is None or interval[0] <= 0 <= interval[1]:
        return "not distinguishable"
    return "better" if interval[0] > 0 else "worse"


def detectable_change(result: PairedResult, *, num_sets: int = 1) -> float | None:
    """Return the change that would have been found with a chance of 80 %, as a share or in scores;
    None without an interval, and of so few units that no change of them could be found.

    (z of 97.5 % + z of 80 %) x the standard error, which is the width of the 95 % interval over 2 x
    1.96. Where hardly a unit changed, that is next to nothing: of right and wrong it is at least
    the change that the exact test finds where every changed unit changes alike.

    Args:
        num_sets: that are tested together: of the 5 % each has an equal part, as the smallest
            p-value has under Holm.
    """
    if result.change.interval is None:
        return None
    level = SIGNIFICANCE / num_sets
    fewest = fewest_changes(level)
    if result.change.n < fewest:
        return None
    low, high = result.change.interval
    normal = NormalDist()
    error = (high - low) / (2 * normal.inv_cdf(1 - SIGNIFICANCE / 2))
    size = (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(POWER)) * error
    return max(size, _share_that_reaches(fewest, result.change.n)) if result.is_share else size


def fewest_changes(level: float) -> int:
    """Return how many units must change, all of them alike, for the exact McNemar test to find it:
    6 at 5 %.
    """
    count = 1
    while mcnemar(count, 0) >= level:
        count += 1
    return count


def verdict_line(
    name: str, result: PairedResult, adjusted_p: float, *, num_sets: int = 1, measure: str = ""
) -> str:
    """Return what came of a set in a sentence.

    `temporal: worse, 64.0 % to 58.5 %: -5.5 pts [-8.1, -2.9], 12 gained, 40 lost of 520, p 0.0003`
    """
    decided, share = outcome(result, adjusted_p), result.is_share
    line = (
        f"{name}: {decided}, {measure}{' ' * bool(measure)}"
        f"{number_text(result.before, share=share)} to {number_text(result.after, share=share)}: "
        f"{estimate_text(result.change, share=share, signed=True)}, {result.gained} gained, "
        f"{result.lost} lost of {result.change.n}, p {adjusted_p:.2g}"
    )
    if decided != "not distinguishable" or result.change.interval is None:
        return line
    size = detectable_change(result, num_sets=num_sets)
    if size is None:
        return f"{line}; {result.change.n} are too few to show any change"
    text = f"{100 * size:.1f} pts" if share else f"{size:.2f}"
    return f"{line}; a change of {text} would have been found 4 times in 5"


def _units(questions: Sequence[PairedQuestion]) -> list[list[PairedQuestion]]:
    """Return the questions that count together, in the order of the set; one without a group stands
    alone.
    """
    units: dict[tuple[str | None, int], list[PairedQuestion]] = {}
    for index, question in enumerate(questions):
        key = (None, index) if question.group is None else (question.group, -1)
        units.setdefault(key, []).append(question)
    return list(units.values())


def _share_that_reaches(fewest: int, num_units: int) -> float:
    """Return the chance of a unit to change with which at least `fewest` of them change 4 times in
    5.
    """
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        too_few = sum(
            comb(num_units, count) * middle**count * (1 - middle) ** (num_units - count)
            for count in range(fewest)
        )
        low, high = (low, middle) if 1 - too_few >= POWER else (middle, high)
    return high
