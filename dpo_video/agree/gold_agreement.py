"""A judge held against gold labels: measures of agreement, calibration, the suggested margin, and
two judges on the same answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dpo_video.agree.calibration import (
    Calibration,
    MarginSuggestion,
    calibrate,
    ordered_pairs,
    suggest_margin,
)
from dpo_video.agree.gold import Gold, LabelTargets, annotator_alpha, read_gold
from dpo_video.agree.gold_votes import is_votes_file, read_gold_votes
from dpo_video.agree.measures import (
    BootstrapSettings,
    Measure,
    Measures,
    Unmeasured,
    chance_best_of_n,
    difference,
    estimate,
    gold_measures,
)
from dpo_video.agree.toy_gold import toy_gold
from dpo_video.core.records import Candidate
from dpo_video.core.report import Estimate
from dpo_video.judge.scorer import Scorer
from dpo_video.recipe import AgreeSettings
from dpo_video.run import Run
from dpo_video.video import file_name


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldSummary:
    """What the gold labels are."""

    source: str
    kind: str
    """`graded` or `paired`."""
    labels: int
    answers: int
    samples: int
    clips: int
    annotators: int
    ties: int
    both_bad: int | None = None
    """Votes that both answers are bad, which are ties too; None in labels that cannot say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldAgreement:
    """What the judge is against gold labels."""

    measures: Measures
    calibration: Calibration | Unmeasured
    min_margin: MarginSuggestion


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureComparison:
    """One measure of two judges, and second minus first."""

    first: Estimate
    second: Estimate
    difference: Estimate


def load_gold(run: Run, gold: str, candidates: Sequence[Candidate], scorer: Scorer) -> Gold:
    """Return the labels of a JSONL file, or those of the toy world."""
    if gold.startswith("toy:"):
        return toy_gold(run, gold, candidates)
    targets = LabelTargets(
        samples={sample.id: sample for sample in (*run.heldout, *run.samples)},
        candidates={candidate.id: candidate for candidate in candidates},
    )
    path = Path(gold).expanduser()
    if is_votes_file(path):
        return read_gold_votes(path, targets)
    return read_gold(path, targets, scorer)


def summarise_gold(gold: Gold) -> GoldSummary:
    """Return how many labels of what there are."""
    annotators = gold.annotators
    return GoldSummary(
        source=gold.source,
        kind="graded" if gold.grades else "paired",
        labels=len(gold.grades) + len(gold.preferences),
        answers=len(gold.answers),
        samples=len({sample.id for sample, _ in gold.answers.values()}),
        clips=len({file_name(sample.video) for sample, _ in gold.answers.values()}),
        annotators=len(annotators) if annotators != [""] else 0,
        ties=sum(sign == 0 for _, _, sign in gold.pairs()),
        both_bad=sum(row.both_bad for row in gold.preferences) or None,
    )


def measure_agreement(
    gold: Gold,
    scores: Mapping[str, float],
    scorer: Scorer,
    *,
    settings: AgreeSettings,
    bootstrap: BootstrapSettings,
) -> GoldAgreement:
    """Return measures, calibration and suggested margin of the judge's scores."""
    measures = {
        name: Measure(
            estimate=estimate(measure_input, bootstrap),
            chance=chance_best_of_n(gold) if name == "best_of_n" else None,
        )
        for name, measure_input in gold_measures(gold, scores, scorer).items()
    }
    if gold.grades and "kappa" not in measures:
        why_none = "gold and the scorer share no categories"
        measures["kappa"] = Measure(estimate=Estimate(value=None, why_none=why_none))
    alpha, num_units = annotator_alpha(gold)
    if num_units:
        measures["annotator_alpha"] = Measure(estimate=Estimate(value=alpha, n=num_units))
    pairs = ordered_pairs(gold, scores)
    calibration = calibrate(pairs, bins=settings.bins, bootstrap=bootstrap)
    suggestion = suggest_margin(pairs, precision=settings.precision, bootstrap=bootstrap)
    point = suggestion.point
    coverage = Estimate(
        value=0.0 if point is None else point.coverage,
        n=len(pairs.margin),
        unscored=int(np.isnan(pairs.margin).sum()),
    )
    return GoldAgreement(
        measures=measures
        | _calibration_measures(calibration)
        | {"coverage": Measure(estimate=coverage)},
        calibration=calibration,
        min_margin=suggestion,
    )


def compare_judges(
    gold: Gold,
    first: tuple[Mapping[str, float], Scorer],
    second: tuple[Mapping[str, float], Scorer],
    bootstrap: BootstrapSettings,
) -> dict[str, MeasureComparison]:
    """Return the measures that both judges have, given each judge's scores and scorer, with their
    paired differences.
    """
    inputs, other_inputs = gold_measures(gold, *first), gold_measures(gold, *second)
    return {
        name: MeasureComparison(
            first=estimate(inputs[name], bootstrap),
            second=estimate(other_inputs[name], bootstrap),
            difference=difference(inputs[name], other_inputs[name], bootstrap),
        )
        for name in inputs
        if name in other_inputs
    }


def _calibration_measures(calibration: Calibration | Unmeasured) -> Measures:
    if isinstance(calibration, Unmeasured):
        unmeasured = Estimate(
            value=None, unscored=calibration.unscored or 0, why_none=calibration.why_none
        )
        names = ("brier_before", "ece_before", "brier", "ece")
        return {name: Measure(estimate=unmeasured) for name in names}
    return {
        "brier_before": Measure(estimate=calibration.before.brier),
        "ece_before": Measure(estimate=calibration.before.ece),
        "brier": Measure(estimate=calibration.after.brier),
        "ece": Measure(estimate=calibration.after.ece),
    }
