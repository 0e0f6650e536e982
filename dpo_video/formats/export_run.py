"""`dpo-video export`: a run's pairs for other trainers, or its best answers as SFT data (rejection
sampling).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_atomic
from dpo_video.core.names import choose
from dpo_video.core.records import Candidate, Judgment, Pair, Sample
from dpo_video.formats.context import Video
from dpo_video.formats.exporters import EXPORTERS, BestAnswer, Exporter
from dpo_video.formats.fields import Dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSource:
    """What is exported: a run's files, or a file of pairs."""

    folder: Path
    samples: Callable[[], list[Sample]]
    """The run's samples, for questions and clips of best answers."""
    threshold: float
    """Least score of a best answer."""
    clips: Callable[[Video], str] | None = None
    """Returns the new address of a clip that goes along; None leaves clips where they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What an export made."""

    num_rows: int
    dropped: dict[str, int]
    """What the format cannot say, by reason."""


def export_run(name: str, source: ExportSource, out_path: Path) -> ExportReport:
    """Write a run's pairs, or best answers, in a format; what the format cannot say is dropped and
    counted.

    A file that ends in .json is a JSON list, as trainers that load it whole want it; any other has
    an object a line.
    """
    exporter = choose(EXPORTERS, name, "format")
    if out_path.suffix == ".parquet":
        raise UserError(
            f"--out is {str(out_path)!r}: an export is JSON. Name it .jsonl (an object a line) or "
            ".json (a list)"
        )
    log = _ExportLog()
    rows = log.rows(_written(exporter, source))
    write_atomic(out_path, _as_list(rows) if out_path.suffix == ".json" else _as_lines(rows))
    if not log.num_rows:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in log.dropped.most_common())
        raise UserError(
            f"nothing to export from {str(source.folder)!r} as {name}: {reasons or 'no rows'}"
        )
    return ExportReport(num_rows=log.num_rows, dropped=dict(log.dropped.most_common()))


class _ExportLog:
    """What is written, counted."""

    def __init__(self) -> None:
        self.num_rows = 0
        self.dropped: Counter[str] = Counter()

    def rows(self, outcomes: Iterator[str | Dropped]) -> Iterator[str]:
        """Yield the rows among the outcomes."""
        for outcome in outcomes:
            if isinstance(outcome, Dropped):
                self.dropped[outcome.reason] += 1
            else:
                self.num_rows += 1
                yield outcome


def _written(exporter: Exporter, source: ExportSource) -> Iterator[str | Dropped]:
    """Yield each record as a row of JSON in the format, or why it cannot say it."""
    records = best_answers(source) if exporter.of == "best" else _pairs(source)
    for record in records:
        if isinstance(record, Dropped):
            yield record
            continue
        try:
            row = exporter.write(record)  # first: what the format cannot say needs no clip
            if source.clips is not None:
                clip = source.clips(record.video)
                row = {"clip_file_name": clip, **exporter.write(replace(record, video=clip))}
            yield strict_json.dumps(row, ensure_ascii=False)
        except Dropped as error:
            yield error


def _as_lines(rows: Iterator[str]) -> Iterator[str]:
    for row in rows:
        yield row + "\n"


def _as_list(rows: Iterator[str]) -> Iterator[str]:
    yield "["
    separator = ""
    for row in rows:
        yield separator + row
        separator = ",\n"
    yield "]\n"


def _pairs(source: ExportSource) -> Iterator[Pair | Dropped]:
    for pair in read_jsonl(source.folder / "pairs.jsonl", Pair):
        seconds = (pair.start, pair.end, pair.rejected_start, pair.rejected_end)
        if any(second is not None for second in seconds):
            yield Dropped("part of a file", pair.sample_id)
        else:
            yield pair


def best_answers(source: ExportSource) -> Iterator[BestAnswer | Dropped]:
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
            yield Dropped("no whole answer with a score", identity)
        elif best[identity][0] < source.threshold:
            yield Dropped("best answer below the threshold", identity)
        elif sample.start is not None or sample.end is not None:
            yield Dropped("part of a file", identity)
        else:
            score, candidate = best[identity]
            yield BestAnswer(
                sample_id=identity,
                video=sample.video,
                prompt=sample.prompt,
                history=sample.history,
                answer=candidate.text,
                score=score,
            )
