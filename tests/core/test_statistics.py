"""Statistics against slow, obvious recomputation in plain Python."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_video.core.report import Estimate
from dpo_video.core.statistics import (
    bootstrap_ci,
    correlation,
    length_controlled_win_rate,
    mean,
    preferences,
    quantiles,
    weighted_mean,
)


def slow_fit(wins: list[float], longer: list[float]) -> float:
    """Return the length-controlled win rate by gradient ascent on the penalised likelihood, one
    number at a time.
    """
    spread = math.sqrt(sum((x - sum(longer) / len(longer)) ** 2 for x in longer) / len(longer))
    feature = [math.tanh(x / spread) if spread else 0.0 for x in longer]
    theta = phi = 0.0
    for _ in range(60_000):
        chance = [1 / (1 + math.exp(-(theta + phi * x))) for x in feature]
        theta += 0.1 * (sum(w - c for w, c in zip(wins, chance, strict=True)) - 1e-3 * theta)
        phi += 0.1 * (
            sum((w - c) * x for w, c, x in zip(wins, chance, feature, strict=True)) - 1e-3 * phi
        )
    return 1 / (1 + math.exp(-theta))


def controlled(wins: list[float], longer: list[float]) -> float:
    table = np.array(list(zip(wins, longer, strict=True)))
    return float(length_controlled_win_rate(table, np.ones((1, len(wins))))[0])


def test_the_interval_is_that_of_resampled_clips_drawn_one_by_one() -> None:
    """Draw clips with replacement, pool their observations, take the mean: same quantiles within
    sampling error.

    The standard error of a quantile here is about 0.003 at 20,000 resamples; 0.015 allows for both
    sides.
    """
    chance = random.Random(0)
    values, clusters = [], []
    for clip in range(12):
        level = chance.random()
        for _ in range(chance.randint(1, 6)):
            values.append(level + 0.1 * chance.random())
            clusters.append(f"clip{clip}")
    drawn = []
    names = sorted(set(clusters))
    for _ in range(20_000):
        pooled = [
            value
            for name in chance.choices(names, k=12)
            for value, clip in zip(values, clusters, strict=True)
            if clip == name
        ]
        drawn.append(sum(pooled) / len(pooled))
    drawn.sort()
    found = bootstrap_ci(values, clusters=clusters, resamples=20_000, seed=1)
    assert found.value == pytest.approx(sum(values) / len(values))
    assert found.interval == pytest.approx((drawn[500], drawn[19_500]), abs=0.015)


def test_a_clips_questions_count_together() -> None:
    """10 clips, each all right or all wrong: 30 copies of a clip's answer say no more than one."""
    once = bootstrap_ci(
        [0.0, 1.0] * 5, clusters=[f"c{n}" for n in range(10)], resamples=4000, seed=0
    )
    copies = bootstrap_ci(
        [0.0, 1.0] * 150, clusters=[f"c{n % 10}" for n in range(300)], resamples=4000, seed=0
    )
    apart = bootstrap_ci(
        [0.0, 1.0] * 150, clusters=[f"c{n}" for n in range(300)], resamples=4000, seed=0
    )
    assert once.interval == pytest.approx(copies.interval)
    assert apart.interval[1] - apart.interval[0] < 0.5 * (copies.interval[1] - copies.interval[0])


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    """200 draws of 40 clips of a mean-0 world: coverage has standard error 1.5 %; few clips cover a
    bit less.
    """
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        level = generator.normal(size=40)
        values = np.repeat(level, 3) + 0.5 * generator.normal(size=120)
        low, high = bootstrap_ci(
            values, clusters=[f"c{n // 3}" for n in range(120)], resamples=400, seed=0
        ).interval
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval_whatever_the_order_of_rows() -> None:
    values, clusters = [float(n * n) for n in range(40)], [f"c{n % 13}" for n in range(40)]
    first = bootstrap_ci(values, clusters=clusters, resamples=500, seed=3)
    assert bootstrap_ci(values[::-1], clusters=clusters[::-1], resamples=500, seed=3) == first
    assert bootstrap_ci(values, clusters=clusters, resamples=500, seed=4) != first


def test_large_inputs_are_resampled_in_blocks_with_the_same_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, clusters = list(np.arange(50.0)), [f"c{n // 5}" for n in range(50)]
    whole = bootstrap_ci(values, clusters=clusters, resamples=300, seed=0)
    monkeypatch.setattr("dpo_video.core.statistics.BLOCK", 70)
    assert bootstrap_ci(values, clusters=clusters, resamples=300, seed=0) == whole


def test_one_clip_has_no_interval() -> None:
    once = bootstrap_ci([1.0, 0.0], clusters=["a", "a"], resamples=100, seed=0)
    assert once == Estimate(value=0.5, n=2, why_no_interval="one clip")


