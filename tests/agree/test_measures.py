"""Measures of agreement, recomputed the slow obvious way or by an independent library, and planted
errors in each.
"""

import itertools
import math
import random

import numpy as np
import pytest
from agree_runs import BOOTSTRAP, NAN, value_of
from scipy.stats import kendalltau, mannwhitneyu, spearmanr

from dpo_video.agree.gold import Gold, GoldGrade, Preference, annotator_alpha, krippendorff_alpha
from dpo_video.agree.measures import (
    auc,
    best_of_n,
    categories,
    chance_best_of_n,
    correlate,
    difference,
    estimate,
    gold_measures,
    kappa,
    pair_measures,
    present_mean,
    tie_band,
)
from dpo_video.core.records import Candidate, Sample
from dpo_video.judge.scorer import load_scorer

ONE = np.ones((1, 1))
HOUND = load_scorer("hound_quality")


def graded(scores: dict[str, list[float]], *, annotators: int = 1) -> Gold:
    """Return gold whose samples (one clip each) have answers of these grades, ids
    `<sample>#<k>`.
    """
    answers, grades = {}, []
    for name, values in scores.items():
        sample = Sample(id=name, video=f"{name}.mp4", prompt="What?", caption="c")
        for k, value in enumerate(values):
            candidate = Candidate(
                id=f"{name}#{k}", sample_id=name, text=str(k), model="m", settings="s", seed=0
            )
            answers[candidate.id] = (sample, candidate)
            grades += [
                GoldGrade(candidate_id=candidate.id, score=value, annotator=str(a))
                for a in range(annotators)
            ]
    return Gold(source="test", answers=answers, grades=grades)


def random_table(n: int = 60, *, levels: int = 5, seed: int = 0):
    """Return gold and judge in 0..levels-1, correlated, with ties."""
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, levels, n)
    return np.column_stack([gold, np.clip(gold + rng.integers(-2, 3, n), 0, levels - 1)]).astype(
        float
    )


def test_pair_accuracy_counts_ties_in_three_ways_and_an_unscored_answer_as_wrong():
    """Pairs of sample a (gold 1 2 3, judge 2 2 5): 1<2 tied by the judge, 1<3 and 2<3 right. b
    (gold 1 2, judge 3 1): wrong. c (gold 4 4, judge 3 3): a tie seen as one. d (gold 1 5, judge 2
    and none): unscored.
    """
    gold = graded({"a": [1, 2, 3], "b": [1, 2], "c": [4, 4], "d": [1, 5]})
    scores = {
        "a#0": 2.0,
        "a#1": 2.0,
        "a#2": 5.0,
        "b#0": 3.0,
        "b#1": 1.0,
        "c#0": 3.0,
        "c#1": 3.0,
        "d#0": 2.0,
        "d#1": NAN,
    }
    found = {
        name: estimate(line, BOOTSTRAP)
        for name, line in pair_measures(gold, scores, tie_band=0.5).items()
    }
    values = {name: (row.value, row.n, row.unscored) for name, row in found.items()}
    assert values == {
        "pair_accuracy": (pytest.approx((0.5 + 1 + 1 + 0 + 0) / 5), 5, 1),
        "pair_accuracy_dropped": (pytest.approx((1 + 1 + 0 + 0) / 4), 4, 1),
        "pair_accuracy_three_class": (pytest.approx((0 + 1 + 1 + 0 + 1 + 0) / 6), 6, 1),
    }


def test_of_a_judge_that_scores_nothing_nothing_is_measured():
    """They said 0.0 % [0.0, 0.0], as of a judge that is always wrong."""
    gold = graded({"a": [1, 2, 3], "b": [1, 2], "c": [4, 4]})
    scores = dict.fromkeys(gold.scores(), NAN)
    measures = {
        name: estimate(line, BOOTSTRAP) for name, line in gold_measures(gold, scores, HOUND).items()
    }
    assert {"pair_accuracy", "pair_accuracy_three_class", "best_of_n", "kappa"} <= measures.keys()
    assert {name: row.value for name, row in measures.items()} == dict.fromkeys(measures)
    assert measures["pair_accuracy"].unscored == 4
    against = difference(
        gold_measures(gold, scores, HOUND)["pair_accuracy"],
        gold_measures(gold, {name: 3.0 for name in scores}, HOUND)["pair_accuracy"],
        BOOTSTRAP,
    )
    assert against.value is None


def test_the_tie_band_is_half_the_least_step_of_the_scores():
    assert tie_band(HOUND) == 0.5
    assert tie_band(load_scorer("caption_score")) == 0.5
    assert tie_band(load_scorer("caption_support")) == 0.5
    assert (
        tie_band(
            HOUND.model_copy(update={"scale": HOUND.scale.model_copy(update={"integer": False})})
        )
        == 0.0
    )


