"""Pure statistics of pairs and evaluation: intervals by resampling whole clips, win rates, lengths.

Legend: N observations, K columns, R resamples, C clips (clusters of observations).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dpo_video.core.report import Estimate

Floats = NDArray[np.float64]
Statistic = Callable[[Floats, Floats], Floats]
"""From values (N,) or (N, K) and weights (R, N) to one number per row of weights, (R,)."""

BLOCK = 4_000_000
"""Weights held at a time: bounds the memory of a bootstrap."""
CONFIDENCE = 0.95
QUANTILES = {
    "min": 0.0,
    "q10": 0.1,
    "q25": 0.25,
    "median": 0.5,
    "q75": 0.75,
    "q90": 0.9,
    "max": 1.0,
}
TINY = 1e-12
"""Least variance to divide by: a constant has no slope and no correlation."""
RIDGE = 1e-3
"""Penalty that keeps the logistic fit finite when one side wins every question."""


def weighted_mean(values: Floats, weights: Floats) -> Floats:
    """Return the weighted mean of values (N,) under each row of weights (R, N), as (R,)."""
    means: Floats = weights @ values / weights.sum(axis=1)
    return means


def bootstrap_ci(
    values: Sequence[float] | Floats,
    *,
    clusters: Sequence[str],
    statistic: Statistic = weighted_mean,
    resamples: int,
    seed: int,
) -> Estimate:
    """Return `statistic` of the values with a 95 % percentile interval over resampled clips.

    Answers about one clip are not independent, so whole clips are drawn with replacement (the
    cluster bootstrap). A resample is a row of weights: how often the clip of each observation was
    drawn. The same seed draws the same clips, so before, after and their paired difference are
    resampled alike. All values equal gives a width of 0. Resamples in which the statistic is
    undefined (NaN) are left out. The value is None of no observations, and where the statistic is
    undefined; the interval is None where fewer than two clips were seen. `n` is N.

    Args:
        values: (N,) or (N, K, ...), one row per observation.
        clusters: the clip of each observation, (N,).
    """
    table = np.asarray(values, dtype=np.float64)
    assert len(table) == len(clusters), "one clip per observation"
    if not len(table):
        return Estimate(value=None)
    names, clip_of = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)  # (C,), (N,)
    point = float(statistic(table, np.ones((1, len(table))))[0])
    if np.isnan(point):
        return Estimate(value=None, n=len(table))
    num_clips = len(names)
    if num_clips < 2:
        return Estimate(value=point, n=len(table), why_no_interval="one clip")
    drawn = [
        statistic(table, counts[:, clip_of])
        for counts in _resampled(num_clips, resamples=resamples, seed=seed, num_values=len(table))
    ]
    tail = (1 - CONFIDENCE) / 2
    defined = np.concatenate(drawn)
    defined = defined[~np.isnan(defined)]
    if not len(defined):
        return Estimate(value=point, n=len(table), why_no_interval="undefined without all clips")
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Estimate(value=point, interval=(float(low), float(high)), n=len(table))


def _resampled(num_clips: int, *, resamples: int, seed: int, num_values: int) -> Iterator[Floats]:
    """Yield how often each clip is drawn in each resample, (rows, C), as many rows at a time as
    BLOCK has room for the weights of all values; the numbers of one evaluation share their draws.
    """
    step = max(1, BLOCK // num_values)
    if resamples * num_clips <= BLOCK:
        counts = _draws(num_clips, resamples, seed)
        for begin in range(0, resamples, step):
            yield counts[begin : begin + step]
        return
    generator = np.random.default_rng(seed)
    for begin in range(0, resamples, step):
        yield _draw(generator, num_clips, min(step, resamples - begin))


@lru_cache(maxsize=4)
def _draws(num_clips: int, resamples: int, seed: int) -> Floats:
    counts = _draw(np.random.default_rng(seed), num_clips, resamples)
    counts.setflags(write=False)
    return counts


def _draw(generator: np.random.Generator, num_clips: int, resamples: int) -> Floats:
    shares = np.full(num_clips, 1 / num_clips)
    return generator.multinomial(num_clips, shares, size=resamples).astype(np.float64)


def weighted_slope(values: Floats, weights: Floats) -> Floats:
    """Return the slope of the second column on the first, (N, 2), through the origin, per row of
    weights, as (R,); NaN where the first is 0 throughout.
    """
    squares = weights @ values[:, 0] ** 2
    slopes: Floats = weights @ (values[:, 0] * values[:, 1]) / np.maximum(squares, TINY)
    return np.where(squares > TINY, slopes, np.nan)


def weighted_correlation(values: Floats, weights: Floats) -> Floats:
    """Return Pearson's correlation of two columns, (N, 2), per row of weights (R, N), as (R,); NaN
    of a constant.
    """
    total = weights.sum(axis=1, keepdims=True)
    means = weights @ values / total  # (R, 2)
    squares = weights @ values**2 / total - means**2
    shared = weights @ (values[:, 0] * values[:, 1]) / total[:, 0] - means[:, 0] * means[:, 1]
    correlations: Floats = shared / np.sqrt(
        np.maximum(squares[:, 0], TINY) * np.maximum(squares[:, 1], TINY)
    )
    varies = (squares > TINY).all(axis=1)
    return np.where(varies, np.clip(correlations, -1.0, 1.0), np.nan)


def length_controlled_win_rate(values: Floats, weights: Floats) -> Floats:
    """Return the win rate that a logistic regression expects at equal length, per row of weights
    (R, N), as (R,).

    Length-controlled AlpacaEval (Dubois et al. 2024, arXiv 2404.04475, eq. 2) without its terms for
    several models and instruction difficulty: logit P(win) = theta + phi * tanh(difference / its
    standard deviation); the controlled rate is sigmoid(theta), what is left once the length term is
    zero. Fitted by Newton steps, all rows at once.

    Args:
        values: (N, 2): preference for the tuned answer (1 win, 0.5 tie, 0 loss) and its extra
            length (tuned - base).
    """
    wins, longer = values[:, 0], values[:, 1]
    spread = float(longer.std())
    feature = np.tanh(longer / spread) if spread > 0 else np.zeros_like(longer)  # (N,)
    theta = np.zeros(len(weights))
    phi = np.zeros(len(weights))
    for _ in range(100):
        chance = 1 / (1 + np.exp(-(theta[:, None] + phi[:, None] * feature)))  # (R, N)
        error = weights * (wins - chance)
        slope = error.sum(1) - RIDGE * theta, error @ feature - RIDGE * phi
        curve = weights * chance * (1 - chance)
        a, b, c = curve.sum(1) + RIDGE, curve @ feature, curve @ feature**2 + RIDGE
        # Solve the 2 x 2 systems; a step is bounded so that near-separated resamples do not
        # overshoot.
        determinant = a * c - b * b
        move = np.stack(
            [
                (c * slope[0] - b * slope[1]) / determinant,
                (a * slope[1] - b * slope[0]) / determinant,
            ]
        )
        move /= np.maximum(1.0, np.abs(move).max(axis=0))
        theta, phi = theta + move[0], phi + move[1]
        if np.abs(move).max() < 1e-9:
            break
    rates: Floats = 1 / (1 + np.exp(-theta))
    return rates


def preferences(
    before: Sequence[float], after: Sequence[float], *, tie_margin: float
) -> list[float]:
    """Return 1 where `after` scores higher, 0 where lower, 0.5 where they differ by less than the
    tie margin.
    """
    out = []
    for old, new in zip(before, after, strict=True):
        gap = new - old
        out.append(0.5 if gap == 0 or abs(gap) < tie_margin else float(gap > 0))
    return out


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return min, q10, q25, median, q75, q90 and max of the values; empty for none."""
    if not len(values):
        return {}
    return {
        name: float(np.quantile(np.asarray(values), share)) for name, share in QUANTILES.items()
    }


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Pearson's correlation, or None where it is undefined (fewer than two points, or a
    constant).
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, or None of no values."""
    return float(np.mean(np.asarray(values))) if len(values) else None
