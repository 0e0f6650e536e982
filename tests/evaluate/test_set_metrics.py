"""Accuracy of a set before and after, on answers small enough to count by hand."""

from typing import Any

import pytest

from dpo_video.evaluate.answer_rows import EvaluatedAnswer
from dpo_video.evaluate.metrics import Intervals
from dpo_video.evaluate.set_metrics import set_metrics
from dpo_video.evaluate.set_report import SetMetrics, set_of, set_row
from dpo_video.recipe import EvaluateSettings


def choice(name: str, kind: str, gold: str, parsed: str | None, **facts: Any) -> EvaluatedAnswer:
    """An answer to a question to choose from; the first letter of the name is the clip."""
    row = {"set": "s", "model": "before", "sample_id": name, "clip": name[0], "prompt": "p"}
    read = {"kind": kind, "gold": gold, "text": parsed or "?", "parsed": parsed}
    return EvaluatedAnswer(**{**row, **read, "correct": parsed == gold, **facts})


def measured(
    before: list[EvaluatedAnswer], after: list[EvaluatedAnswer], **settings: Any
) -> SetMetrics:
    intervals = Intervals(EvaluateSettings(bootstrap=200, **settings), seed=0)
    metrics = set_metrics(before, after, intervals, num_questions=len(before) + 1, num_clips=3)
    assert set_of(set_row(metrics)) == metrics, "metrics.json holds all of it"
    return metrics


def test_paired_yes_no_questions_have_the_bias_measures_and_count_as_groups() -> None:
    """Before it says yes to all four: 2 of 4 right, no pair whole. After it is right about the
    first pair; of the second one answer is read as neither.
    """
    gold = {"a1": "yes", "a2": "no", "b1": "yes", "b2": "no"}
    before = [choice(name, "yes_no", gold[name], "yes", group=name[0]) for name in gold]
    said = {"a1": "yes", "a2": "no", "b1": None, "b2": "yes"}
    after = [choice(name, "yes_no", gold[name], said[name], group=name[0]) for name in gold]
    metrics = measured(before, after)
    assert (metrics.questions, metrics.unanswered, metrics.measured_by) == (5, 1, ["yes/no"])
    assert metrics.before.yes_no is not None and metrics.after.yes_no is not None
    assert (metrics.before.yes_no.value, metrics.after.yes_no.value) == (0.5, 0.5)
    assert (metrics.before.unparsed, metrics.after.unparsed, metrics.change.unparsed) == (0, 1, 1)
    for accuracy, group, yes_rate, difference, false_positives in (
        (metrics.before, 0.0, 1.0, 0.5, 1.0),
        (metrics.after, 0.5, 0.5, 0.0, 0.5),
    ):
        values = (accuracy.all_of_group, accuracy.yes_rate, accuracy.yes_difference)
        assert [value and value.value for value in values] == [group, yes_rate, difference]
        assert accuracy.false_positive_ratio and accuracy.false_positive_ratio.n == 2
        assert accuracy.false_positive_ratio.value == false_positives
    assert metrics.change.all_of_group and metrics.change.all_of_group.value == 0.5
    assert metrics.change.false_positive_ratio is None
    assert metrics.before.letter is None and metrics.before.exact_match is None


def test_categories_hold_the_questions_that_both_models_answered() -> None:
    before = [
        choice("a1", "letter", "A", "A", category="order"),
        choice("b1", "letter", "A", None, category="order"),
        choice("c1", "letter", "B", "A", category="speed"),
    ]
    after = [
        choice("a1", "letter", "A", "B", category="order"),
        choice("c1", "letter", "B", "B", category="speed"),
    ]
    metrics = measured(before, after)
    order, speed = metrics.categories["order"], metrics.categories["speed"]
    assert (order.n, order.before.value, order.after.value, order.change.value) == (1, 1, 0, -1)
    assert (speed.n, speed.before.value, speed.after.value, speed.change.value) == (1, 0, 1, 1)
    assert metrics.before.unparsed == 1 and metrics.before.n == 3 and metrics.change.n == 2
    assert metrics.change.accuracy.value == 0


@pytest.mark.parametrize(("parser", "accuracy"), [("strict", 0.0), ("published", 1.0)])
def test_where_the_published_rule_reads_otherwise_both_numbers_stand(
    parser: str, accuracy: float
) -> None:
    """A published rule that takes the first letter reads `A dog runs` as A."""
    read = {"published_parsed": "A", "published_correct": True}
    rows = [choice(name, "letter", "A", None, **read) for name in ("a1", "b1")]
    before = measured(rows, rows, parser=parser).before
    assert before.accuracy.value == accuracy
    assert before.strict_accuracy and before.strict_accuracy.value == 0
    assert before.published_accuracy and before.published_accuracy.value == 1
    assert before.unparsed == (2 if parser == "strict" else 0)
    agreed = [choice("a1", "letter", "A", "A", **read), choice("b1", "letter", "A", "A", **read)]
    assert measured(agreed, agreed).before.published_accuracy is None


def test_texts_are_right_by_the_judge_that_was_asked_and_an_unscored_one_widens_the_bounds() -> (
    None
):
    def text(name: str, *, judged: bool | None, **facts: Any) -> EvaluatedAnswer:
        unscored = {"judged": "unscored: no verdict"} if judged is None else None
        facts = {"exact_match": False, "contains": True, "unscored": unscored, **facts}
        return choice(name, "text", "a dog", None, correct=None, judged=judged, **facts)

    rows = [text("a1", judged=True), text("b1", judged=False), text("c1", judged=None)]
    before = measured(rows, rows).before
    assert measured(rows, rows).measured_by == ["judged"]
    assert before.judged is not None and before.contains is not None
    assert (before.judged.value, before.judged.n, before.judged.unscored) == (0.5, 2, 1)
    assert before.judged.bounds == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert before.exact_match and before.exact_match.value == 0 and before.contains.value == 1
    assert before.judged_score is None and before.hallucination_rate is None
