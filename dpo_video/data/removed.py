"""RUN/cleaned.jsonl: what cleaning left out, a line each, samples first."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from dpo_video.core import strict_json
from dpo_video.core.jsonl import json_object, write_atomic
from dpo_video.core.records import Candidate

Unit = Literal["sample", "pair", "answer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """One sample, pair or answer that was left out."""

    unit: Unit
    id: str
    """Of the sample, of the sample that a pair is about, or of the candidate."""
    reason: str
    """The filter that left it out."""
    detail: str
    where: str
    """File and line of a sample or a pair; the sample's id of an answer."""


def removed_answer(candidate: Candidate, why: str) -> Removed:
    """Return the line of an answer that screening dropped, `why` being `reason: detail` or
    `reason`.
    """
    reason, _, detail = why.partition(": ")
    return Removed(
        unit="answer", id=candidate.id, reason=reason, detail=detail, where=candidate.sample_id
    )


def removal_counts(num_kept: int, rows: Sequence[Removed]) -> str:
    """Return in words how many samples came in and went out, and why the others did not."""
    counts = Counter(row.reason for row in rows)
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
    records = "pairs" if rows and rows[0].unit == "pair" else "samples"
    return f"{records} in {num_kept + len(rows)}, out {num_kept} ({reasons})"


def write_removed(folder: Path, unit: Literal["sample", "answer"], rows: Iterable[Removed]) -> None:
    """Put the lines of samples (or given pairs), or those of answers, into cleaned.jsonl in place
    of those that were there; the others stay.
    """
    is_answers = unit == "answer"
    path = folder / "cleaned.jsonl"
    before = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    units = [
        json_object(line.encode(), f"{path}:{number}").get("unit")
        for number, line in enumerate(before, start=1)
    ]
    unchanged = [
        line for line, unit in zip(before, units, strict=True) if (unit == "answer") != is_answers
    ]
    new = [strict_json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows]
    lines = unchanged + new if is_answers else new + unchanged
    if lines != before:
        write_atomic(path, lines)