def test_best_of_n_splits_ties_at_the_top_and_never_picks_an_unscored_answer():
    """a: picks the best. b: two tied at the top, one of them gold's best. c: the best is unscored,
    another is picked.
    d: nothing scored. e: all of one gold, so there is nothing to pick."""
    gold = graded({"a": [1, 3], "b": [1, 3, 2], "c": [5, 1], "d": [1, 2], "e": [2, 2]})
    scores = {
        "a#0": 1.0,
        "a#1": 2.0,
        "b#0": 4.0,
        "b#1": 4.0,
        "b#2": 1.0,
        "c#0": NAN,
        "c#1": 1.0,
        "d#0": NAN,
        "d#1": NAN,
        "e#0": 1.0,
        "e#1": 2.0,
    }
    line = best_of_n(gold, scores)
    assert (line.values.tolist(), line.unscored, line.n) == ([1.0, 0.5, 0.0, 0.0], 2, 4)
    assert chance_best_of_n(gold) == pytest.approx((1 / 2 + 1 / 3 + 1 / 2 + 1 / 2) / 4)


@pytest.mark.parametrize("levels", [2, 5])
def test_kappa_equals_the_definition_by_loops(levels):
    table = random_table(levels=levels, seed=levels)
    n = len(table)
    cost = [[(i - j) ** 2 / (levels - 1) ** 2 for j in range(levels)] for i in range(levels)]
    observed = sum(cost[int(g)][int(j)] for g, j in table) / n
    expected = sum(cost[int(g)][int(j)] for g, _ in table for _, j in table) / n**2
    assert value_of(kappa, table, levels=levels) == pytest.approx(1 - observed / expected)
    perfect = np.column_stack([table[:, 0], table[:, 0]])
    assert value_of(kappa, perfect, levels=levels) == pytest.approx(1)


def test_an_unscored_answer_lowers_kappa_as_a_full_disagreement():
    table = np.array([[0, 0], [1, 1], [2, 2], [2, NAN]])
    cost = np.array([[0, 0.25, 1, 1], [0.25, 0, 0.25, 1], [1, 0.25, 0, 1]])
    judged = [0, 1, 2, 3]
    expected = np.mean([cost[int(g), j] for g, _ in table for j in judged])
    assert value_of(kappa, table, levels=3) == pytest.approx(1 - (1 / 4) / expected)


def test_categories_are_whole_numbers_of_the_scale_or_good_and_bad():
    codes, levels = categories(np.array([[1, 1.4], [5, 4.5], [3, NAN]]), HOUND)
    assert levels == 5
    assert codes[:2].tolist() == [[0, 0], [4, 4]] and np.isnan(codes[2, 1])
    codes, levels = categories(np.array([[0, 2.9], [1, 3.0], [1, NAN]]), HOUND)
    assert levels == 2
    assert codes[:2].tolist() == [[0, 0], [1, 1]] and np.isnan(codes[2, 1])
    assert categories(np.array([[0.2, 1], [0.7, 2], [0.9, 3]]), HOUND) == (None, 0)


def test_correlations_equal_scipy_and_a_count_of_pairs_and_leave_unscored_out():
    table = random_table(seed=3)
    with_hole = np.vstack([table, [[2, NAN]]])
    assert value_of(correlate, with_hole, how="spearman") == pytest.approx(
        spearmanr(table).statistic
    )
    concordant = discordant = ties_gold = ties_judge = 0
    for (g, j), (h, k) in itertools.combinations(table.tolist(), 2):
        sign = np.sign(g - h) * np.sign(j - k)
        concordant, discordant = concordant + (sign > 0), discordant + (sign < 0)
        ties_gold, ties_judge = ties_gold + (g == h), ties_judge + (j == k)
    pairs = math.comb(len(table), 2)
    tau = (concordant - discordant) / math.sqrt((pairs - ties_gold) * (pairs - ties_judge))
    assert value_of(correlate, with_hole, how="kendall") == pytest.approx(tau)
    weights = np.array([[2.0] * 30 + [0.0] * 31])
    twice = np.repeat(table[:30], 2, axis=0)
    assert correlate(with_hole, weights, how="kendall")[0] == pytest.approx(
        kendalltau(*twice.T).statistic
    )
    assert math.isnan(value_of(correlate, [[1, 2], [1, 3]], how="spearman")), "constant gold"


