"""`dpo-video score`: answers that were made elsewhere, read by the strict rule and by the published
one, and counted as the benchmark counts. Pure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dpo_video.benchmarks.metrics import (
    BenchmarkMetrics,
    PublishedBias,
    benchmark_metrics,
    by_value,
    mean_over_sets,
    published_bias,
)
from dpo_video.benchmarks.readings import UNREADABLE, GradedQuestion, Reading, ReadingRule
from dpo_video.benchmarks.sets import BENCHMARKS, Benchmark, benchmark_of, published_rule
from dpo_video.benchmarks.strict import read_strictly
from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample
from dpo_video.core.report import Estimate

ParserName = Literal["strict", "published"]
PARSERS: dict[str, str] = {
    "strict": "what says one thing, see strict.py",
    "published": "the benchmark's own rule, defects included, see published_rules.py",
}
RESAMPLES, SEED = 1000, 0
RATED = "rated"
"""In place of what a rule reads, where the authors' judge has rated the answer."""
SHOWN_ANSWERS = 10
"""Examples of answers that a rule could not read, and of those that two rules read otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAnswer:
    """An answer as an example: what each rule reads from it."""

    id: str
    answer: str
    gold: str | None
    strict: str | None
    published: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleScore:
    """What the answers come to by one rule."""

    n: int
    """Questions that count."""
    left_out: int
    """Unanswered questions that the benchmark's own script does not count."""
    unparsed: int
    """Answers that the rule cannot read: wrong, and counted."""
    rated: int
    """Answers that it cannot read, and that count as the authors' judge has rated them."""
    headline: Estimate
    """The number of the benchmark's tables, see `ScoreReport.headline`."""
    metrics: BenchmarkMetrics
    breakdowns: Mapping[str, Mapping[str, Estimate]]
    """Accuracy by further fields of the questions."""
    groups_by_set: Mapping[str, Estimate]
    """Share of groups right in each file of a benchmark of several sets."""
    published_bias: PublishedBias | None
    """As VideoHallucer's script counts it, over its sets of a yes and a no question each, which
    fact_detect is not.
    """
    unparsed_examples: Sequence[ReadAnswer]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreReport:
    """A file of answers, scored."""

    benchmark: str | None
    """None where the questions are of no benchmark, or of several."""
    headline: str
    """What the first number is: accuracy, groups, mean of categories, mean of sets."""
    questions: int
    answered: int
    missing: int
    """Questions without an answer: wrong, and counted, but where a script leaves them out."""
    parser: ParserName
    rules: Mapping[ParserName, RuleScore]
    """The chosen rule first."""
    different: int
    """Answers that the rules read otherwise: right by one of them only, or by one unreadable."""
    different_examples: Sequence[ReadAnswer]


def score_answers(
    questions: Sequence[Sample],
    answers: Mapping[str, str],
    *,
    parser: ParserName,
    ratings: Mapping[str, bool] | None = None,
) -> ScoreReport:
    """Return what the answers come to, by the strict rule and by the published one where the
    questions have one.

    A question without an answer is wrong and counted; the published rule leaves it out where the
    benchmark's own script does.

    Args:
        ratings: by question, of answers that the published rule cannot read: what the authors'
            judge makes of them.
    """
    if not questions:
        raise UserError("there are no questions to score")
    written = [question.id for question in questions if question.answer_kind == "text"]
    if written:
        raise UserError(
            f"{len(written)} questions, first {written[0]!r}, are answered in words, which a judge "
            "rates and no rule. Give a judge: --judge RECIPE"
        )
    names = {benchmark_of(question) for question in questions}
    name = next(iter(names)) if len(names) == 1 else None
    row = None if name is None else BENCHMARKS[name]
    has_published = all(published_rule(question) is not None for question in questions)
    if parser == "published" and not has_published:
        raise UserError(
            "--parser published: the questions have no `meta.benchmark`, so no rule of theirs is "
            "known. Import them with `dpo-video import BENCHMARK`, or leave the option out"
        )
    rules: list[ParserName] = ["strict", "published"] if has_published else ["strict"]
    graded = {rule: grade_answers(questions, answers, rule, ratings=ratings) for rule in rules}
    different = _different(graded["strict"], graded["published"]) if has_published else []
    rules.sort(key=lambda rule: rule != parser)
    return ScoreReport(
        benchmark=name,
        headline="accuracy" if row is None else row.headline,
        questions=len(questions),
        answered=len(answers),
        missing=len(questions) - len(answers),
        parser=parser,
        rules={rule: _rule_score(graded[rule], answers, row, rule) for rule in rules},
        different=len(different),
        different_examples=different[:SHOWN_ANSWERS],
    )


