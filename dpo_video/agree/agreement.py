"""All that is measured of a judge, and how agreement.json holds it."""

from dataclasses import dataclass
from typing import Any

from dpo_video.agree.calibration import Calibration, MarginSuggestion
from dpo_video.agree.gold_agreement import GoldSummary, MeasureComparison
from dpo_video.agree.measures import Measures, Unmeasured
from dpo_video.agree.noise import NoiseReport
from dpo_video.agree.probes import ProbeReport
from dpo_video.core.report import estimate_row, json_form


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeName:
    """Which judge, asked through what, with which scorer."""

    name: str
    backend: str
    scorer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeComparison:
    """A second judge's measures of agreement on the same labels."""

    judge: JudgeName
    measures: dict[str, MeasureComparison]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedCounts:
    """How many texts were judged, and what became of them."""

    texts: int
    asked: int
    answered_before: int
    unscored: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RequirementResult:
    """A condition, and why it is not met; empty where it is."""

    text: str
    unmet: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How far a judge is to be trusted."""

    run: str
    gold: GoldSummary | None
    measures: Measures
    judge: JudgeName
    calibration: Calibration | Unmeasured | None = None
    """None without gold, as is `min_margin`."""
    min_margin: MarginSuggestion | None = None
    noise: NoiseReport | Unmeasured
    probes: ProbeReport | Unmeasured
    against: JudgeComparison | None = None
    asked: AskedCounts
    noise_sigma: float | None
    requirements: list[RequirementResult]


def agreement_row(report: Agreement) -> dict[str, Any]:
    """Return a report as agreement.json holds it: a measure is its estimate with what belongs to
    it, and the suggested margin stands beside what it was chosen from.
    """
    row: dict[str, Any] = json_form(report)
    for name, measure in report.measures.items():
        extra = {"chance": measure.chance, "without": measure.without}
        row["measures"][name] = estimate_row(measure.estimate) | {
            key: value for key, value in extra.items() if value is not None
        }
    if report.min_margin is not None:
        row["min_margin"] = margin_row(report.min_margin)
    if report.against is not None:
        for name, comparison in report.against.measures.items():
            row["against"]["measures"][name]["difference"]["unscored"] = [
                comparison.first.unscored,
                comparison.second.unscored,
            ]
    return row


def margin_row(suggestion: MarginSuggestion) -> dict[str, Any]:
    """Return a suggestion as one flat object; precision, coverage and n only where a margin is
    suggested.
    """
    row: dict[str, Any] = {
        "wanted": suggestion.wanted,
        "min_pairs": suggestion.min_pairs,
        "min_margin": None,
        "pairs": suggestion.pairs,
        "best": suggestion.best,
        "curve": json_form(suggestion.curve),
    }
    if suggestion.point is None or suggestion.precision is None:
        return row
    interval = suggestion.precision.interval
    return (
        row
        | json_form(suggestion.point)
        | {"precision_ci": None if interval is None else list(interval)}
    )
