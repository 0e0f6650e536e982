"""What evaluation measures, on answers small enough to count by hand."""

from typing import Any

import pytest

from dpo_video.core.report import Estimate
from dpo_video.evaluate.answer_rows import EvaluatedAnswer
from dpo_video.evaluate.metrics import (
    Intervals,
    PairMargin,
    answer_metrics,
    heldout_pair_metrics,
    normalise_answer,
    paired_differences,
    pairwise_win_rates,
    why_exact_match_misleads,
    win_rates,
)
from dpo_video.evaluate.report import HeldoutPairMetrics, WinRates
from dpo_video.judge.modes.pairwise import Comparison
from dpo_video.recipe import EvaluateSettings

INTERVALS = Intervals(EvaluateSettings(bootstrap=400), seed=0)
NO_COUNTS: dict[str, dict[str, int]] = {
    "questions": {},
    "questions_dropped": {},
    "answers": {},
    "answers_dropped": {},
}


def graded(name: str, *, length: int = 10, **facts: Any) -> EvaluatedAnswer:
    """An answer that both scorers were asked about."""
    asked = ("score", "supported")
    unscored = {field: "unscored: no verdict" for field in asked if facts.get(field) is None}
    row = {"set": "heldout", "model": "before", "sample_id": name, "clip": name[0], "prompt": "p"}
    return EvaluatedAnswer(**{**row, "text": "x" * length, "unscored": unscored, **facts})


def wins(before: list[EvaluatedAnswer], after: list[EvaluatedAnswer]) -> WinRates:
    return win_rates(before, after, INTERVALS, tie_margin=0.5, scorer="s@1", judge="j")


BEFORE = [
    graded("a1", exact_match=False, score=2.0, supported=False),
    graded("a2", exact_match=True, score=4.0, supported=True),
    graded("b1", score=3.0, length=20, supported=None),
    graded("c1", exact_match=False, score=None, supported=True),
]
AFTER = [
    graded("a1", exact_match=True, score=5.0, supported=True),
    graded("a2", exact_match=True, score=4.2, supported=True),
    graded("b1", score=1.0, length=40, supported=True),
    graded("c1", exact_match=True, score=4.0, supported=True),
]


def test_rates_and_means_leave_unscored_answers_out_and_count_them() -> None:
    """3 samples have a gold answer, 1 of them right. Scores 2, 4, 3. Of the 3 answers that the
    hallucination scorer could score, a1 is not supported; b1 could make that 1 or 2 of 4.
    """
    measured = answer_metrics(BEFORE, INTERVALS)
    assert measured.n == 4
    assert (measured.exact_match.value, measured.exact_match.n) == (pytest.approx(1 / 3), 3)
    score = measured.judged_score
    assert (score.value, score.n, score.unscored) == (3.0, 3, 1)
    rate = measured.hallucination_rate
    assert rate is not None
    assert (rate.value, rate.n, rate.unscored) == (pytest.approx(1 / 3), 3, 1)
    assert rate.bounds == (0.25, 0.5)
    assert (measured.answer_length.value, measured.answer_length.n) == (12.5, 4)
    for estimate in (measured.exact_match, score, rate, measured.answer_length):
        assert estimate.value is not None and estimate.interval is not None
        low, high = estimate.interval
        assert low <= estimate.value <= high


def test_a_rate_where_nothing_was_scored_is_no_rate() -> None:
    """16 of 16 unscored said 100 % hallucinated, with a certain interval."""
    unscored = [graded(f"{chr(97 + n)}1") for n in range(16)]
    measured = answer_metrics(unscored, INTERVALS)
    nothing = Estimate(value=None, unscored=16)
    assert measured.hallucination_rate == measured.judged_score == nothing
    change = paired_differences(unscored, unscored, INTERVALS)
    assert change.hallucination_rate == change.judged_score == nothing
    rates = wins(unscored, unscored)
    assert rates.win_rate == nothing and rates.length_controlled_win_rate.value is None
    assert (rates.n, rates.unscored, rates.loss) == (16, 16, 0)
    failed = [Comparison(reason="no reply", status="failed")] * 16
    compared = pairwise_win_rates(failed, [row.clip for row in unscored], INTERVALS, scorer="p@1")
    assert compared.win_rate == nothing and compared.better_probability.value is None
    assert (compared.failed, compared.loss) == (16, 0)


def test_change_is_that_of_the_same_questions() -> None:
    """Exact match: +1, 0, +1 over 3; score: +3, +0.2, -2 over the 3 scored on both sides;
    hallucination: -1, 0, 0 over the 3 scored on both sides, and b1 could add 0 or -1.
    """
    change = paired_differences(BEFORE, AFTER, INTERVALS)
    assert (change.exact_match.value, change.exact_match.n) == (pytest.approx(2 / 3), 3)
    assert (change.judged_score.value, change.judged_score.n) == (pytest.approx(0.4), 3)
    rate = change.hallucination_rate
    assert rate is not None and (rate.value, rate.n) == (pytest.approx(-1 / 3), 3)
    assert rate.bounds == (-0.5, -0.25) and rate.unscored == 1
    assert change.answer_length.value == 5.0