def grade_answers(
    questions: Sequence[Sample],
    answers: Mapping[str, str],
    rule_name: ParserName,
    *,
    ratings: Mapping[str, bool] | None = None,
) -> list[GradedQuestion]:
    """Return every question with what a rule reads from its answer; without one it is unread.

    Args:
        ratings: see `score_answers`; the published rule alone counts them.
    """
    graded = []
    for question in questions:
        answer = answers.get(question.id)
        rule: ReadingRule | None = (
            read_strictly if rule_name == "strict" else published_rule(question)
        )
        assert rule is not None, "every question has the rule"
        reading = UNREADABLE if answer is None else rule(question, answer)
        rating = (ratings or {}).get(question.id) if rule_name == "published" else None
        if reading.parsed is None and rating is not None:
            reading = Reading(parsed=RATED, correct=rating)
        graded.append(GradedQuestion(question=question, answer=answer or "", reading=reading))
    return graded


def _rule_score(
    graded: Sequence[GradedQuestion],
    answers: Mapping[str, str],
    row: Benchmark | None,
    rule: ParserName,
) -> RuleScore:
    unit_of = row.unit if row is not None and rule == "published" else None
    counted = list(graded) if unit_of is None else _answered_units(graded, answers, unit_of)
    metrics = benchmark_metrics(counted, resamples=RESAMPLES, seed=SEED)
    has_sets = row is not None and row.headline == "mean of sets"
    unparsed = [
        answer
        for answer in counted
        if answer.reading.parsed is None and answer.question.id in answers
    ]
    return RuleScore(
        n=len(counted),
        left_out=len(graded) - len(counted),
        unparsed=len(unparsed),
        rated=sum(answer.reading.parsed == RATED for answer in counted),
        headline=_headline(row, metrics, counted),
        metrics=metrics,
        breakdowns={name: _accuracy_by(counted, name) for name in (row.breakdowns if row else ())},
        groups_by_set=_groups_by_set(counted) if has_sets else {},
        published_bias=_published_bias(counted) if has_sets else None,
        unparsed_examples=[
            ReadAnswer(
                id=answer.question.id,
                answer=answer.answer,
                gold=answer.question.answer,
                strict=None,
            )
            for answer in unparsed[:SHOWN_ANSWERS]
        ],
    )


def _answered_units(
    graded: Sequence[GradedQuestion],
    answers: Mapping[str, str],
    unit_of: Callable[[Sample], object],
) -> list[GradedQuestion]:
    """Return the questions without those of units that have no answer at all."""
    counted = []
    for unit in by_value(graded, lambda question: unit_of(question) or question.id).values():
        if any(row.question.id in answers for row in unit):
            counted += unit
    return counted


def _headline(
    row: Benchmark | None, metrics: BenchmarkMetrics, graded: Sequence[GradedQuestion]
) -> Estimate:
    """Return the number that the benchmark's tables show; a mean counts its parts, and has no
    interval.
    """
    if row is None or row.headline in ("accuracy", "judged"):
        return metrics.accuracy
    if row.headline == "groups":
        assert metrics.group_accuracy is not None, "its questions count together"
        return metrics.group_accuracy
    by_part = (
        metrics.by_category if row.headline == "mean of categories" else _groups_by_set(graded)
    )
    values = {name: share.value for name, share in by_part.items() if share.value is not None}
    return Estimate(value=mean_over_sets(values), n=len(values))


def _groups_by_set(graded: Sequence[GradedQuestion]) -> dict[str, Estimate]:
    """Return the share of groups right in each set of a benchmark that has several."""
    shares = {}
    for name, rows in _by_set(graded).items():
        share = benchmark_metrics(rows, resamples=RESAMPLES, seed=SEED).group_accuracy
        assert share is not None, "its questions count together"
        shares[name] = share
    return shares


def _published_bias(graded: Sequence[GradedQuestion]) -> PublishedBias | None:
    """Return the bias over the sets whose pairs are a yes and a no question."""
    paired: list[GradedQuestion] = []
    for rows in _by_set(graded).values():
        paired += rows if published_bias(rows) is not None else []
    return published_bias(paired)


def _by_set(graded: Sequence[GradedQuestion]) -> dict[str, list[GradedQuestion]]:
    return by_value(graded, lambda question: (question.meta or {}).get("set"))


def _accuracy_by(graded: Sequence[GradedQuestion], name: str) -> dict[str, Estimate]:
    """Return accuracy by a field of the questions' `meta`."""
    parts = by_value(graded, lambda question: (question.meta or {}).get(name))
    return {
        value: benchmark_metrics(rows, resamples=RESAMPLES, seed=SEED).accuracy
        for value, rows in parts.items()
    }


def _different(
    strict: Sequence[GradedQuestion], published: Sequence[GradedQuestion]
) -> list[ReadAnswer]:
    """Return the answers that one rule counts right and the other wrong, or only one can read."""
    examples = []
    for strict_row, published_row in zip(strict, published, strict=True):
        same_use = strict_row.reading.correct == published_row.reading.correct
        if same_use and (strict_row.reading.parsed is None) == (
            published_row.reading.parsed is None
        ):
            continue
        examples.append(
            ReadAnswer(
                id=strict_row.question.id,
                answer=strict_row.answer,
                gold=strict_row.question.answer,
                strict=strict_row.reading.parsed,
                published=published_row.reading.parsed,
            )
        )
    return examples
