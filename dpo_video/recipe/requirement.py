"""What `evaluate.require` demands of the tuned model, and how it is written.

no_regression                              no set came out worse
videohallucer.accuracy >= before - 0.01    after, against before
heldout.hallucination_rate <= 0.2          after, against a number
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from dpo_video.core.names import did_you_mean

NO_REGRESSION = "no_regression"
NUMBER = r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
CONDITION = re.compile(
    rf"(?P<set>\S+)\.(?P<metric>\w+)\s*(?P<sign>>=|<=)\s*"
    rf"(?:(?P<before>before)(?:\s*(?P<direction>[+-])\s*(?P<shift>{NUMBER}))?"
    rf"|(?P<bound>-?{NUMBER}))"
)
METRICS = (
    "accuracy",
    "strict_accuracy",
    "published_accuracy",
    "exact_match",
    "contains",
    "judged",
    "letter",
    "yes_no",
    "all_of_group",
    "yes_rate",
    "yes_difference",
    "false_positive_ratio",
    "judged_score",
    "hallucination_rate",
    "answer_length",
)
"""What metrics.json tells of each set."""
FORMS = (
    f"`{NO_REGRESSION}`, `SET.METRIC >= before - 0.01`, `SET.METRIC <= before + 0.01` or "
    "`SET.METRIC >= 0.5`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequirement:
    """One condition on a metric of a set, after training."""

    text: str
    """As it stands in the recipe."""
    set_name: str
    metric: str
    sign: Literal[">=", "<="]
    is_relative: bool
    """Whether `bound` is added to what the metric was before."""
    bound: float


def parse_requirement(
    text: str, *, sets: Collection[str] | None, metrics: Collection[str] = METRICS
) -> EvaluationRequirement | None:
    """Return the condition that a text states, or None for `no_regression`.

    Raises ValueError for what is written otherwise, and for a set or a metric that is not known.

    Args:
        sets: that can be named; None for one that was read before.
    """
    if text.strip() == NO_REGRESSION:
        return None
    match = CONDITION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"cannot read {text!r}: write {FORMS}. {_known(sets, metrics)}")
    for noun, name, names in (
        ("set", match["set"], sets),
        ("metric", match["metric"], metrics),
    ):
        if names is not None and name not in names:
            near = did_you_mean(name, names)
            raise ValueError(f"{text!r}: no {noun} {name!r}.{near} {_known(sets, metrics)}")
    shift = float(f"{match['direction'] or ''}{match['shift'] or 0}")
    return EvaluationRequirement(
        text=text.strip(),
        set_name=match["set"],
        metric=match["metric"],
        sign=">=" if match["sign"] == ">=" else "<=",
        is_relative=match["before"] is not None,
        bound=shift if match["before"] else float(match["bound"]),
    )


def _known(sets: Collection[str] | None, metrics: Collection[str]) -> str:
    return f"Sets: {', '.join(sets or ())}. Metrics: {', '.join(metrics)}"