def test_change_has_a_narrower_interval_than_the_sides_when_they_rise_together() -> None:
    before = [graded(f"{chr(97 + n)}1", score=float(n)) for n in range(20)]
    after = [graded(f"{chr(97 + n)}1", score=n + 1.0) for n in range(20)]
    change = paired_differences(before, after, INTERVALS)
    assert change.judged_score.interval == pytest.approx((1.0, 1.0))
    interval = answer_metrics(after, INTERVALS).judged_score.interval
    assert interval is not None and interval[1] - interval[0] > 2


def test_wins_ties_losses_and_unscored_add_up_to_n() -> None:
    """a1 +3 wins, a2 +0.2 ties, b1 -2 loses, c1 is unscored before: win rate (1 + 0.5) / 3, and
    with c1 lost or won (1 + 0.5) / 4 to (2 + 0.5) / 4.
    """
    rates = wins(BEFORE, AFTER)
    assert (rates.win, rates.tie, rates.loss, rates.unscored, rates.n) == (1, 1, 1, 1, 4)
    assert (rates.win_rate.value, rates.win_rate.n) == (0.5, 3)
    assert (rates.win_rate.bounds, rates.win_rate.unscored) == ((0.375, 0.625), 1)
    controlled = rates.length_controlled_win_rate
    assert controlled.n == 3 and controlled.value is not None and 0 < controlled.value < 1
    assert rates.tie_margin == 0.5


def test_an_answer_of_the_base_without_a_score_is_no_loss_of_the_tuned_model() -> None:
    """15 ties, and one question whose answer before has no score: 46.9 % was a win rate with no
    loss in it.
    """
    before = [graded(f"{chr(97 + n)}1", score=3.0 if n else None) for n in range(16)]
    after = [graded(f"{chr(97 + n)}1", score=3.0) for n in range(16)]
    for first, second in ((before, after), (after, before)):
        rates = wins(first, second)
        assert (rates.win, rates.tie, rates.loss, rates.unscored) == (0, 15, 0, 1)
        assert rates.win_rate == Estimate(
            value=0.5, interval=(0.5, 0.5), n=15, unscored=1, bounds=(7.5 / 16, 8.5 / 16)
        )


def test_a_comparison_without_a_verdict_counts_for_neither_side() -> None:
    comparisons = [
        Comparison(orders=(0.9, 0.8)),
        Comparison(orders=(0.9, 0.2)),
        Comparison(reason="no verdict line", status="unscored"),
        Comparison(reason="no reply", status="failed"),
    ]
    rates = pairwise_win_rates(comparisons, ["a", "b", "c", "d"], INTERVALS, scorer="p@1")
    assert (rates.win, rates.tie, rates.loss, rates.unscored, rates.n) == (1, 1, 0, 2, 4)
    assert (rates.win_rate.value, rates.win_rate.n, rates.failed) == (0.75, 2, 1)
    assert rates.win_rate.bounds == (0.375, 0.875)
    assert rates.better_probability.value == pytest.approx((0.85 + 0.55) / 2)


def test_a_question_only_one_model_answered_is_left_out_of_comparisons() -> None:
    assert wins(BEFORE, AFTER[:2]).n == 2
    assert paired_differences(BEFORE, AFTER[:2], INTERVALS).n == 2


def test_reward_accuracy_counts_margins_above_zero() -> None:
    margins = [
        PairMargin(clip="a", margin=0.5),
        PairMargin(clip="a", margin=-0.25),
        PairMargin(clip="b", margin=0.0),
        PairMargin(clip="c", margin=1.0),
    ]
    pairs = heldout_pair_metrics(margins, INTERVALS, NO_COUNTS)
    assert (pairs.reward_accuracy.value, pairs.margin.value, pairs.n) == (0.5, 0.3125, 4)


def test_what_cannot_be_measured_is_none_with_n_0() -> None:
    nothing = Estimate(value=None)
    assert heldout_pair_metrics([], INTERVALS, NO_COUNTS) == HeldoutPairMetrics(
        n=0, reward_accuracy=nothing, margin=nothing, **NO_COUNTS
    )
    no_gold = answer_metrics([graded("a1", score=None), graded("b1", score=None)], INTERVALS)
    assert no_gold.exact_match == nothing
    assert no_gold.judged_score == Estimate(value=None, unscored=2)


def test_without_a_hallucination_scorer_there_is_no_rate() -> None:
    plain = Intervals(EvaluateSettings(hallucination_scorer=None, bootstrap=10), seed=0)
    assert answer_metrics(BEFORE, plain).hallucination_rate is None
    assert paired_differences(BEFORE, AFTER, plain).hallucination_rate is None


@pytest.mark.parametrize(
    ("gold", "answers", "reason"),
    [
        (["Olive oil."], ["The man pours olive oil into the bowl."], "answers have 8 words"),
        (["B", "A"], ["B. Olive oil", "A. Milk, it is"], "gold answers 1: a right answer in more"),
        (["red", "a blue circle"], ["red", "green"], None),
        (["The circle is red."], ["The circle is not red at all."], None),
        (["A man in a grey apron pours olive oil from a bottle."], ["Oil."], "are sentences"),
        ([], ["Anything at all that is said here"], None),
    ],
)
def test_exact_match_misleads_where_answers_or_gold_answers_are_sentences(
    gold: list[str], answers: list[str], reason: str | None
) -> None:
    """ "The man pours olive oil into the bowl." is right, and no exact match of "Olive oil."."""
    told = why_exact_match_misleads(gold, answers)
    assert told is None if reason is None else told is not None and reason in told


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
