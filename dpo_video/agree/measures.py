"""Agreement of a judge with gold labels, as statistics that can be resampled by clip.

N observations, R resamples. A missing score is NaN. It stays in the denominator of a rate and
counts against the judge; a correlation has no denominator to stay in, so the count stands beside
it.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpo_video.agree.gold import Gold
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


def estimate(line: MeasureInput, drawing: BootstrapSettings) -> dict[str, Any]:
    """Return value, 95 % interval, n and unscored; the value is None where it is undefined."""
    if not len(line.values):
        return {"value": None, "ci": None, "n": 0, "unscored": line.unscored}
    found = bootstrap_ci(
        line.values,
        clusters=line.clips,
        statistic=line.statistic,
        resamples=drawing.resamples,
        seed=drawing.seed,
    )
    if found.value is None:
        return {"value": None, "ci": None, "n": line.n, "unscored": line.unscored}
    return {
        "value": found.value,
        "ci": None if found.interval is None else list(found.interval),
        "n": line.n,
        "unscored": line.unscored,
    }


def difference(
    line: MeasureInput, other: MeasureInput, drawing: BootstrapSettings
) -> dict[str, Any]:
    """Return `other` minus `line` over the same observations, each resample drawing the same clips
    for both.
    """
    assert line.clips == other.clips, "a paired difference needs the same observations"
    both = np.stack([line.values, other.values], axis=-1)
    out = estimate(
        MeasureInput(both, line.clips, partial(_minus, line.statistic, other.statistic), 0, line.n),
        drawing,
    )
    return out | {"unscored": [line.unscored, other.unscored]}


def _minus(first: Statistic, second: Statistic, values: Floats, weights: Floats) -> Floats:
    return second(values[..., 1], weights) - first(values[..., 0], weights)


def gold_lines(gold: Gold, scores: Scores, scorer: Scorer) -> dict[str, MeasureInput]:
    """Return the lines of all measures that these gold labels allow."""
    lines = pair_lines(gold, scores, tie_band=tie_band(scorer))
    if not gold.grades:
        return lines
    wanted = gold.scores()
    clips = [clip_of(gold, name) for name in wanted]
    table = np.array([(value, scores[name]) for name, value in wanted.items()]).reshape(-1, 2)
    missing = int(np.isnan(table[:, 1]).sum())
    lines["best_of_n"] = best_of_n(gold, scores)
    codes, levels = categories(table, scorer)
    if codes is not None:
        lines["kappa"] = MeasureInput(
            codes, clips, partial(kappa, levels=levels), missing, len(clips)
        )
    for name in ("spearman", "kendall"):
        lines[name] = MeasureInput(table, clips, partial(correlate, how=name), missing, len(clips))
    return lines


def pair_lines(gold: Gold, scores: Scores, *, tie_band: float) -> dict[str, MeasureInput]:
    """Return pair accuracy with the judge's ties counted half, left out, and as a class of their
    own.
    """
    pairs = gold.pairs()
    sign = np.array([pair[2] for pair in pairs], dtype=float)
    margin = np.array([scores[one] - scores[other] for one, other, _ in pairs])
    clips = [clip_of(gold, one) for one, _, _ in pairs]
    missing, untied = np.isnan(margin), sign != 0
    right = np.where(
        missing, 0.0, np.where(margin == 0, 0.5, (np.sign(margin) == sign).astype(float))
    )
    some = [clip for clip, keep in zip(clips, untied, strict=True) if keep]
    n, unscored = int(untied.sum()), int((missing & untied).sum())
    dropped = np.where(margin == 0, np.nan, right)[untied]
    said = np.where(np.abs(margin) < tie_band, 0.0, np.sign(margin))
    same = np.where(missing, 0.0, (said == sign).astype(float))
    return {
        "pair_accuracy": MeasureInput(right[untied], some, weighted_mean, unscored, n),
        "pair_accuracy_dropped": MeasureInput(
            dropped, some, present_mean, unscored, int((~np.isnan(dropped)).sum())
        ),
        "pair_accuracy_three_class": MeasureInput(
            same, clips, weighted_mean, int(missing.sum()), len(clips)
        ),
    }


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
    wanted, of_sample = gold.scores(), defaultdict(list)
    for name in wanted:
        of_sample[gold.items[name][0].id].append(name)
    values, clips, missing = [], [], 0
    for names in of_sample.values():
        best = max(wanted[name] for name in names)
        if all(wanted[name] == best for name in names):
            continue
        scored = [name for name in names if not np.isnan(scores[name])]
        missing += len(scored) < len(names)
        top = max((scores[name] for name in scored), default=None)
        picked = [wanted[name] == best for name in scored if scores[name] == top]
        values.append(float(np.mean(picked)) if picked else 0.0)
        clips.append(clip_of(gold, names[0]))
    return MeasureInput(np.array(values), clips, weighted_mean, missing, len(values))


def chance_best_of_n(gold: Gold) -> float | None:
    """Return the best-of-N accuracy of a random pick."""
    wanted, of_sample = gold.scores(), defaultdict(list)
    for name, value in wanted.items():
        of_sample[gold.items[name][0].id].append(value)
    shares = [
        values.count(max(values)) / len(values)
        for values in of_sample.values()
        if len(set(values)) > 1
    ]
    return float(np.mean(shares)) if shares else None


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
        out: Floats = np.where(expected > 0, 1 - observed / expected, np.nan)
    return out


def correlate(values: Floats, weights: Floats, *, how: str) -> Floats:
    """Return Spearman's rho or Kendall's tau-b of the scored rows of (N, 2) per row of weights, NaN
    where undefined.
    """
    from scipy.stats import kendalltau, rankdata

    present = ~np.isnan(values).any(axis=1)
    table, counts = values[present], weights[:, present].astype(int)
    out = np.full(len(weights), np.nan)
    for row, times in enumerate(counts):
        drawn = np.repeat(table, times, axis=0)
        if len(drawn) > 1 and (np.ptp(drawn, axis=0) > 0).all():
            out[row] = (
                kendalltau(drawn[:, 0], drawn[:, 1]).statistic
                if how == "kendall"
                else np.corrcoef(rankdata(drawn[:, 0]), rankdata(drawn[:, 1]))[0, 1]
            )
    return out


def present_mean(values: Floats, weights: Floats) -> Floats:
    """Return the weighted mean of the values (N,) that are not NaN, as (R,)."""
    present = ~np.isnan(values)
    total = weights @ present
    with np.errstate(invalid="ignore", divide="ignore"):
        out: Floats = np.where(total > 0, (weights @ np.nan_to_num(values)) / total, np.nan)
    return out


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

    def grouped(some: NDArray[np.bool_]) -> Floats:
        return np.add.reduceat(weights[:, order] * some[order], starts, axis=1)

    good, bad = grouped(positive), grouped(~positive)  # (R, distinct scores)
    below = np.cumsum(bad, axis=1) - bad / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        out: Floats = (good * below).sum(axis=1) / (good.sum(axis=1) * bad.sum(axis=1))
    return out


def clip_of(gold: Gold, name: str) -> str:
    """Return the video file of a labelled answer: what is resampled as one."""
    return file_name(gold.items[name][0].video)
