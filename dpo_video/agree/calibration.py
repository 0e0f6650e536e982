"""From score margins to the probability that gold agrees: temperature, reliability, risk and
coverage.

N pairs that gold does not tie. `margin` is the judge's score difference, NaN where one is missing;
`right` is 1 where gold orders the pair as the judge does, 0 where not, 0.5 where the judge ties it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from dpo_video.agree.gold import Gold
from dpo_video.agree.measures import (
    BootstrapSettings,
    MeasureInput,
    Scores,
    Unmeasured,
    clip_of,
    estimate,
)
from dpo_video.core.report import Estimate
from dpo_video.core.statistics import Floats, bootstrap_ci, weighted_mean

MIN_PAIRS = 20
"""A margin is suggested only where at least so many gold pairs reach it."""
MAX_POINTS = 200
"""Points of the risk-coverage curve that are kept."""
LARGEST_RATIO = 1e4
"""Temperatures are sought between the mean margin over this and times this."""


class OrderedPairs(NamedTuple):
    """The pairs that gold orders."""

    margin: Floats
    right: Floats
    clips: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Pairs of about equal confidence: the mean of it, the share that gold agrees with, and n."""

    confidence: float
    accuracy: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationAt:
    """How well calibrated the judge is at one temperature."""

    brier: Estimate
    ece: Estimate
    bins: list[ReliabilityBin]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Calibration before and after a temperature, on the pairs that it was not fitted on."""

    temperature: float
    fitted_on: int
    tested_on: int
    unscored: int
    before: CalibrationAt
    after: CalibrationAt


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginPoint:
    """Pairs with a larger margin: the share that gold agrees with, and the share of all pairs that
    they are.
    """

    min_margin: float
    precision: float
    coverage: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginSuggestion:
    """The margin that keeps most pairs at the wanted precision."""

    wanted: float
    min_pairs: int
    pairs: int
    best: float | None
    """The highest precision of any margin with `min_pairs` pairs."""
    curve: list[MarginPoint]
    point: MarginPoint | None
    """None where no margin reaches the wanted precision."""
    precision: Estimate | None
    """Of the pairs that the suggested margin keeps."""


def ordered_pairs(gold: Gold, scores: Scores) -> OrderedPairs:
    """Return size of the judge's margin and whether gold agrees, for every pair that gold
    orders.
    """
    pairs = [pair for pair in gold.pairs() if pair[2]]
    signed = np.array([(scores[left] - scores[right]) * sign for left, right, sign in pairs])
    agreed = np.where(signed == 0, 0.5, (signed > 0).astype(float))
    return OrderedPairs(np.abs(signed), agreed, [clip_of(gold, left) for left, _, _ in pairs])


def calibrate(
    pairs: OrderedPairs, *, bins: int, bootstrap: BootstrapSettings
) -> Calibration | Unmeasured:
    """Return Brier score and expected calibration error before and after a temperature fitted on
    half of the clips.

    P(the judge's choice is gold's) = sigmoid(margin / T), with T = 1 before. Both are measured on
    the other half.
    """
    scored = ~np.isnan(pairs.margin)
    clips = [clip for clip, is_scored in zip(pairs.clips, scored, strict=True) if is_scored]
    fitted = in_first_half(clips, bootstrap.seed)
    margin, right = pairs.margin[scored], pairs.right[scored]
    unscored = int((~scored).sum())
    if not fitted.any() or fitted.all():
        return Unmeasured(
            why_none="pairs of two clips are needed to fit on one and test on the other; scored "
            f"pairs are of {len(set(clips))}",
            unscored=unscored,
        )
    temperature = fit_temperature(margin[fitted], right[fitted])
    tested = OrderedPairs(
        margin[~fitted],
        right[~fitted],
        [clip for clip, is_fitted in zip(clips, fitted, strict=True) if not is_fitted],
    )
    before, after = (
        _calibration_at(value, tested, bins=bins, unscored=unscored, bootstrap=bootstrap)
        for value in (1.0, temperature)
    )
    return Calibration(
        temperature=temperature,
        fitted_on=int(fitted.sum()),
        tested_on=len(tested.margin),
        unscored=unscored,
        before=before,
        after=after,
    )


def _calibration_at(
    temperature: float,
    tested: OrderedPairs,
    *,
    bins: int,
    unscored: int,
    bootstrap: BootstrapSettings,
) -> CalibrationAt:
    chance, clips = sigmoid(tested.margin / temperature), tested.clips
    table = np.column_stack([chance, tested.right])
    squares = (chance - tested.right) ** 2
    brier = MeasureInput(squares, clips, weighted_mean, unscored, len(clips))
    ece = MeasureInput(table, clips, partial(calibration_error, bins=bins), unscored, len(clips))
    return CalibrationAt(
        brier=estimate(brier, bootstrap),
        ece=estimate(ece, bootstrap),
        bins=reliability(table, bins),
    )


def in_first_half(clips: Sequence[str], seed: int) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Return (N,) True for the pairs of half of the clips, drawn by hash: the same clips whatever
    else there is.
    """
    names = sorted(set(clips), key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    first = set(names[: len(names) // 2])
    return np.array([clip in first for clip in clips], dtype=bool)


def fit_temperature(margin: Floats, right: Floats) -> float:
    """Return the T > 0 that makes sigmoid(margin / T) most likely (Guo et al. 2017, arXiv
    1706.04599, sec. 4.2).

    Where every pair of the half is right, the likelihood grows as T falls: T then is the bound of
    the search.
    """
    from scipy.optimize import minimize_scalar

    scale = float(margin.mean()) or 1.0

    def loss(log_temperature: float) -> float:
        z = margin / np.exp(log_temperature)
        return float((np.logaddexp(0, -z) * right + np.logaddexp(0, z) * (1 - right)).mean())

    low, high = np.log(scale / LARGEST_RATIO), np.log(scale * LARGEST_RATIO)
    grid = np.linspace(low, high, 41)  # the loss is flat far out: start where it is lowest
    best = int(np.argmin([loss(point) for point in grid]))
    bounds = grid[max(best - 1, 0)], grid[min(best + 1, 40)]
    minimum = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(minimum.x))


def sigmoid(z: Floats) -> Floats:
    """Return 1 / (1 + exp(-z)) for z >= 0."""
    probabilities: Floats = 1 / (1 + np.exp(-z))
    return probabilities


def bin_of(chance: Floats, bins: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return the bin of each confidence: equal widths from 0.5 to 1, the upper edge in the bin
    below.
    """
    return np.clip(np.ceil((chance - 0.5) * 2 * bins) - 1, 0, bins - 1).astype(np.int64)


def calibration_error(table: Floats, weights: Floats, *, bins: int) -> Floats:
    """Return the expected calibration error of (N, 2) confidence and outcome per row of weights, as
    (R,).

    Naeini et al. 2015: the mean over bins, by their share, of |mean outcome - mean confidence|.
    """
    member = np.eye(bins)[bin_of(table[:, 0], bins)]  # (N, bins)
    gap = weights @ (member * (table[:, 1] - table[:, 0])[:, None])  # (R, bins)
    errors: Floats = np.abs(gap).sum(axis=1) / weights.sum(axis=1)
    return errors


def reliability(table: Floats, bins: int) -> list[ReliabilityBin]:
    """Return mean confidence, mean outcome and n of each bin that holds a pair."""
    member, filled = bin_of(table[:, 0], bins), []
    for index in range(bins):
        inside = table[member == index]
        if len(inside):
            filled.append(
                ReliabilityBin(
                    confidence=float(inside[:, 0].mean()),
                    accuracy=float(inside[:, 1].mean()),
                    n=len(inside),
                )
            )
    return filled


def risk_coverage(pairs: OrderedPairs) -> list[MarginPoint]:
    """Return precision and coverage at every margin that cuts off a pair, from the widest down.

    `min_margin` lies half-way to the next smaller margin, and is 0 where there is none. Coverage is
    the share of all N pairs, unscored and tied ones among them, that are kept; tied pairs never
    are, as they have no chosen answer.
    """
    usable = ~np.isnan(pairs.margin) & (pairs.margin > 0)
    order = np.argsort(-pairs.margin[usable], kind="stable")
    margin, right = pairs.margin[usable][order], pairs.right[usable][order]
    if not len(margin):
        return []
    ends = np.flatnonzero(
        np.append(margin[:-1] != margin[1:], True)
    )  # the last pair of each distinct margin
    min_margins = np.append((margin[ends[:-1]] + margin[ends[:-1] + 1]) / 2, 0.0)
    precision = np.cumsum(right)[ends] / (ends + 1)
    return [
        MarginPoint(
            min_margin=float(min_margin),
            precision=float(share),
            coverage=(end + 1) / len(pairs.margin),
            n=int(end + 1),
        )
        for min_margin, share, end in zip(min_margins, precision, ends, strict=True)
    ]


def suggest_margin(
    pairs: OrderedPairs, *, precision: float, bootstrap: BootstrapSettings
) -> MarginSuggestion:
    """Return the margin that keeps most pairs at the wanted precision, with the interval of that
    precision.

    It is chosen among margins with MIN_PAIRS pairs, on the pairs that it is measured on, so its
    precision is a little too good.
    """
    curve = risk_coverage(pairs)
    large = [point for point in curve if point.n >= MIN_PAIRS]
    precise = [point for point in large if point.precision >= precision]
    point = max(precise, key=lambda point: point.coverage) if precise else None
    return MarginSuggestion(
        wanted=precision,
        min_pairs=MIN_PAIRS,
        pairs=len(pairs.margin),
        best=max((point.precision for point in large), default=None),
        curve=[*curve[: -1 : max(1, -(-len(curve) // MAX_POINTS))], *curve[-1:]],
        point=point,
        precision=None if point is None else _precision(pairs, point.min_margin, bootstrap),
    )


def _precision(pairs: OrderedPairs, min_margin: float, bootstrap: BootstrapSettings) -> Estimate:
    above = np.nan_to_num(pairs.margin, nan=-1.0) > min_margin
    clips = [clip for clip, is_above in zip(pairs.clips, above, strict=True) if is_above]
    return bootstrap_ci(
        pairs.right[above], clusters=clips, resamples=bootstrap.resamples, seed=bootstrap.seed
    )
