"""The conditions of `evaluate.require` held against what was measured. Pure."""

from collections.abc import Mapping, Sequence

from dpo_video.core.report import Estimate
from dpo_video.evaluate.set_report import SetMetrics
from dpo_video.evaluate.set_verdict import SetVerdict
from dpo_video.recipe.requirement import EvaluationRequirement, parse_requirement

ROUNDING = 1e-9
"""Numbers that differ by less are the same: 0.7 - 0.01 is not 0.69 in binary."""


def unmet_requirements(
    requirements: Sequence[str],
    sets: Mapping[str, SetMetrics],
    verdicts: Sequence[SetVerdict],
) -> list[str]:
    """Return why each condition that does not hold does not, a sentence each; a metric without a
    value meets none.
    """
    reasons: list[str] = []
    for text in requirements:
        requirement = parse_requirement(text, sets=None)
        if requirement is None:
            worse = [verdict for verdict in verdicts if verdict.outcome == "worse"]
            reasons += [f"{text} not met: {verdict.sentence}" for verdict in worse]
        elif requirement.set_name not in sets:
            reasons.append(f"{text} not met: {requirement.set_name} was not evaluated")
        else:
            reasons += _unmet(requirement, sets[requirement.set_name])
    return reasons


def _unmet(requirement: EvaluationRequirement, metrics: SetMetrics) -> list[str]:
    before: Estimate | None = getattr(metrics.before, requirement.metric)
    after: Estimate | None = getattr(metrics.after, requirement.metric)
    bound, from_before = requirement.bound, ""
    if after is None or after.value is None:
        return [f"{requirement.text} not met: {requirement.metric} was not measured after"]
    if requirement.is_relative:
        if before is None or before.value is None:
            return [f"{requirement.text} not met: {requirement.metric} was not measured before"]
        bound += before.value
        from_before = f"{before.value:.4g} before, "
    room = after.value - bound if requirement.sign == ">=" else bound - after.value
    if room >= -ROUNDING:
        return []
    return [f"{requirement.text} not met: {from_before}{after.value:.4g} after, off by {-room:.4g}"]
