"""`dpo-video export`: a run's pairs for other trainers, or its best answers as SFT data (rejection
sampling).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_atomic
from dpo_video.core.names import choose
from dpo_video.core.records import Candidate, Judgment, Pair, Sample
from dpo_video.formats.exporters import EXPORTERS, BestAnswer
from dpo_video.formats.fields import Dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is exported: a run's files, or a file of pairs."""

    folder: Path
    samples: Callable[[], list[Sample]]
    """The run's samples, for questions and clips of best answers."""
    threshold: float
    """Least score of a best answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export made."""

    rows: int
    dropped: dict[str, int]


def export_run(name: str, source: Source, out: Path) -> Exported:
    """Write a run's pairs, or best answers, in a format; what the format cannot say is dropped and
    counted.

    A file that ends in .json is a JSON list, as trainers that load it whole want it; any other has
    an object a line.
    """
    exporter = choose(EXPORTERS, name, "format")
    dropped: Counter[str] = Counter()
    kept = 0

    if out.suffix == ".parquet":
        raise UserError(
            f"--out is {str(out)!r}: an export is JSON. Name it .jsonl (an object a line) or .json "
            "(a list)"
        )
    whole = out.suffix == ".json"

    def lines() -> Iterator[str]:
        nonlocal kept
        if whole:
            yield "["
        for record in (
            _pairs(source, dropped) if exporter.of == "pairs" else best_answers(source, dropped)
        ):
            try:
                row: dict[str, Any] = exporter.write(record)
            except Dropped as error:
                dropped[error.reason] += 1
                continue
            kept += 1
            yield (
                (",\n" if whole and kept > 1 else "")
                + json.dumps(row, ensure_ascii=False)
                + ("" if whole else "\n")
            )
        if whole:
            yield "]\n"

    write_atomic(out, lines())
    if not kept:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in dropped.most_common())
        raise UserError(
            f"nothing to export from {str(source.folder)!r} as {name}: {reasons or 'no rows'}"
        )
    return Exported(rows=kept, dropped=dict(dropped.most_common()))


def _pairs(source: Source, dropped: Counter[str]) -> Iterator[Pair]:
    for pair in read_jsonl(source.folder / "pairs.jsonl", Pair):
        if any(
            second is not None
            for second in (pair.start, pair.end, pair.rejected_start, pair.rejected_end)
        ):
            dropped["part of a file"] += 1
        else:
            yield pair


def best_answers(source: Source, dropped: Counter[str]) -> Iterator[BestAnswer]:
    """Yield each sample's best-scored whole answer at or above the threshold; of equal ones the
    first.

    Best-of-N rejection sampling: an answer that was cut at the token limit would teach to stop
    there.
    """
    samples = {sample.id: sample for sample in source.samples()}
    scores = {
        row.candidate_id: row.score
        for row in read_jsonl(source.folder / "judgments.jsonl", Judgment)
    }
    best: dict[str, tuple[float, Candidate]] = {}
    for candidate in read_jsonl(source.folder / "candidates.jsonl", Candidate):
        score = scores.get(candidate.id)
        if score is None or candidate.finish != "stop" or not candidate.text.strip():
            continue
        if candidate.sample_id not in best or score > best[candidate.sample_id][0]:
            best[candidate.sample_id] = score, candidate
    for identity, sample in samples.items():
        if identity not in best:
            dropped["no whole answer with a score"] += 1
        elif best[identity][0] < source.threshold:
            dropped["best answer below the threshold"] += 1
        elif sample.start is not None or sample.end is not None:
            dropped["part of a file"] += 1
        else:
            score, candidate = best[identity]
            yield BestAnswer(
                sample_id=identity,
                video=sample.video,
                prompt=sample.prompt,
                answer=candidate.text,
                score=score,
            )