def test_no_observation_and_an_undefined_statistic_have_no_value() -> None:
    assert bootstrap_ci([], clusters=[], resamples=100, seed=0) == Estimate(value=None)
    undefined = bootstrap_ci([np.nan, np.nan], clusters=["a", "b"], resamples=100, seed=0)
    assert undefined == Estimate(value=None, n=2)


def test_weighted_mean_counts_each_value_as_often_as_its_weight() -> None:
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 1.0]])
    assert weighted_mean(np.array([3.0, 6.0, 0.0]), weights).tolist() == [3.0, 2.0]


def test_length_control_agrees_with_slow_gradient_ascent() -> None:
    chance = random.Random(2)
    for _ in range(3):
        longer = [chance.gauss(20, 40) for _ in range(40)]
        wins = [
            chance.choice([0.0, 0.5, 1.0]) if x < 30 else chance.choice([0.5, 1.0, 1.0])
            for x in longer
        ]
        assert controlled(wins, longer) == pytest.approx(slow_fit(wins, longer), abs=1e-6)


def test_length_control_takes_away_wins_that_follow_length() -> None:
    """The longer answer always wins and the tuned one is longer in 3 of 4: raw rate 0.75, at equal
    length 0.5.
    """
    longer = [50.0, 40.0, 60.0, -50.0] * 50
    wins = [float(x > 0) for x in longer]
    assert mean(wins) == 0.75
    # At equal length the fit crosses one half near difference 0, between -50 and 40.
    assert controlled(wins, longer) == pytest.approx(0.5, abs=0.2)
    even = [1.0, 1.0, 1.0, 0.0] * 50
    shuffled = [longer[n] for n in random.Random(0).sample(range(200), 200)]
    assert controlled(even, shuffled) == pytest.approx(0.75, abs=0.05)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-80, 80)), min_size=2, max_size=30
    )
)
@settings(max_examples=100)
def test_length_control_is_fair_finite_and_the_plain_rate_without_length_differences(
    rows: list[tuple[float, int]],
) -> None:
    wins = [row[0] for row in rows]
    longer = [float(row[1]) for row in rows]
    rate = controlled(wins, longer)
    assert 0 <= rate <= 1
    swapped = controlled([1 - win for win in wins], [-x for x in longer])
    assert rate + swapped == pytest.approx(1, abs=1e-6)
    assert controlled(wins, [0.0] * len(wins)) == pytest.approx(sum(wins) / len(wins), abs=2e-2)


def test_length_control_of_resamples_is_that_of_the_repeated_rows() -> None:
    wins, longer = [1.0, 0.0, 0.5, 1.0, 0.0], [10.0, -5.0, 3.0, -8.0, 12.0]
    table = np.array(list(zip(wins, longer, strict=True)))
    times = [2, 1, 0, 3, 2]
    weighted = length_controlled_win_rate(table, np.array([times, [1.0] * 5]))
    spread = np.std(longer)  # of all rows: the scale of the feature is not resampled
    feature = np.tanh(np.repeat(longer, times) / spread)
    target = np.repeat(wins, times)
    theta = phi = 0.0
    for _ in range(20_000):
        chance = 1 / (1 + np.exp(-(theta + phi * feature)))
        theta += 0.1 * ((target - chance).sum() - 1e-3 * theta)
        phi += 0.1 * (((target - chance) * feature).sum() - 1e-3 * phi)
    assert weighted[0] == pytest.approx(1 / (1 + np.exp(-theta)), abs=1e-6)
    assert weighted[1] == pytest.approx(controlled(wins, longer), abs=1e-9)


def test_a_difference_below_the_margin_is_a_tie() -> None:
    preferred = preferences([3.0, 3.0, 3.0, 3.0], [3.4, 3.5, 2.5, 3.0], tie_margin=0.5)
    assert preferred == [0.5, 1.0, 0.0, 0.5]
    assert preferences([3.0, 3.0], [3.0, 3.01], tie_margin=0) == [0.5, 1.0]


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), max_size=20))
def test_correlation_and_quantiles_are_the_textbook_ones(points: list[tuple[int, int]]) -> None:
    x, y = [float(p[0]) for p in points], [float(p[1]) for p in points]
    found = correlation(x, y)
    if len(set(x)) < 2 or len(set(y)) < 2:
        assert found is None
    else:
        mx, my = sum(x) / len(x), sum(y) / len(y)
        top = sum((a - mx) * (b - my) for a, b in points)
        below = math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))
        assert found == pytest.approx(top / below, abs=1e-9)
    if x:
        middle = (
            sorted(x)[len(x) // 2]
            if len(x) % 2
            else sum(sorted(x)[len(x) // 2 - 1 : len(x) // 2 + 1]) / 2
        )
        spread = quantiles(x)
        assert (spread["min"], spread["median"], spread["max"]) == (min(x), middle, max(x))
    else:
        assert quantiles(x) == {} and mean(x) is None
