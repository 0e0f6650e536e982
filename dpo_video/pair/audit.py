"""What is in the pairs of a run, beside the preference: length, position, samplers, duplicates,
margins, drops.

Read from the run folder; nothing is asked or made.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, read_rows, write_atomic
from dpo_video.core.records import Candidate, Judgment, Pair
from dpo_video.core.report import Estimate, json_form
from dpo_video.data.samples import load_samples
from dpo_video.pair.audit_measures import (
    AuditedAnswer,
    DropRow,
    count_duplicates,
    count_pairs,
    measure_lengths,
    measure_margins,
    measure_positions,
    measure_samplers,
    warnings,
)
from dpo_video.pair.audit_page import audit_page
from dpo_video.pair.audit_report import Audit
from dpo_video.pair.statistics import has_given_sides
from dpo_video.run import recipe_of
from dpo_video.video import clip_key, file_name, rejected_clip_key


def audit(folder: Path) -> Audit:
    """Write audit.json and audit.html into a run folder and return the numbers; UserError where it
    has no pairs.
    """
    if not (folder / "pairs.jsonl").is_file():
        raise UserError(
            f"no pairs.jsonl in {str(folder)!r}: it is no run's folder, or no pairs were made "
            f"there. Make them first: dpo-video pair RECIPE"
        )
    all_pairs = list(read_jsonl(folder / "pairs.jsonl", Pair))
    pairs = [
        pair for pair in all_pairs if clip_key(pair) == rejected_clip_key(pair)
    ]  # the others compare clips
    if not pairs:
        raise UserError(
            f"no pairs in {str(folder / 'pairs.jsonl')!r}: nothing to audit. Make them first: "
            "dpo-video pair RECIPE"
        )
    candidates = _optional(folder / "candidates.jsonl", Candidate)
    judgments = _optional(folder / "judgments.jsonl", Judgment)
    drops = _rows(folder / "drops.jsonl")
    clips = [file_name(pair.video) for pair in pairs]
    duplicates = count_duplicates(pairs, drops, judgments)
    length = measure_lengths(pairs, _scored_answers(folder, pairs, candidates, judgments), clips)
    position = measure_positions(pairs, candidates, clips)
    samplers = measure_samplers(pairs, candidates, clips)
    report = Audit(
        run=folder.name,
        counts=count_pairs(
            pairs,
            drops,
            _rows(folder / "cleaned.jsonl"),
            other_clip_pairs=len(all_pairs) - len(pairs),
        ),
        duplicates=duplicates,
        margin=measure_margins(pairs),
        length=length,
        position=position,
        samplers=samplers,
        warnings=warnings(length, position, {} if has_given_sides(pairs) else samplers, duplicates),
    )
    write_atomic(
        folder / "audit.json",
        strict_json.dumps(audit_row(report), indent=2, ensure_ascii=False) + "\n",
    )
    write_atomic(folder / "audit.html", audit_page(report))
    return report


def audit_row(report: Audit) -> dict[str, Any]:
    """Return an audit as audit.json holds it."""
    row: dict[str, Any] = json_form(report, _value_and_interval)
    return row


def _value_and_interval(estimate: Estimate) -> dict[str, Any]:
    interval = estimate.interval
    return {"value": estimate.value, "ci": None if interval is None else list(interval)}


def _scored_answers(
    folder: Path,
    pairs: Sequence[Pair],
    candidates: Sequence[Candidate],
    judgments: Sequence[Judgment],
) -> list[AuditedAnswer]:
    """Return every answer that was judged for itself; none where the run did not make them."""
    clips = {pair.sample_id: file_name(pair.video) for pair in pairs}
    if any(candidate.sample_id not in clips for candidate in candidates):
        samples = load_samples(recipe_of(folder), "samples", clean=False).samples
        clips = {sample.id: file_name(sample.video) for sample in samples}
    scores = {row.candidate_id: row.score for row in judgments if row.taken_from is None}
    answers = []
    for row in candidates:
        score = scores.get(row.id)
        if score is not None:
            answers.append(AuditedAnswer(row.sample_id, clips[row.sample_id], len(row.text), score))
    return answers


def _rows(path: Path) -> list[DropRow]:
    return [row for _, row in read_rows(path, "drops")] if path.is_file() else []


def _optional(path: Path, record: Any) -> list[Any]:
    return list(read_jsonl(path, record)) if path.is_file() else []
