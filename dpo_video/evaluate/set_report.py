"""The records of a set's accuracy before and after, and their form in metrics.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from dpo_video.core.report import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAccuracy:
    """One model's answers to one set; or, question by question, those after less those before.

    A measure is None where the set has no such question.
    """

    n: int
    """Answers."""
    unparsed: int
    """Answers to questions to choose from that the parser could not read: wrong, and in every
    denominator. Of the change: how many more they are.
    """
    accuracy: Estimate
    """Share of right answers, each measured by the rule of its kind: see `measured_by`."""
    strict_accuracy: Estimate | None = None
    """By the strict rule, where it and the published rule read some answer differently."""
    published_accuracy: Estimate | None = None
    """By the published rule, in the same case."""
    exact_match: Estimate | None = None
    """Of text questions: equal to the gold answer up to case, spaces and punctuation."""
    contains: Estimate | None = None
    """Of text questions: the words of the gold answer stand in the answer."""
    judged: Estimate | None = None
    """Of text questions: right by `evaluate.correctness_scorer`."""
    letter: Estimate | None = None
    yes_no: Estimate | None = None
    all_of_group: Estimate | None = None
    """Share of groups whose answers are all right; a question without a group stands alone."""
    yes_rate: Estimate | None = None
    """Share of answers to yes/no questions that say yes."""
    yes_difference: Estimate | None = None
    """(answers that say yes - gold answers that are yes) / questions: above 0 it says yes too
    often.
    """
    false_positive_ratio: Estimate | None = None
    """Of the wrong answers to yes/no questions, those that say yes. The change has none: other
    answers are wrong.
    """
    judged_score: Estimate | None = None
    hallucination_rate: Estimate | None = None
    answer_length: Estimate
    """Characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryAccuracy:
    """Accuracy of one category of a set."""

    n: int
    """Questions that both models answered."""
    unparsed_before: int
    unparsed_after: int
    before: Estimate
    after: Estimate
    change: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMetrics:
    """A set before and after."""

    questions: int
    clips: int
    unanswered: int
    """Questions whose clip cannot be read, or that do not fit the model's context."""
    measured_by: list[str]
    """What `accuracy` is of: `letter`, `yes/no`, `judged`, `exact match`."""
    parser: str
    """Which rule reads letters, yes and no: `strict` or `published`."""
    before: SetAccuracy
    after: SetAccuracy
    change: SetAccuracy
    categories: dict[str, CategoryAccuracy] = field(default_factory=dict)
    """In the order of the set; empty where no question has one."""


MODELS = ("before", "after", "change")


def set_row(metrics: SetMetrics) -> dict[str, Any]:
    """Return a set as metrics.json holds it: each estimate as `<name>`, `<name>_ci`, `<name>_n`."""
    row: dict[str, Any] = {
        entry.name: getattr(metrics, entry.name)
        for entry in fields(metrics)
        if entry.name not in (*MODELS, "categories")
    }
    for model in MODELS:
        row[model] = _record_row(getattr(metrics, model))
    row["categories"] = {name: _record_row(each) for name, each in metrics.categories.items()}
    return row


def set_of(row: Mapping[str, Any]) -> SetMetrics:
    """Return a set from its part of metrics.json."""
    models: dict[str, Any] = {
        model: SetAccuracy(**_contents(SetAccuracy, row[model])) for model in MODELS
    }
    categories = {
        name: CategoryAccuracy(**_contents(CategoryAccuracy, each))
        for name, each in row["categories"].items()
    }
    plain = {
        entry.name: row[entry.name]
        for entry in fields(SetMetrics)
        if entry.name not in (*MODELS, "categories")
    }
    return SetMetrics(**plain, **models, categories=categories)


def estimate_entries(name: str, estimate: Estimate, *, always: bool = False) -> dict[str, Any]:
    """Return an estimate as entries of a JSON object, with `<name>_unscored` and `<name>_bounds`
    where observations have no score.

    Args:
        always: give the count of the unscored where it is 0, too.
    """
    row: dict[str, Any] = {
        name: estimate.value,
        f"{name}_ci": None if estimate.interval is None else list(estimate.interval),
        f"{name}_n": estimate.n,
    }
    if always or estimate.unscored:
        row[f"{name}_unscored"] = estimate.unscored
    if estimate.bounds is not None:
        row[f"{name}_bounds"] = list(estimate.bounds)
    return row


def estimate_of(name: str, row: Mapping[str, Any]) -> Estimate:
    """Return an estimate from its entries of a JSON object."""
    interval, bounds = row[f"{name}_ci"], row.get(f"{name}_bounds")
    return Estimate(
        value=row[name],
        interval=None if interval is None else (interval[0], interval[1]),
        n=row[f"{name}_n"],
        unscored=row.get(f"{name}_unscored", 0),
        bounds=None if bounds is None else (bounds[0], bounds[1]),
        why_no_interval="one clip" if interval is None and row[name] is not None else "",
    )


def _record_row(record: SetAccuracy | CategoryAccuracy) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for entry in fields(record):
        value = getattr(record, entry.name)
        if isinstance(value, Estimate):
            row |= estimate_entries(entry.name, value)
        elif value is not None:
            row[entry.name] = value
    return row


def _contents(kind: type, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a record from its JSON object; what is not there keeps its default."""
    contents: dict[str, Any] = {}
    for entry in fields(kind):
        if entry.name in row:
            is_estimate = f"{entry.name}_ci" in row
            contents[entry.name] = estimate_of(entry.name, row) if is_estimate else row[entry.name]
    return contents
