"""From score margins to the probability that gold agrees: temperature, reliability, risk and
coverage.

N pairs that gold does not tie. `margin` is the judge's score difference, NaN where one is missing;
`right` is 1 where gold orders the pair as the judge does, 0 where not, 0.5 where the judge ties it.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from dpo_video.agree.gold import Gold
from dpo_video.agree.measures import BootstrapSettings, MeasureInput, Scores, clip_of, estimate
from dpo_video.core.statistics import Floats, bootstrap_ci, weighted_mean

MIN_PAIRS = 20
"""A margin is suggested only where at least so many gold pairs reach it."""
MAX_POINTS = 200
"""Points of the risk-coverage curve that are kept."""
LARGEST_RATIO = 1e4
"""Temperatures are sought between the mean margin over this and times this."""


class Ordered(NamedTuple):
    """The pairs that gold orders."""

    margin: Floats
    right: Floats
    clips: list[str]


def ordered_pairs(gold: Gold, scores: Scores) -> Ordered:
    """Return size of the judge's margin and whether gold agrees, for every pair that gold
    orders.
    """
    pairs = [pair for pair in gold.pairs() if pair[2]]
    signed = np.array([(scores[one] - scores[other]) * sign for one, other, sign in pairs])
    right = np.where(signed == 0, 0.5, (signed > 0).astype(float))
    return Ordered(np.abs(signed), right, [clip_of(gold, one) for one, _, _ in pairs])


def calibrate(pairs: Ordered, *, bins: int, drawing: BootstrapSettings) -> dict[str, Any]:
    """Return Brier score and expected calibration error before and after a temperature fitted on
    half of the clips.

    P(the judge's choice is gold's) = sigmoid(margin / T), with T = 1 before. Both are measured on
    the other half.
    """
    scored = ~np.isnan(pairs.margin)
    names = [clip for clip, keep in zip(pairs.clips, scored, strict=True) if keep]
    fitted = in_first_half(names, drawing.seed)
    margin, right = pairs.margin[scored], pairs.right[scored]
    unscored = int((~scored).sum())
    if not fitted.any() or fitted.all():
        return {
            "why_none": f"pairs of two clips are needed to fit on one and test on the other; "
            f"scored pairs are of "
            f"{len(set(names))}",
            "unscored": unscored,
        }
    temperature = fit_temperature(margin[fitted], right[fitted])
    test, clips = ~fitted, [name for name, fit in zip(names, fitted, strict=True) if not fit]
    out: dict[str, Any] = {
        "temperature": temperature,
        "fitted_on": int(fitted.sum()),
        "tested_on": int(test.sum()),
        "unscored": unscored,
    }
    for name, value in (("before", 1.0), ("after", temperature)):
        chance = sigmoid(margin[test] / value)
        table = np.column_stack([chance, right[test]])
        brier = MeasureInput(
            (chance - right[test]) ** 2, clips, weighted_mean, unscored, len(clips)
        )
        error = MeasureInput(
            table, clips, partial(calibration_error, bins=bins), unscored, len(clips)
        )
        out[name] = {
            "brier": estimate(brier, drawing),
            "ece": estimate(error, drawing),
            "bins": reliability(table, bins),
        }
    return out


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
    prompt_pieces = grid[max(best - 1, 0)], grid[min(best + 1, 40)]
    return float(
        np.exp(
            minimize_scalar(loss, bounds=prompt_pieces, method="bounded", options={"xatol": 1e-6}).x
        )
    )


def sigmoid(z: Floats) -> Floats:
    """Return 1 / (1 + exp(-z)) for z >= 0."""
    out: Floats = 1 / (1 + np.exp(-z))
    return out


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
    out: Floats = np.abs(gap).sum(axis=1) / weights.sum(axis=1)
    return out


def reliability(table: Floats, bins: int) -> list[dict[str, float]]:
    """Return mean confidence, mean outcome and n of each bin that holds a pair."""
    places = bin_of(table[:, 0], bins)
    return [
        {
            "confidence": float(table[places == place, 0].mean()),
            "accuracy": float(table[places == place, 1].mean()),
            "n": int((places == place).sum()),
        }
        for place in range(bins)
        if (places == place).any()
    ]


def risk_coverage(pairs: Ordered) -> list[dict[str, float]]:
    """Return precision and coverage at every margin that cuts off a pair, from the widest down.

    `min_margin` lies half-way to the next smaller margin, and is 0 where there is none. Coverage is
    the share of all N pairs, unscored and tied ones among them, that are kept; tied pairs never
    are, as they have no chosen answer.
    """
    kept = ~np.isnan(pairs.margin) & (pairs.margin > 0)
    order = np.argsort(-pairs.margin[kept], kind="stable")
    margin, right = pairs.margin[kept][order], pairs.right[kept][order]
    if not len(margin):
        return []
    last = np.flatnonzero(
        np.append(margin[:-1] != margin[1:], True)
    )  # the last pair of each distinct margin
    cuts = np.append((margin[last[:-1]] + margin[last[:-1] + 1]) / 2, 0.0)
    precision = np.cumsum(right)[last] / (last + 1)
    return [
        {
            "min_margin": float(cut),
            "precision": float(share),
            "coverage": (place + 1) / len(pairs.margin),
            "n": int(place + 1),
        }
        for cut, share, place in zip(cuts, precision, last, strict=True)
    ]


def suggest_margin(
    pairs: Ordered, *, precision: float, drawing: BootstrapSettings
) -> dict[str, Any]:
    """Return the margin that keeps most pairs at the wanted precision, with the interval of that
    precision.

    `min_margin` is None where no margin with MIN_PAIRS pairs reaches it; then `best` is the highest
    precision there is. It is chosen on the pairs that it is measured on, so its precision is a
    little too good.
    """
    curve = risk_coverage(pairs)
    able = [point for point in curve if point["n"] >= MIN_PAIRS]
    reached = [point for point in able if point["precision"] >= precision]
    out: dict[str, Any] = {
        "wanted": precision,
        "min_pairs": MIN_PAIRS,
        "min_margin": None,
        "pairs": len(pairs.margin),
        "best": max((point["precision"] for point in able), default=None),
        "curve": [*curve[: -1 : max(1, -(-len(curve) // MAX_POINTS))], *curve[-1:]],
    }
    if not reached:
        return out
    point = max(reached, key=lambda one: one["coverage"])
    kept = np.nan_to_num(pairs.margin, nan=-1.0) > point["min_margin"]
    found = bootstrap_ci(
        pairs.right[kept],
        clusters=[c for c, keep in zip(pairs.clips, kept, strict=True) if keep],
        resamples=drawing.resamples,
        seed=drawing.seed,
    )
    return out | point | {"precision_ci": None if found.interval is None else list(found.interval)}
