"""Agreement of a judge with gold labels, as statistics that can be resampled by clip.

N observations, R resamples. A missing score is NaN. It stays in the denominator of a rate and
counts against the judge; a correlation has no denominator to stay in, so the count stands beside
it.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpo_video.agree.gold import Gold
from dpo_video.core.report import Estimate
from dpo_video.core.statistics import Floats, Statistic, bootstrap_ci, weighted_mean
from dpo_video.judge.scorer import Scorer
from dpo_video.video import file_name

Scores = Mapping[str, float]
"""The judge's score by candidate id, NaN where unscored."""


class MeasureInput(NamedTuple):
    """A measure before it is computed: observations, the clip of each, and how they become a
    number.
    """

    values: Floats
    """(N,) or (N, 2)."""
    clips: list[str]
    statistic: Statistic
    unscored: int
    """Observations with a missing score."""
    n: int
    """Observations that count: all but those a measure leaves out by definition (the ties of a
    tie-free accuracy).
    """


class BootstrapSettings(NamedTuple):
    """How intervals are made."""

    resamples: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A measure of a report."""

    estimate: Estimate
    chance: float | None = None
    """What a random choice would reach."""
    without: int | None = None
    """Texts that offered no such probe."""


Measures = dict[str, Measure]
"""By the names of `requirements.MEASURES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmeasured:
    """A part of a report that could not be measured, and why."""

    why_none: str
    unscored: int | None = None
    without: dict[str, int] | None = None


def estimate(measure_input: MeasureInput, bootstrap: BootstrapSettings) -> Estimate:
    """Return value, 95 % interval, n and unscored; the value is None where it is undefined."""
    computed = bootstrap_ci(
        measure_input.values,
        clusters=measure_input.clips,
        statistic=measure_input.statistic,
        resamples=bootstrap.resamples,
        seed=bootstrap.seed,
    )
    n = measure_input.n if len(measure_input.values) else 0
    return replace(computed, n=n, unscored=measure_input.unscored)


def difference(first: MeasureInput, second: MeasureInput, bootstrap: BootstrapSettings) -> Estimate:
    """Return `second` minus `first` over the same observations, each resample drawing the same
    clips for both.
    """
    assert first.clips == second.clips, "a paired difference needs the same observations"
    stacked = np.stack([first.values, second.values], axis=-1)
    statistic = partial(_minus, first.statistic, second.statistic)
    return estimate(MeasureInput(stacked, first.clips, statistic, 0, first.n), bootstrap)


def _minus(first: Statistic, second: Statistic, values: Floats, weights: Floats) -> Floats:
    return second(values[..., 1], weights) - first(values[..., 0], weights)


def gold_measures(gold: Gold, scores: Scores, scorer: Scorer) -> dict[str, MeasureInput]:
    """Return all measures that these gold labels allow, before they are computed."""
    inputs = pair_measures(gold, scores, tie_band=tie_band(scorer))
    bad = sorted(_both_bad(gold))
    if bad:
        inputs["both_bad_low"] = _low_scores(gold, bad, scores, scorer)
    if not gold.grades:
        return inputs
    grades = gold.scores()
    clips = [clip_of(gold, name) for name in grades]
    table = np.array([(grade, scores[name]) for name, grade in grades.items()]).reshape(-1, 2)
    unscored = int(np.isnan(table[:, 1]).sum())
    inputs["best_of_n"] = best_of_n(gold, scores)
    codes, levels = categories(table, scorer)
    if codes is not None:
        inputs["kappa"] = MeasureInput(
            codes, clips, partial(kappa, levels=levels), unscored, len(clips)
        )
    for name in ("spearman", "kendall"):
        inputs[name] = MeasureInput(
            table, clips, partial(correlate, how=name), unscored, len(clips)
        )
    return inputs


def pair_measures(gold: Gold, scores: Scores, *, tie_band: float) -> dict[str, MeasureInput]:
    """Return pair accuracy with the judge's ties counted half, left out, and as a class of their
    own.
    """
    pairs = gold.pairs()
    sign = np.array([pair[2] for pair in pairs], dtype=float)
    margin = np.array([scores[left] - scores[right] for left, right, _ in pairs])
    clips = [clip_of(gold, left) for left, _, _ in pairs]
    unscored, untied = np.isnan(margin), sign != 0
    agreed = np.where(
        unscored, 0.0, np.where(margin == 0, 0.5, (np.sign(margin) == sign).astype(float))
    )
    untied_clips = [clip for clip, is_untied in zip(clips, untied, strict=True) if is_untied]
    num_untied, num_unscored = int(untied.sum()), int((unscored & untied).sum())
    without_ties = np.where(margin == 0, np.nan, agreed)[untied]
    verdict = np.where(np.abs(margin) < tie_band, 0.0, np.sign(margin))
    same_class = np.where(unscored, 0.0, (verdict == sign).astype(float))
    without_ties = unless_nothing_scored(without_ties, ~unscored[untied])
    same_class = unless_nothing_scored(same_class, ~unscored)
    return {
        "pair_accuracy": MeasureInput(
            unless_nothing_scored(agreed[untied], ~unscored[untied]),
            untied_clips,
            weighted_mean,
            num_unscored,
            num_untied,
        ),
        "pair_accuracy_dropped": MeasureInput(
            without_ties,
            untied_clips,
            present_mean,
            num_unscored,
            int((~np.isnan(without_ties)).sum()),
        ),
        "pair_accuracy_three_class": MeasureInput(
            same_class, clips, weighted_mean, int(unscored.sum()), len(clips)
        ),
    }


def _both_bad(gold: Gold) -> set[str]:
    """Return the answers of pairs that annotators call both bad."""
    names: set[str] = set()
    for row in gold.preferences:
        if row.both_bad:
            names |= {row.chosen_id, row.rejected_id}
    return names


def _low_scores(gold: Gold, names: list[str], scores: Scores, scorer: Scorer) -> MeasureInput:
    """Return of answers that are bad whether the judge scores them below the threshold; an unscored
    one counts against it.
    """
    judged = np.array([scores[name] for name in names])
    unscored = np.isnan(judged)
    low = np.where(unscored, 0.0, (judged < scorer.threshold).astype(float))
    clips = [clip_of(gold, name) for name in names]
    return MeasureInput(
        unless_nothing_scored(low, ~unscored), clips, weighted_mean, int(unscored.sum()), len(names)
    )


def tie_band(scorer: Scorer) -> float:
    """Return the margin below which two scores are one grade: half the least step between labels,
    or of integers.
    """
    if scorer.labels:
        values = sorted(set(scorer.labels.values()))
        return float(min(np.diff(values))) / 2 if len(values) > 1 else 0.0
    return 0.5 if scorer.scale and scorer.scale.integer else 0.0


def best_of_n(gold: Gold, scores: Scores) -> MeasureInput:
    """Return, per sample with answers of different gold, whether the judge's best answer is one of
    gold's best.

    Of answers tied at the judge's top, the share that gold puts on top counts; unscored answers are
    never picked, and a sample without any score counts 0.
    """
    grades = gold.scores()
    values, clips, unscored, has_scores = [], [], 0, []
    for names in answers_by_sample(gold, grades):
        best = max(grades[name] for name in names)
        if all(grades[name] == best for name in names):
            continue
        scored = [name for name in names if not np.isnan(scores[name])]
        unscored += len(scored) < len(names)
        top = max((scores[name] for name in scored), default=None)
        is_best = [grades[name] == best for name in scored if scores[name] == top]
        values.append(float(np.mean(is_best)) if is_best else 0.0)
        clips.append(clip_of(gold, names[0]))
        has_scores.append(bool(scored))
    shares = unless_nothing_scored(np.array(values), np.array(has_scores, dtype=bool))
    return MeasureInput(shares, clips, weighted_mean, unscored, len(values))


def chance_best_of_n(gold: Gold) -> float | None:
    """Return the best-of-N accuracy of a random pick."""
    grades, shares = gold.scores(), []
    for names in answers_by_sample(gold, grades):
        of_sample = [grades[name] for name in names]
        if len(set(of_sample)) > 1:
            shares.append(of_sample.count(max(of_sample)) / len(of_sample))
    return float(np.mean(shares)) if shares else None


def answers_by_sample(gold: Gold, grades: Mapping[str, float]) -> list[list[str]]:
    """Return the ids of the graded answers of each sample."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in grades:
        groups[gold.answers[name][0].id].append(name)
    return list(groups.values())


def categories(table: Floats, scorer: Scorer) -> tuple[Floats | None, int]:
    """Return gold and judge (N, 2) as category numbers and their count; None where they share no
    categories.

    Gold of two values is compared with whether the judge's score reaches the scorer's threshold;
    gold of whole numbers in the scorer's scale with the judge's score rounded to the nearest of the
    scale.
    """
    gold, judged = table[:, 0], table[:, 1]
    values = np.unique(gold)
    whole = np.arange(np.ceil(scorer.low), np.floor(scorer.high) + 1)
    if len(values) == 2 and (set(values) == {0.0, 1.0} or not np.isin(values, whole).all()):
        coded = np.where(np.isnan(judged), np.nan, judged >= scorer.threshold)
        return np.column_stack([gold == values[1], coded]).astype(float), 2
    if len(whole) < 2 or not np.isin(gold, whole).all():
        return None, 0
    nearest = np.clip(np.floor(judged + 0.5), whole[0], whole[-1])
    return np.column_stack([gold - whole[0], nearest - whole[0]]), len(whole)


def kappa(values: Floats, weights: Floats, *, levels: int) -> Floats:
    """Return Cohen's kappa of category numbers (N, 2) per row of weights (R, N), with quadratic
    weights, as (R,).

    Cohen (1968), Weighted kappa: 1 - observed / expected disagreement, (i - j)^2 / (levels - 1)^2
    each; with two levels it is the plain kappa. An unscored answer disagrees fully with every
    category.
    """
    gold = values[:, 0].astype(int)
    judged = np.where(np.isnan(values[:, 1]), levels, np.nan_to_num(values[:, 1])).astype(int)
    rows, columns = np.arange(levels), np.arange(levels + 1)
    cost = (rows[:, None] - columns[None, :]) ** 2 / (levels - 1) ** 2
    cost[:, levels] = 1.0
    of_gold = weights @ np.eye(levels)[gold]  # (R, levels)
    of_judge = weights @ np.eye(levels + 1)[judged]
    observed = weights @ cost[gold, judged] / weights.sum(axis=1)
    expected = np.einsum("ri,ij,rj->r", of_gold, cost, of_judge) / weights.sum(axis=1) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        kappas: Floats = np.where(expected > 0, 1 - observed / expected, np.nan)
    return unless_nothing_scored(kappas, ~np.isnan(values[:, 1]))


def correlate(values: Floats, weights: Floats, *, how: str) -> Floats:
    """Return Spearman's rho or Kendall's tau-b of the scored rows of (N, 2) per row of weights, NaN
    where undefined.
    """
    from scipy.stats import kendalltau, rankdata

    is_scored = ~np.isnan(values).any(axis=1)
    table, counts = values[is_scored], weights[:, is_scored].astype(int)
    coefficients = np.full(len(weights), np.nan)
    for row, times in enumerate(counts):
        drawn = np.repeat(table, times, axis=0)
        if len(drawn) > 1 and (np.ptp(drawn, axis=0) > 0).all():
            coefficients[row] = (
                kendalltau(drawn[:, 0], drawn[:, 1]).statistic
                if how == "kendall"
                else np.corrcoef(rankdata(drawn[:, 0]), rankdata(drawn[:, 1]))[0, 1]
            )
    return coefficients


def unless_nothing_scored(values: Floats, is_scored: NDArray[np.bool_]) -> Floats:
    """Return the values, or NaN for each where no observation has a score.

    An unscored answer counts against a judge that scores others; of a judge that scores nothing
    there is nothing to measure.
    """
    return values if is_scored.any() else np.full_like(values, np.nan)


def present_mean(values: Floats, weights: Floats) -> Floats:
    """Return the weighted mean of the values (N,) that are not NaN, as (R,)."""
    total = weights @ ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Floats = np.where(total > 0, (weights @ np.nan_to_num(values)) / total, np.nan)
    return means


def auc(values: Floats, weights: Floats) -> Floats:
    """Return the area under the ROC curve of (N, 2): 1 or 0, and the score; ties count half
    (Mann-Whitney), as (R,).

    An unscored positive counts as below everything, an unscored negative as above: against the
    judge.
    """
    positive = values[:, 0] == 1
    score = np.where(np.isnan(values[:, 1]), np.where(positive, -np.inf, np.inf), values[:, 1])
    order = np.argsort(score, kind="stable")
    _, starts = np.unique(score[order], return_index=True)

    def by_score(members: NDArray[np.bool_]) -> Floats:
        return np.add.reduceat(weights[:, order] * members[order], starts, axis=1)

    good, bad = by_score(positive), by_score(~positive)  # (R, distinct scores)
    below = np.cumsum(bad, axis=1) - bad / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        areas: Floats = (good * below).sum(axis=1) / (good.sum(axis=1) * bad.sum(axis=1))
    return unless_nothing_scored(areas, ~np.isnan(values[:, 1]))


def clip_of(gold: Gold, name: str) -> str:
    """Return the video file of a labelled answer: what is resampled as one."""
    return file_name(gold.answers[name][0].video)
