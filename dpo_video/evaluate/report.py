"""The records of an evaluation, and metrics.json: written from them, read back as them."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_atomic
from dpo_video.core.report import Estimate
from dpo_video.evaluate.set_report import (
    SetMetrics,
    estimate_entries,
    estimate_of,
    set_of,
    set_row,
)
from dpo_video.evaluate.set_verdict import SetVerdict, verdict_of_row, verdict_row

MEASURES = 4
"""Counts up where a number of metrics.json means something else than before: such files are made
anew, from the answers and verdicts that are stored.
"""
JUDGED = frozenset({"judged_score", "hallucination_rate"})
"""Estimates whose unscored answers are counted in the file even where there are none."""
FORMER_NAMES = {"exact_match": "accuracy"}
"""What files of earlier versions call an estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerMetrics:
    """One model's answers; or, question by question, those after less those before."""

    n: int
    exact_match: Estimate
    """Share of answers equal to the gold answer up to case, spaces and punctuation."""
    judged_score: Estimate
    hallucination_rate: Estimate | None = None
    """Share of the scored answers below the hallucination scorer's threshold; None without it."""
    answer_length: Estimate
    """Characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRates:
    """How often the tuned answer scores higher than the base model's."""

    scorer: str
    judge: str | None
    hallucination_scorer: str | None
    n: int
    win: int
    tie: int
    loss: int
    unscored: int
    """Questions with an answer that has no score: left out on both sides."""
    tie_margin: float
    """Scores that differ by less are a tie."""
    win_rate: Estimate
    """(wins + ties / 2) / (n - unscored)."""
    length_controlled_win_rate: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class PairwiseWinRates:
    """How often a pairwise scorer prefers the tuned answer in both orders."""

    scorer: str
    failed: int
    """Comparisons that did not come: the next run asks again."""
    n: int
    win: int
    tie: int
    """Questions whose orders disagree, or whose answers are the same."""
    loss: int
    unscored: int
    win_rate: Estimate
    better_probability: Estimate
    """P(tuned better), mean over both orders."""
    compared: int
    """Questions that the judge was asked about and answered."""
    swap_inconsistent: float | None
    """Share of these whose orders disagree."""
    first_position_gain: float | None
    """How much standing first adds to P(better)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldoutPairMetrics:
    """Whether the tuned model prefers the chosen answers of pairs that were not trained on."""

    n: int
    reward_accuracy: Estimate
    """Share of pairs whose chosen answer has the higher implicit reward."""
    margin: Estimate
    """Implicit reward of chosen less that of rejected, beta x nats."""
    questions: dict[str, int]
    questions_dropped: dict[str, int]
    answers: dict[str, int]
    answers_dropped: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldoutCounts:
    """What was evaluated on."""

    samples: int
    clips: int
    unanswered: int
    """Samples whose clip cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """All that an evaluation found, in the layout of metrics.json."""

    before: AnswerMetrics
    after: AnswerMetrics
    change: AnswerMetrics
    judged: WinRates
    compared: PairwiseWinRates | None = None
    """None without a pairwise scorer."""
    heldout_pairs: HeldoutPairMetrics
    heldout: HeldoutCounts
    sets: dict[str, SetMetrics] = field(default_factory=dict)
    """That of `data.heldout` and those of `evaluate.sets`; empty in files of earlier versions."""
    verdicts: list[SetVerdict] = field(default_factory=list)
    """What came of each set, worst first."""
    exact_match_hidden: str | None = None
    """Why tables leave the exact match out; None where they show it."""
    adapter: str | None = None
    """Content hash of the adapter that was measured; None in files of earlier versions."""
    seconds: dict[str, float]
    """By stage."""


SECTIONS = {
    "before": AnswerMetrics,
    "after": AnswerMetrics,
    "change": AnswerMetrics,
    "judged": WinRates,
    "compared": PairwiseWinRates,
    "heldout_pairs": HeldoutPairMetrics,
    "heldout": HeldoutCounts,
}
ReportPart = TypeVar("ReportPart")


def write_metrics(path: Path, metrics: Metrics) -> None:
    """Write metrics.json: each estimate as `<name>`, `<name>_ci` and `<name>_n`, with
    `<name>_unscored` and `<name>_bounds` where answers have no score.
    """
    write_atomic(path, strict_json.dumps(metrics_row(metrics), indent=2) + "\n")


def metrics_row(metrics: Metrics) -> dict[str, Any]:
    """Return the metrics as metrics.json holds them."""
    row: dict[str, Any] = {}
    for entry in fields(metrics):
        value = getattr(metrics, entry.name)
        if entry.name == "sets":
            row["sets"] = {name: set_row(each) for name, each in metrics.sets.items()}
        elif entry.name == "verdicts":
            row["verdicts"] = [verdict_row(verdict) for verdict in metrics.verdicts]
        elif value is not None:
            row[entry.name] = _section_row(value) if entry.name in SECTIONS else value
    return row


def read_metrics(path: Path) -> Metrics:
    """Return what a metrics.json holds, also one of an earlier version."""
    if not path.is_file():
        raise UserError(f"no metrics at {str(path)!r}; make them first: dpo-video evaluate RECIPE")
    try:
        row = strict_json.loads(path.read_text(encoding="utf-8"))
        sections: dict[str, Any] = {
            name: _section(kind, row[name]) for name, kind in SECTIONS.items() if name in row
        }
        return Metrics(
            **sections,
            sets={name: set_of(each) for name, each in row.get("sets", {}).items()},
            verdicts=[verdict_of_row(each) for each in row.get("verdicts", [])],
            exact_match_hidden=row.get("exact_match_hidden"),
            adapter=row.get("adapter"),
            seconds=row["seconds"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{str(path)!r} is damaged ({type(error).__name__}: {error}). Delete it and make it "
            f"anew from what is stored: dpo-video evaluate RECIPE"
        ) from error


def _section_row(section: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for entry in fields(section):
        value = getattr(section, entry.name)
        if isinstance(value, Estimate):
            row |= estimate_entries(entry.name, value, always=entry.name in JUDGED)
        elif value is not None or entry.default is MISSING:
            row[entry.name] = value
    return row


def _section(kind: type[ReportPart], row: Mapping[str, Any]) -> ReportPart:
    """Return a section as its record, from its part of metrics.json."""
    contents: dict[str, Any] = {}
    for entry in fields(kind):  # type: ignore[arg-type]
        name = entry.name
        if entry.type is Estimate or Estimate in get_args(entry.type):
            name = FORMER_NAMES.get(name, name) if name not in row else name
            if name in row:
                contents[entry.name] = estimate_of(name, row)
        elif name in row:
            contents[name] = row[name]
    return kind(**contents)
