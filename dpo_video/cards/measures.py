"""The numbers of metrics.json as rows of a card, and as the hub's evaluation results."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from huggingface_hub import EvalResult

from dpo_video.agree.requirements import MEASURES as JUDGE_MEASURES
from dpo_video.core.report import Estimate, estimate_text
from dpo_video.evaluate import sets_table, summary
from dpo_video.evaluate.report import Metrics
from dpo_video.recipe.evaluate import HELDOUT

TASK = "video-text-to-text"
JUDGE_ROWS = ("pair_accuracy", "kappa", "spearman", "ece", "flip_rate", "noise_sigma")
"""What a card repeats of agreement.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardMeasure:
    """One measure of one set, before and after."""

    set: str
    title: str
    measure: str
    """Its name in metrics.json."""
    share: bool
    before: Estimate
    after: Estimate
    change: Estimate

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Before, after, change and n, as text."""
        plain = [replace(each, bounds=None) for each in (self.before, self.after)]
        texts = [estimate_text(each, share=self.share) for each in plain]
        change = estimate_text(replace(self.change, bounds=None), share=self.share, signed=True)
        return texts[0], texts[1], change, str(self.change.n)


def card_measures(metrics: Metrics) -> Iterator[CardMeasure]:
    """Yield every measure that the run's own tables show, set by set."""
    for title, name, share in summary.ROWS:
        hidden = name == "exact_match" and metrics.exact_match_hidden is not None
        if not hidden:
            yield from _measure(metrics, HELDOUT, title, name, share)
    for set_name, each in metrics.sets.items():
        if set_name != HELDOUT:
            for title, name, share in sets_table.ROWS:
                yield from _measure(each, set_name, title, name, share)


def _measure(section: Any, set_name: str, title: str, name: str, share: bool) -> Iterator[Any]:
    before, after, change = (
        getattr(getattr(section, model), name) for model in ("before", "after", "change")
    )
    if change is not None and after.value is not None:
        yield CardMeasure(
            set=set_name,
            title=title,
            measure=name,
            share=share,
            before=before,
            after=after,
            change=change,
        )


def eval_results(metrics: Metrics) -> list[EvalResult]:
    """Return the numbers after training as the hub's results; those before, and the intervals,
    stand in the arguments of each.
    """
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=row.set,
            dataset_name=row.set,
            metric_type=row.measure,
            metric_name=row.title,
            metric_value=row.after.value,
            metric_args={
                "interval_95": _interval(row.after),
                "before": row.before.value,
                "before_interval_95": _interval(row.before),
                "change": row.change.value,
                "change_interval_95": _interval(row.change),
                "n": row.change.n,
            },
        )
        for row in card_measures(metrics)
    ]


def _interval(estimate: Estimate) -> list[float] | None:
    return None if estimate.interval is None else list(estimate.interval)


def judge_rows(agreement: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Return the main measures of agreement.json: title, value with its interval, n."""
    rows = []
    for name in JUDGE_ROWS:
        measure = (agreement.get("measures") or {}).get(name)
        if isinstance(measure, Mapping) and measure.get("value") is not None:
            ends = measure.get("ci")
            estimate = Estimate(
                value=measure["value"], interval=(ends[0], ends[1]) if ends else None
            )
            meaning = JUDGE_MEASURES[name]
            text = estimate_text(estimate, share=meaning.share)
            rows.append((meaning.title, text, int(measure.get("n", 0))))
    return rows
