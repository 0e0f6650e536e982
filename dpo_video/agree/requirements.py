"""Every measure by name with what it means, and `--require pair_accuracy>=0.75,ece<=0.08` held
against them.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from dpo_video.agree.measures import Measure
from dpo_video.agree.probes import KINDS
from dpo_video.agree.swaps import SWAPS
from dpo_video.core.errors import UserError
from dpo_video.core.names import choose

Group = Literal["gold", "calibration", "noise", "swaps", "styles", "all"]


class Meaning(NamedTuple):
    """How a measure is shown."""

    title: str
    group: Group
    share: bool = True
    """Shown in per cent."""


MEASURES: dict[str, Meaning] = {
    "pair_accuracy": Meaning("pair accuracy (a tie of the judge counts half)", "gold"),
    "pair_accuracy_dropped": Meaning("pair accuracy without the judge's ties", "gold"),
    "pair_accuracy_three_class": Meaning("better, worse or tie", "gold"),
    "best_of_n": Meaning("best of N", "gold"),
    "both_bad_low": Meaning(
        "answers voted both bad that score below the scorer's threshold", "gold"
    ),
    "kappa": Meaning("Cohen's kappa, quadratic weights", "gold", share=False),
    "spearman": Meaning("Spearman's rho", "gold", share=False),
    "kendall": Meaning("Kendall's tau-b", "gold", share=False),
    "annotator_alpha": Meaning(
        "annotators among themselves, Krippendorff's alpha", "gold", share=False
    ),
    "brier_before": Meaning("Brier score, temperature 1", "calibration", share=False),
    "brier": Meaning("Brier score, fitted temperature", "calibration", share=False),
    "ece_before": Meaning("calibration error, temperature 1", "calibration", share=False),
    "ece": Meaning("calibration error, fitted temperature", "calibration", share=False),
    "coverage": Meaning("pairs kept at the suggested margin", "calibration"),
    "noise_sigma": Meaning("noise of one score (sigma)", "noise", share=False),
    "flip_rate": Meaning("pairs that change order when judged again", "noise"),
    "question_first_flip_rate": Meaning("... with the question before the caption", "noise"),
    "answer_first_flip_rate": Meaning("... with the answer before the caption", "noise"),
    **{f"auc_{kind}": Meaning(f"{kind} swapped", "swaps", share=False) for kind in SWAPS},
    **{
        f"{kind}_{what}": Meaning(
            f"{kind.replace('_', ', ')}: {title}", "styles", share=what == "raised"
        )
        for kind, sort in KINDS.items()
        if sort == "style"
        for what, title in (("shift", "change of score"), ("raised", "share whose score rose"))
    },
    "unscored": Meaning("texts that got no score", "all"),
}
COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


CONDITION = re.compile(r"(\w+)\s*(>=|<=|>|<)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """One condition on a measure."""

    measure: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.measure}{self.sign}{self.bound:g}"


def read_requirements(text: str, *, with_gold: bool) -> list[Requirement]:
    """Return the conditions of a comma-separated list; UserError for one that is unknown or not
    measured here.
    """
    requirements = []
    for condition in filter(None, map(str.strip, text.split(","))):
        match = CONDITION.fullmatch(condition)
        if match is None:
            raise UserError(
                f"--require {condition!r}: write it as measure>=number or measure<=number, "
                "e.g. pair_accuracy>=0.75,ece<=0.08"
            )
        name = match[1]
        meaning = choose(MEASURES, name, "measure in --require")
        if meaning.group in ("gold", "calibration") and not with_gold:
            raise UserError(
                f"--require {condition}: {name} is measured against gold labels; give --gold"
            )
        try:
            requirements.append(Requirement(measure=name, sign=match[2], bound=float(match[3])))
        except ValueError as error:
            raise UserError(f"--require {condition!r}: {match[3]!r} is not a number") from error
    return requirements


def unmet(requirement: Requirement, measures: Mapping[str, Measure]) -> str:
    """Return why a condition does not hold, with by how much, or an empty string; one without a
    value is not met.
    """
    if requirement.measure not in measures:
        return f"{requirement} not met: not measured here"
    estimate = measures[requirement.measure].estimate
    if estimate.value is None:
        return f"{requirement} not met: {estimate.why_none or 'undefined on this data'}"
    if COMPARE[requirement.sign](estimate.value, requirement.bound):
        return ""
    gap = abs(estimate.value - requirement.bound)
    return f"{requirement} not met: it is {estimate.value:.4g}, short by {gap:.4g}"
