"""RUN/cleaned.jsonl: what cleaning left out, a line each, samples first."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from dpo_video.core.jsonl import write_atomic
from dpo_video.core.records import Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """One sample or answer that was left out."""

    unit: Literal["sample", "answer"]
    id: str
    """Of the sample, or of the candidate."""
    reason: str
    """The filter that left it out."""
    detail: str
    where: str
    """File and line of a sample; the sample's id of an answer."""


def dropped_answer(candidate: Candidate, why: str) -> Removed:
    """Return the line of an answer that screening dropped, `why` being `reason: detail` or
    `reason`.
    """
    reason, _, detail = why.partition(": ")
    return Removed(
        unit="answer", id=candidate.id, reason=reason, detail=detail, where=candidate.sample_id
    )


def describe(num_kept: int, rows: Sequence[Removed]) -> str:
    """Return in words how many samples came in and went out, and why the others did not."""
    reasons = ", ".join(
        f"{reason} {count}" for reason, count in Counter(row.reason for row in rows).most_common()
    )
    return f"samples in {num_kept + len(rows)}, out {num_kept} ({reasons})"


def write_removed(folder: Path, unit: Literal["sample", "answer"], rows: Iterable[Removed]) -> None:
    """Put the lines of one unit into cleaned.jsonl in place of those that were there; the other
    unit's lines stay.
    """
    path = folder / "cleaned.jsonl"
    before = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    kept = [line for line in before if json.loads(line)["unit"] != unit]
    new = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows]
    lines = new + kept if unit == "sample" else kept + new
    if lines != before:
        write_atomic(path, lines)
