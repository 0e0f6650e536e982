"""Metrics of benchmarks, on answers small enough to count by hand."""

from dataclasses import replace

import pytest

from dpo_video.benchmarks.linked_clips import linked_clips
from dpo_video.benchmarks.metrics import (
    BenchmarkMetrics,
    benchmark_metrics,
    mean_over_sets,
    published_bias,
    yes_no_bias,
)
from dpo_video.benchmarks.published_rules import videohallucer
from dpo_video.benchmarks.readings import GradedQuestion
from dpo_video.core.records import Sample


def graded(*pairs: tuple[str, str]) -> list[GradedQuestion]:
    """Pairs of answers to a question whose gold is yes and one whose gold is no, a clip a pair."""
    rows = []
    for number, pair in enumerate(pairs):
        for gold, answer in zip(("yes", "no"), pair, strict=True):
            question = Sample(
                id=f"{number}-{gold}",
                video=f"{number}.mp4",
                prompt="?",
                answer=gold,
                answer_kind="yes_no",
                group=str(number),
                category="even" if number % 2 == 0 else "odd",
            )
            rows.append(
                GradedQuestion(
                    question=question, answer=answer, reading=videohallucer(question, answer)
                )
            )
    return rows


def measured(rows: list[GradedQuestion]) -> BenchmarkMetrics:
    return benchmark_metrics(rows, resamples=200, seed=0)


ROWS = graded(("yes", "no"), ("yes", "yes"), ("no", "no"), ("no", "yes"), ("maybe", "No."))


def test_a_group_is_right_only_as_a_whole_and_unparsed_answers_are_wrong() -> None:
    """Right: both, the first, the second, none, the second: 5 of 10, and 1 pair of 5."""
    metrics = measured(ROWS)
    assert (metrics.n, metrics.unparsed) == (10, 1)
    assert (metrics.accuracy.value, metrics.accuracy.n) == (0.5, 10)
    assert metrics.group_accuracy is not None
    assert (metrics.group_accuracy.value, metrics.group_accuracy.n) == (0.2, 5)
    assert metrics.accuracy.interval is not None
    low, high = metrics.accuracy.interval
    assert 0 <= low < 0.5 < high <= 1
    values = {name: estimate.value for name, estimate in metrics.by_category.items()}
    assert values == {"even": pytest.approx(4 / 6), "odd": pytest.approx(1 / 4)}


def test_the_bias_of_the_definition_counts_answers() -> None:
    """Said: 4 yes, 5 no, 1 neither, of 5 and 5; wrong: yes for no twice, no for yes twice, neither
    once.
    """
    bias = yes_no_bias(ROWS)
    assert bias.yes_rate == 0.4
    assert bias.yes_difference == pytest.approx((4 - 5) / 10)
    assert bias.no_difference == pytest.approx((5 - 5) / 10)
    assert bias.false_positive_ratio == pytest.approx(2 / 5)
    always = yes_no_bias(graded(("yes", "yes"), ("yes", "yes")))
    assert (always.yes_rate, always.yes_difference, always.false_positive_ratio) == (1, 0.5, 1)
    assert yes_no_bias(graded(("yes", "no"))).false_positive_ratio is None


def test_the_bias_of_the_script_counts_what_the_script_counts() -> None:
    """By pair (yes found for yes, no found for no): TT TF FT FF FT. Yes: 1 + 2; no: 1 + 2 + 2;
    false positives 1 of 1 + 1 + 2 + 1 wrong ones: the pair "no", "yes" has none of them.
    """
    bias = published_bias(ROWS)
    assert bias is not None
    assert bias.yes_difference == pytest.approx((3 - 5) / 10)
    assert bias.no_difference == pytest.approx((5 - 5) / 10)
    assert bias.false_positive_ratio == pytest.approx(1 / 5)
    right = published_bias(graded(("yes", "no")))
    assert right is not None
    assert (right.yes_difference, right.no_difference, right.false_positive_ratio) == (0, 0, 0)


def test_there_is_no_bias_of_nothing_and_none_of_letters() -> None:
    assert published_bias([]) is None
    assert measured([]).bias is None and measured([]).accuracy.value is None
    assert measured([]).group_accuracy is None
    assert published_bias(ROWS[1:]) is None, "not a yes and a no question"


def test_a_mean_over_sets_counts_each_set_alike() -> None:
    assert mean_over_sets({"a": 1.0, "b": 0.5}) == 0.75 and mean_over_sets({}) is None


def test_clips_that_a_group_asks_about_together_are_resampled_together() -> None:
    """All pairs share a chain of clips, so that there is one cluster, and no interval."""
    rows = [
        replace(row, question=replace(row.question, video=f"{number // 2 + number % 2}.mp4"))
        for number, row in enumerate(ROWS)
    ]
    chained = measured(rows)
    assert chained.group_accuracy is not None and chained.accuracy.interval is not None
    assert chained.group_accuracy.why_no_interval == "one clip"
    assert linked_clips([["a", "b"], ["b", "c"], ["d"]]) == {"a": "a", "b": "a", "c": "a", "d": "d"}
