"""What evaluation measures, on answers small enough to count by hand."""

from typing import Any

import pytest

from dpo_video.evaluate.metrics import (
    Graded,
    Intervals,
    PairMargin,
    change,
    heldout_pairs,
    judged,
    normalise_answer,
    side,
)
from dpo_video.recipe import EvaluateSettings

INTERVALS = Intervals(EvaluateSettings(bootstrap=400), seed=0)


def graded(name: str, **facts: Any) -> Graded:
    return Graded(**{"sample_id": name, "clip": name[0], "length": 10, **facts})


BEFORE = [
    graded("a1", correct=False, score=2.0, supported=False),
    graded("a2", correct=True, score=4.0, supported=True),
    graded("b1", score=3.0, length=20, supported=None),
    graded("c1", correct=False, score=None, supported=True),
]
AFTER = [
    graded("a1", correct=True, score=5.0, supported=True),
    graded("a2", correct=True, score=4.2, supported=True),
    graded("b1", score=1.0, length=40, supported=True),
    graded("c1", correct=True, score=4.0, supported=True),
]


def test_rates_keep_unscored_answers_in_the_denominator_and_means_count_them() -> None:
    """3 samples have a gold answer, 1 of them right. Scores 2, 4, 3. Not supported: a1, and b1
    which is unscored.
    """
    found = side(BEFORE, INTERVALS)
    assert found["n"] == 4
    assert (found["accuracy"], found["accuracy_n"]) == (pytest.approx(1 / 3), 3)
    assert (found["judged_score"], found["judged_score_n"], found["judged_score_unscored"]) == (
        3.0,
        3,
        1,
    )
    assert (found["hallucination_rate"], found["hallucination_rate_n"]) == (0.5, 4)
    assert found["hallucination_rate_unscored"] == 1
    assert (found["answer_length"], found["answer_length_n"]) == (12.5, 4)
    for name in ("accuracy", "judged_score", "hallucination_rate", "answer_length"):
        low, high = found[f"{name}_ci"]
        assert low <= found[name] <= high


def test_change_is_that_of_the_same_questions() -> None:
    """Accuracy: +1, 0, +1 over 3; score: +3, +0.2, -2 over the 3 scored on both sides;
    hallucination: -1, 0, -1, 0.
    """
    found = change(BEFORE, AFTER, INTERVALS)
    assert (found["accuracy"], found["accuracy_n"]) == (pytest.approx(2 / 3), 3)
    assert (found["judged_score"], found["judged_score_n"]) == (pytest.approx(0.4), 3)
    assert (found["hallucination_rate"], found["hallucination_rate_n"]) == (-0.5, 4)
    assert found["answer_length"] == 5.0


def test_change_has_a_narrower_interval_than_the_sides_when_they_rise_together() -> None:
    before = [graded(f"{chr(97 + n)}1", score=float(n)) for n in range(20)]
    after = [graded(f"{chr(97 + n)}1", score=n + 1.0) for n in range(20)]
    assert change(before, after, INTERVALS)["judged_score_ci"] == pytest.approx([1.0, 1.0])
    low, high = side(after, INTERVALS)["judged_score_ci"]
    assert high - low > 2


def test_wins_ties_losses_and_unscored_add_up_to_n() -> None:
    """a1 +3 wins, a2 +0.2 ties, b1 -2 loses, c1 is unscored before. Win rate (1 + 0.5) / 4."""
    found = judged(BEFORE, AFTER, INTERVALS, tie_margin=0.5)
    assert [found[name] for name in ("win", "tie", "loss", "unscored", "n")] == [1, 1, 1, 1, 4]
    assert found["win_rate"] == pytest.approx(1.5 / 4) and found["win_rate_n"] == 4
    assert (
        found["length_controlled_win_rate_n"] == 3 and 0 < found["length_controlled_win_rate"] < 1
    )
    assert found["tie_margin"] == 0.5


def test_a_question_only_one_model_answered_is_left_out_of_comparisons() -> None:
    found = judged(BEFORE, AFTER[:2], INTERVALS, tie_margin=0.5)
    assert found["n"] == 2 and change(BEFORE, AFTER[:2], INTERVALS)["n"] == 2


def test_reward_accuracy_counts_margins_above_zero() -> None:
    found = heldout_pairs(
        [
            PairMargin(clip="a", margin=0.5),
            PairMargin(clip="a", margin=-0.25),
            PairMargin(clip="b", margin=0.0),
            PairMargin(clip="c", margin=1.0),
        ],
        INTERVALS,
    )
    assert (found["reward_accuracy"], found["margin"], found["n"]) == (0.5, 0.3125, 4)


def test_what_cannot_be_measured_is_none_with_n_0() -> None:
    found = heldout_pairs([], INTERVALS)
    assert found == {
        "n": 0,
        "reward_accuracy": None,
        "reward_accuracy_ci": None,
        "reward_accuracy_n": 0,
        "margin": None,
        "margin_ci": None,
        "margin_n": 0,
    }
    no_gold = side([graded("a1", score=None), graded("b1", score=None)], INTERVALS)
    assert (
        no_gold["accuracy"] is None
        and no_gold["judged_score"] is None
        and no_gold["judged_score_unscored"] == 2
    )


def test_without_a_hallucination_scorer_there_is_no_rate() -> None:
    plain = Intervals(EvaluateSettings(hallucination_scorer=None, bootstrap=10), seed=0)
    assert "hallucination_rate" not in side(BEFORE, plain) and "hallucination_rate" not in change(
        BEFORE, AFTER, plain
    )


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("The circle is red.", " the circle  is RED", True),
        ("Yes, there is.", "yes there is", True),
        ("3.5 seconds", "35 seconds", False),
        ("1,000.", "1,000", True),
        ("It's red!", "its red", True),
        ("two", "two dogs", False),
        ("\u00c9t\u00e9.", "\u00e9t\u00e9", True),
    ],
)
def test_answers_are_equal_up_to_case_space_and_punctuation(
    answer: str, gold: str, same: bool
) -> None:
    assert (normalise_answer(answer) == normalise_answer(gold)) == same