def test_auc_equals_mann_whitney_and_counts_unscored_against_the_judge():
    rng = np.random.default_rng(1)
    table = np.column_stack([rng.integers(0, 2, 80), rng.integers(0, 6, 80)]).astype(float)
    good, bad = table[table[:, 0] == 1, 1], table[table[:, 0] == 0, 1]
    assert value_of(auc, table) == pytest.approx(
        mannwhitneyu(good, bad).statistic / len(good) / len(bad)
    )
    assert value_of(auc, [[1, 5], [1, NAN], [0, 1], [0, NAN]]) == pytest.approx(1 / 4)


def test_a_mean_over_what_is_present_and_undefined_resamples():
    assert value_of(present_mean, [1, NAN, 0]) == 0.5
    assert math.isnan(value_of(present_mean, [NAN]))


def test_every_line_of_gold_has_its_n_and_an_interval_by_clip():
    rng = random.Random(0)
    gold = graded({f"s{k}": [rng.randint(1, 5) for _ in range(4)] for k in range(20)})
    scores = {
        name: value + rng.choice([-1.0, 0.0, 0.0, 1.0]) for name, value in gold.scores().items()
    }
    scores["s3#1"] = NAN
    rows = {
        name: estimate(line, BOOTSTRAP) for name, line in gold_measures(gold, scores, HOUND).items()
    }
    assert list(rows) == [
        "pair_accuracy",
        "pair_accuracy_dropped",
        "pair_accuracy_three_class",
        "best_of_n",
        "kappa",
        "spearman",
        "kendall",
    ]
    for row in rows.values():
        assert row.interval[0] <= row.value <= row.interval[1]
        assert row.unscored >= 1
    assert rows["kappa"].n == rows["spearman"].n == 80


def test_a_paired_difference_of_two_judges_is_narrower_than_their_intervals_and_zero_for_the_same():
    rng = random.Random(1)
    gold = graded({f"s{k}": [rng.randint(1, 5) for _ in range(3)] for k in range(40)})
    first = {name: value + rng.gauss(0, 2) for name, value in gold.scores().items()}
    second = {name: value + rng.gauss(0, 0.2) for name, value in first.items()}
    ours, theirs = gold_measures(gold, first, HOUND), gold_measures(gold, second, HOUND)
    for name, line in ours.items():
        same = difference(line, line, BOOTSTRAP)
        assert (same.value, same.interval) == (0.0, (0.0, 0.0))
        row, alone = difference(line, theirs[name], BOOTSTRAP), estimate(line, BOOTSTRAP)
        assert row.value == pytest.approx(estimate(theirs[name], BOOTSTRAP).value - alone.value)
        assert row.interval[1] - row.interval[0] < alone.interval[1] - alone.interval[0]


def test_krippendorff_gives_the_published_values():
    """Krippendorff (2011), examples A (binary, alpha 0.095) and C (four observers with gaps,
    ordinal alpha 0.815).
    """
    first, second = "0100000010", "1110010000"
    assert krippendorff_alpha(
        [(int(a), int(b)) for a, b in zip(first, second, strict=True)]
    ) == pytest.approx(0.095, abs=5e-4)
    rows = [
        "1233214 12...".replace(" ", ""),
        "123322412 5.3".replace(" ", ""),
        ".33323422 51.".replace(" ", ""),
        "123324412 51.".replace(" ", ""),
    ]
    units = [[int(row[k]) for row in rows if row[k] != "."] for k in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha([(1, 1), (1, 1)]) is None
    assert krippendorff_alpha([(1, 1), (3, 3)]) == 1


def test_annotators_that_disagree_are_averaged_or_voted_and_compared():
    gold = graded({"a": [1, 5]}, annotators=2)
    assert annotator_alpha(gold) == (1, 2)
    other = GoldGrade(candidate_id="a#1", score=3, annotator="1")
    split = Gold(source="t", answers=gold.answers, grades=[*gold.grades[:3], other])
    assert split.scores() == {"a#0": 1, "a#1": 4}
    votes = [
        Preference(chosen_id="a#0", rejected_id="a#1", annotator="x"),
        Preference(chosen_id="a#1", rejected_id="a#0", annotator="y"),
        Preference(chosen_id="a#0", rejected_id="a#1", annotator="z"),
    ]
    assert Gold(source="t", answers=gold.answers, preferences=votes).pairs() == [("a#0", "a#1", 1)]
    assert Gold(source="t", answers=gold.answers, preferences=votes[:2]).pairs() == [
        ("a#0", "a#1", 0)
    ]
    assert annotator_alpha(Gold(source="t", answers=gold.answers, preferences=votes[:1])) == (
        None,
        0,
    )
