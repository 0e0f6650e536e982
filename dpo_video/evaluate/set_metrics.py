"""A set before and after: accuracy by the rule of each question's kind, by group and by category.
Pure.

A measure gives each unit, a question or a group, an observation. Before and after are means over
units; the change is the mean difference over the units that both have, with the interval of paired
differences over resampled clips.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from dpo_video.core.report import Estimate
from dpo_video.evaluate.answer_rows import EvaluatedAnswer, answered_by_both
from dpo_video.evaluate.metrics import Intervals, Observation
from dpo_video.evaluate.set_report import CategoryAccuracy, SetAccuracy, SetMetrics

Parser = Literal["strict", "published"]
Observations = Mapping[str, Observation]
"""By unit."""
Observe = Callable[[Sequence[EvaluatedAnswer]], Observations]
ReadValue = Callable[[EvaluatedAnswer], float | None]


def set_metrics(
    before: Sequence[EvaluatedAnswer],
    after: Sequence[EvaluatedAnswer],
    intervals: Intervals,
    *,
    num_questions: int,
    num_clips: int,
) -> SetMetrics:
    """Return what a set's answers come to.

    Example: of the pair "Is there a baby?" (yes) and "Is there a doll?" (no) a model that says yes
    to both has yes_no 0.5, all_of_group 0, a yes_rate of 1 and a yes_difference of +0.5.

    Args:
        num_questions: of the whole set, those without an answer too.
    """
    parser = intervals.settings.parser
    both_models = [*before, *after]
    names = _measures(both_models, parser, intervals)
    old = {name: measure(before) for name, measure in names.items()}
    new = {name: measure(after) for name, measure in names.items()}
    change = {name: _differences(old[name], new[name]) for name in names if name not in UNPAIRED}
    unparsed = [_num_unparsed(rows, parser) for rows in (before, after)]
    joined = answered_by_both(before, after)
    return SetMetrics(
        questions=num_questions,
        clips=num_clips,
        unanswered=num_questions - len({row.sample_id for row in after}),
        measured_by=_measured_by(both_models),
        parser=parser,
        before=_accuracy(old, intervals, n=len(before), unparsed=unparsed[0]),
        after=_accuracy(new, intervals, n=len(after), unparsed=unparsed[1]),
        change=_accuracy(change, intervals, n=len(joined), unparsed=unparsed[1] - unparsed[0]),
        categories=_categories(joined, intervals, parser),
    )


def is_right(row: EvaluatedAnswer, parser: Parser) -> float | None:
    """Return 1 for a right answer and 0 for a wrong one, by the rule of its kind; None where the
    question has no gold answer, and where a judge that was asked gave no score.
    """
    if row.kind != "text":
        has_published = parser == "published" and row.published_correct is not None
        return _number(row.published_correct if has_published else row.correct)
    if row.was_judged("judged"):
        return _number(row.judged)
    return _number(row.exact_match)


def parsed_choice(row: EvaluatedAnswer, parser: Parser) -> str | None:
    """Return the choice that the parser reads from an answer; None where it reads none."""
    has_published = parser == "published" and row.published_correct is not None
    return row.published_parsed if has_published else row.parsed


UNPAIRED = frozenset({"false_positive_ratio"})
"""Measures over other questions before than after."""


def _measures(
    rows: Sequence[EvaluatedAnswer], parser: Parser, intervals: Intervals
) -> dict[str, Observe]:
    """Return the measures that the answers of a set allow, by field of SetAccuracy."""
    kinds = {row.kind for row in rows}
    measures: dict[str, Observe] = {
        "accuracy": _of_each(lambda row: is_right(row, parser), _has_gold),
        "answer_length": _of_each(lambda row: float(row.length), lambda row: True),
    }
    if any(_rules_differ(row) for row in rows):
        measures["strict_accuracy"] = _of_each(lambda row: is_right(row, "strict"), _has_gold)
        measures["published_accuracy"] = _of_each(lambda row: is_right(row, "published"), _has_gold)
    if "text" in kinds:
        measures["exact_match"] = _of_each(
            lambda row: _number(row.exact_match), lambda row: row.exact_match is not None
        )
        measures["contains"] = _of_each(
            lambda row: _number(row.contains), lambda row: row.contains is not None
        )
    measures |= _judged_measures(rows)
    if "letter" in kinds:
        measures["letter"] = _of_each(
            lambda row: is_right(row, parser), lambda row: row.kind == "letter"
        )
    if "yes_no" in kinds:
        measures |= _yes_no_measures(parser)
    if any(row.group for row in rows):
        measures["all_of_group"] = lambda answers: _groups(answers, parser)
    return measures


def _judged_measures(rows: Sequence[EvaluatedAnswer]) -> dict[str, Observe]:
    """Return the measures of the scorers that were asked."""
    measures = {
        "judged": _of_each(lambda row: _number(row.judged), lambda row: row.was_judged("judged")),
        "judged_score": _of_each(lambda row: row.score, lambda row: row.was_judged("score")),
        "hallucination_rate": _of_each(
            lambda row: row.hallucinated, lambda row: row.was_judged("supported")
        ),
    }
    return {name: measure for name, measure in measures.items() if measure(rows)}


def _yes_no_measures(
    parser: Parser,
) -> dict[str, Observe]:
    """Return the measures of yes/no questions.

    The difference of the share of yes, and the false positive ratio, are those of HallusionBench's
    yes/no bias test (Guan et al. 2024, arXiv 2310.14566), which VideoHallucer takes over (arXiv
    2406.16338). An answer that says neither counts for none.
    """

    def is_yes_no(row: EvaluatedAnswer) -> bool:
        return row.kind == "yes_no"

    def says_yes(row: EvaluatedAnswer) -> float:
        return float(parsed_choice(row, parser) == "yes")

    def is_gold_yes(row: EvaluatedAnswer) -> float:
        return float((row.gold or "").strip().lower().rstrip(".") == "yes")

    return {
        "yes_no": _of_each(lambda row: is_right(row, parser), is_yes_no),
        "yes_rate": _of_each(says_yes, is_yes_no),
        "yes_difference": _of_each(lambda row: says_yes(row) - is_gold_yes(row), is_yes_no),
        "false_positive_ratio": _of_each(
            says_yes, lambda row: is_yes_no(row) and is_right(row, parser) == 0
        ),
    }


def _of_each(value: ReadValue, counts: Callable[[EvaluatedAnswer], bool]) -> Observe:
    """Return the measure that observes each answer that `counts`."""

    def measure(rows: Sequence[EvaluatedAnswer]) -> Observations:
        counted = [row for row in rows if counts(row)]
        return {row.sample_id: Observation(clip=row.clip, value=value(row)) for row in counted}

    return measure


def _groups(rows: Sequence[EvaluatedAnswer], parser: Parser) -> Observations:
    """Return an observation of each group: 1 where all its answers are right; its clip is that of
    its first question.
    """
    groups: dict[str, list[EvaluatedAnswer]] = {}
    for row in rows:
        if _has_gold(row):
            unit = f"question {row.sample_id}" if row.group is None else f"group {row.group}"
            groups.setdefault(unit, []).append(row)
    observations: dict[str, Observation] = {}
    for unit, members in groups.items():
        values = [is_right(row, parser) for row in members]
        value = 0.0 if 0 in values else None if None in values else 1.0
        observations[unit] = Observation(clip=members[0].clip, value=value)
    return observations


def _differences(before: Observations, after: Observations) -> Observations:
    """Return after less before, unit by unit, with what the unscored could make of it."""
    differences: dict[str, Observation] = {}
    for unit in before.keys() & after.keys():
        old, new = before[unit], after[unit]
        value = None if old.value is None or new.value is None else new.value - old.value
        differences[unit] = Observation(
            clip=old.clip,
            value=value,
            lowest=(0.0 if new.value is None else new.value)
            - (1.0 if old.value is None else old.value),
            highest=(1.0 if new.value is None else new.value)
            - (0.0 if old.value is None else old.value),
        )
    return {unit: differences[unit] for unit in before if unit in differences}


def _accuracy(
    observations: Mapping[str, Observations], intervals: Intervals, *, n: int, unparsed: int
) -> SetAccuracy:
    estimates: dict[str, Any] = {}
    for name, units in observations.items():
        estimate = intervals.rate(list(units.values()))
        # a score is no share: what an unscored one could be is not known
        estimates[name] = replace(estimate, bounds=None) if name == "judged_score" else estimate
    return SetAccuracy(n=n, unparsed=unparsed, **estimates)


def _categories(
    joined: Sequence[tuple[EvaluatedAnswer, EvaluatedAnswer]],
    intervals: Intervals,
    parser: Parser,
) -> dict[str, CategoryAccuracy]:
    """Return the accuracy of each category, over the questions that both models answered."""
    by_category: dict[str, list[tuple[EvaluatedAnswer, EvaluatedAnswer]]] = {}
    for old, new in joined:
        if old.category is not None:
            by_category.setdefault(old.category, []).append((old, new))
    return {
        name: _category([old for old, _ in pairs], [new for _, new in pairs], intervals, parser)
        for name, pairs in by_category.items()
    }


def _category(
    before: Sequence[EvaluatedAnswer],
    after: Sequence[EvaluatedAnswer],
    intervals: Intervals,
    parser: Parser,
) -> CategoryAccuracy:
    measure = _of_each(lambda row: is_right(row, parser), _has_gold)
    old, new = measure(before), measure(after)

    def estimate(observations: Observations) -> Estimate:
        return intervals.rate(list(observations.values()))

    return CategoryAccuracy(
        n=len(before),
        unparsed_before=_num_unparsed(before, parser),
        unparsed_after=_num_unparsed(after, parser),
        before=estimate(old),
        after=estimate(new),
        change=estimate(_differences(old, new)),
    )


def _num_unparsed(rows: Sequence[EvaluatedAnswer], parser: Parser) -> int:
    return sum(row.kind != "text" and parsed_choice(row, parser) is None for row in rows)


def _measured_by(rows: Sequence[EvaluatedAnswer]) -> list[str]:
    """Return what the accuracy of a set is of, in the order of its questions."""
    titles: dict[str, None] = {}
    for row in rows:
        if _has_gold(row):
            text = "judged" if row.was_judged("judged") else "exact match"
            titles[{"letter": "letter", "yes_no": "yes/no"}.get(row.kind, text)] = None
    return list(titles)


def _rules_differ(row: EvaluatedAnswer) -> bool:
    """Return whether the published rule judges an answer other than the strict one."""
    return row.published_correct is not None and row.published_correct != row.correct


def _has_gold(row: EvaluatedAnswer) -> bool:
    return row.gold is not None


def _number(value: bool | None) -> float | None:
    return None if value is None else float(value)
