"""Calibration, margins and noise, recomputed the slow obvious way, and planted errors in each."""

import numpy as np
import pytest
from agree_runs import BOOTSTRAP, NAN, value_of

from dpo_video.agree.calibration import (
    OrderedPairs,
    calibrate,
    calibration_error,
    fit_temperature,
    in_first_half,
    reliability,
    risk_coverage,
    suggest_margin,
)
from dpo_video.agree.noise import measure_noise
from dpo_video.core.report import json_form


def planted_pairs(n: int, *, temperature: float, seed: int = 0, per_clip: int = 2) -> OrderedPairs:
    """Return pairs of which gold agrees with sigmoid(margin / temperature)."""
    rng = np.random.default_rng(seed)
    margin = rng.uniform(0.01, 4, n)
    right = (rng.random(n) < 1 / (1 + np.exp(-margin / temperature))).astype(float)
    return OrderedPairs(margin, right, [f"c{k // per_clip}" for k in range(n)])


def test_the_fitted_temperature_is_the_planted_one_and_mends_the_calibration():
    pairs = planted_pairs(8000, temperature=3.0)
    assert fit_temperature(pairs.margin, pairs.right) == pytest.approx(3.0, rel=0.1)
    found = calibrate(pairs, bins=10, bootstrap=BOOTSTRAP)
    assert found.fitted_on + found.tested_on == 8000
    assert abs(found.fitted_on - 4000) < 400
    assert found.before.ece.value > 0.1 > 0.03 > found.after.ece.value
    assert found.after.brier.value < found.before.brier.value


def test_the_halves_are_split_by_clip_and_stay_when_other_clips_come():
    names = [f"c{k}" for k in range(40) for _ in range(3)]
    first = in_first_half(names, seed=1)
    assert all(first[3 * k] == first[3 * k + 1] == first[3 * k + 2] for k in range(40))
    assert first.sum() == 60
    assert (in_first_half(names, seed=1) == first).all()
    assert not (in_first_half(names, seed=2) == first).all()
    one = calibrate(OrderedPairs(np.ones(4), np.ones(4), ["c"] * 4), bins=10, bootstrap=BOOTSTRAP)
    assert "pairs of two clips are needed" in one.why_none


def test_a_judge_that_is_always_right_or_a_coin_has_the_temperature_of_one():
    margin = np.linspace(0.1, 3, 50)
    assert fit_temperature(margin, np.ones(50)) < 0.1
    assert fit_temperature(margin, np.tile([0.0, 1.0], 25)) > 10


def test_calibration_error_equals_a_loop_over_bins():
    rng = np.random.default_rng(2)
    table = np.column_stack([rng.uniform(0.5, 1, 300), rng.integers(0, 2, 300)])
    total = 0.0
    for k in range(10):
        inside = [row for row in table.tolist() if 0.5 + k * 0.05 < row[0] <= 0.55 + k * 0.05]
        if inside:
            total += (
                len(inside)
                / 300
                * abs(np.mean([r for _, r in inside]) - np.mean([c for c, _ in inside]))
            )
    assert value_of(calibration_error, table, bins=10) == pytest.approx(total)
    rows = reliability(table, 10)
    assert sum(row.n for row in rows) == 300
    assert sum(row.n * abs(row.accuracy - row.confidence) for row in rows) / 300 == pytest.approx(
        total
    )


def test_risk_and_coverage_by_hand_keep_unscored_and_tied_pairs_in_the_denominator():
    pairs = OrderedPairs(
        np.array([3, 2, 2, 1, 0, NAN]), np.array([1, 1, 0, 0, 0.5, 0.0]), list("aabbcc")
    )
    assert json_form(risk_coverage(pairs)) == [
        {"min_margin": 2.5, "precision": 1.0, "coverage": pytest.approx(1 / 6), "n": 1},
        {"min_margin": 1.5, "precision": pytest.approx(2 / 3), "coverage": 0.5, "n": 3},
        {"min_margin": 0.0, "precision": 0.5, "coverage": pytest.approx(4 / 6), "n": 4},
    ]


def test_the_suggested_margin_keeps_most_pairs_at_the_wanted_precision_or_says_that_none_does():
    """Margins up to 1 are a coin, those above always right: 0.9 is reached a little below 1."""
    margin = np.linspace(0.01, 3, 300)
    right = np.where(margin > 1, 1.0, np.arange(300) % 2).astype(float)
    pairs = OrderedPairs(margin, right, [f"c{k}" for k in range(300)])
    found = suggest_margin(pairs, precision=0.9, bootstrap=BOOTSTRAP)
    kept = margin > found.point.min_margin
    assert right[kept].mean() == found.point.precision >= 0.9
    assert kept.sum() == found.point.n
    lower = margin > found.point.min_margin - 0.05
    assert right[lower].mean() < 0.9
    assert found.precision.interval[0] < found.point.precision < found.precision.interval[1]
    coin = OrderedPairs(margin, (np.arange(300) % 2).astype(float), pairs.clips)
    none = suggest_margin(coin, precision=0.9, bootstrap=BOOTSTRAP)
    assert none.point is None and none.best < 0.6
    few = OrderedPairs(margin[:19], np.ones(19), pairs.clips[:19])
    assert suggest_margin(few, precision=0.9, bootstrap=BOOTSTRAP).point is None, (
        "19 pairs are too few"
    )


def test_sigma_is_the_planted_noise_and_a_shift_of_all_scores_is_none():
    rng = np.random.default_rng(0)
    item = rng.uniform(1, 5, (4000, 1))
    scores = item + rng.normal(0, 0.3, (4000, 5))
    assert measure_noise(scores, [], by_wording=False).sigma == pytest.approx(0.3, rel=0.03)
    shifted = scores + np.array([0, 1, -1, 2, 0.5])
    assert measure_noise(shifted, [], by_wording=True).sigma == pytest.approx(0.3, rel=0.03)
    assert measure_noise(shifted, [], by_wording=False).sigma > 1
    assert measure_noise(item + np.array([0, 1, -1]), [], by_wording=True).sigma == pytest.approx(
        0, abs=1e-9
    )


def test_flips_count_reversals_ties_as_half_and_show_what_is_missing():
    scores = np.array([[3, 3, 3, 1], [2, 4, 3, NAN], [1, 1, 1, 1.0]])
    found = measure_noise(scores, [(0, 1), (0, 2)], by_wording=False)
    assert np.array_equal(found.flips, [[1, 0.5, NAN], [0, 0, 0.5]], equal_nan=True)
    assert found.complete == 2
    assert measure_noise(np.array([[1.0]]), [], by_wording=True).sigma is None
