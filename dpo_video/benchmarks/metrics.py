"""Metrics of benchmarks: accuracy, all of a group, share of "yes", and the bias measures of
VideoHallucer. Pure.

An answer that the rule could not read is wrong and stays in the denominator; how many they are
stands beside every number.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from dpo_video.benchmarks.linked_clips import linked_clips
from dpo_video.benchmarks.readings import GradedQuestion
from dpo_video.core.records import Sample
from dpo_video.core.report import Estimate
from dpo_video.core.statistics import bootstrap_ci
from dpo_video.data.choices import gold_choice


@dataclass(frozen=True, slots=True, kw_only=True)
class YesNoBias:
    """How far a model leans to "yes", over questions whose gold answer is yes or no."""

    yes_rate: float
    """Share of all answers that say yes."""
    yes_difference: float
    """(answers that say yes - gold answers that are yes) / questions: above 0 it says yes too
    often.
    """
    no_difference: float
    false_positive_ratio: float | None
    """Of the wrong answers, those that say yes; None where none is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedBias:
    """What the script of VideoHallucer calls bias: see `published_bias`."""

    yes_difference: float
    no_difference: float
    false_positive_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkMetrics:
    """One model's answers to one set."""

    n: int
    unparsed: int
    """Answers that the rule could not read: wrong, and in every denominator."""
    accuracy: Estimate
    """Share of questions answered right."""
    group_accuracy: Estimate | None
    """Share of groups answered right as a whole; None where no questions count together."""
    by_category: dict[str, Estimate]
    """Accuracy, in the order of the set."""
    groups_by_category: dict[str, Estimate]
    """Share of groups right, of each only the questions of one category; empty without groups."""
    bias: YesNoBias | None
    """None unless all answers are yes or no."""


def benchmark_metrics(
    graded: Sequence[GradedQuestion], *, resamples: int, seed: int
) -> BenchmarkMetrics:
    """Return accuracy, by group and by category, with intervals over resampled clips.

    Example: of the pair "Is there a baby?" (yes) and "Is there a doll?" (no) a model that says yes
    to both has accuracy 0.5, group accuracy 0, a yes-rate of 1 and a yes difference of +0.5.
    """
    is_grouped = any(row.question.group for row in graded)
    categories = by_value(graded, lambda question: question.category)

    def share(groups: Sequence[Sequence[GradedQuestion]]) -> Estimate:
        return _share_correct(groups, resamples=resamples, seed=seed)

    return BenchmarkMetrics(
        n=len(graded),
        unparsed=sum(row.reading.parsed is None for row in graded),
        accuracy=share(_one_by_one(graded)),
        group_accuracy=share(count_together(graded)) if is_grouped else None,
        by_category={name: share(_one_by_one(rows)) for name, rows in categories.items()},
        groups_by_category={
            name: share(count_together(rows)) for name, rows in categories.items() if is_grouped
        },
        bias=(
            yes_no_bias(graded)
            if graded and all(row.question.answer_kind == "yes_no" for row in graded)
            else None
        ),
    )


def by_value(
    graded: Sequence[GradedQuestion], value_of: Callable[[Sample], object]
) -> dict[str, list[GradedQuestion]]:
    """Return the questions by what they have in common, in the order of the set; None is left
    out.
    """
    rows_of: dict[str, list[GradedQuestion]] = defaultdict(list)
    for row in graded:
        value = value_of(row.question)
        if value is not None:
            rows_of[str(value)].append(row)
    return dict(rows_of)


def mean_over_sets(accuracies: Mapping[str, float]) -> float | None:
    """Return the plain mean over sets, each counting alike whatever its size; None of no sets.

    VideoHallucer's "all" (end of evaluations/evaluation.py) and MLVU's M-Avg are such means; a mean
    over all questions is another number.
    """
    return fmean(accuracies.values()) if accuracies else None


def yes_no_bias(graded: Sequence[GradedQuestion]) -> YesNoBias:
    """Return the share of yes, the differences and the false positive ratio, question by question.

    Yes percentage difference and false positive ratio are those of HallusionBench's yes/no bias
    test (Guan et al. 2024, arXiv 2310.14566), which VideoHallucer takes over (arXiv 2406.16338). An
    answer that says neither counts for none.
    """
    parsed = [row.reading.parsed for row in graded]
    gold = [gold_choice(row.question) for row in graded]
    wrong = [row for row in graded if not row.reading.correct]
    n = len(graded)
    return YesNoBias(
        yes_rate=parsed.count("yes") / n,
        yes_difference=(parsed.count("yes") - gold.count("yes")) / n,
        no_difference=(parsed.count("no") - gold.count("no")) / n,
        false_positive_ratio=(
            sum(row.reading.parsed == "yes" for row in wrong) / len(wrong) if wrong else None
        ),
    )


def published_bias(graded: Sequence[GradedQuestion]) -> PublishedBias | None:
    """Return the bias as the script of VideoHallucer counts it, from pairs of a yes and a no
    question; None of no pairs, and where pairs are others (fact_detect).

    evaluations/evaluation_bias.py of patrick-tssn/VideoHallucer looks at two hits of a pair only:
    `yes` in the answer to the basic question, `no` in the one to the hallucination. Where the
    second is missing it counts a yes, and a false positive, by what the *basic* answer said; where
    the first is missing, a no by what the *hallucination* answer said. So the numbers are not those
    of `yes_no_bias`: answers no and yes are two wrong ones of which none is a yes.
    """
    num_yes = num_no = num_wrong = false_positives = num_pairs = 0
    for pair in count_together(graded):
        if [gold_choice(row.question) for row in pair] != ["yes", "no"]:
            return None
        has_yes, has_no = (row.reading.correct for row in pair)
        num_pairs += 1
        num_yes += has_yes + (has_yes and not has_no)
        num_no += has_no + (has_no and not has_yes)
        num_wrong += (not has_yes) + (not has_no)
        false_positives += has_yes and not has_no
    if not num_pairs:
        return None
    return PublishedBias(
        yes_difference=(num_yes - num_pairs) / (2 * num_pairs),
        no_difference=(num_no - num_pairs) / (2 * num_pairs),
        false_positive_ratio=false_positives / num_wrong if num_wrong else 0.0,
    )


def count_together(graded: Sequence[GradedQuestion]) -> list[list[GradedQuestion]]:
    """Return the questions that count together, in the order of the set; one without a group stands
    alone.
    """
    groups: dict[str, list[GradedQuestion]] = {}
    for row in graded:
        groups.setdefault(row.question.group or f"question {row.question.id}", []).append(row)
    return list(groups.values())


def _one_by_one(graded: Sequence[GradedQuestion]) -> list[list[GradedQuestion]]:
    return [[row] for row in graded]


def _share_correct(
    groups: Sequence[Sequence[GradedQuestion]], *, resamples: int, seed: int
) -> Estimate:
    """Return the share of groups whose answers are all right; clips that a group asks about
    together are resampled together.
    """
    clips = [[str(row.question.video) for row in group] for group in groups]
    drawn_with = linked_clips(clips)
    return bootstrap_ci(
        [float(is_group_right(group)) for group in groups],
        clusters=[drawn_with[of_group[0]] for of_group in clips],
        resamples=resamples,
        seed=seed,
    )


def is_group_right(group: Sequence[GradedQuestion]) -> bool:
    """Return whether all questions that count together are answered right."""
    return all(row.reading.correct for row in group)
