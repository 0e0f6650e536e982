"""The records that stages pass on, and their JSONL form with errors that name file and line."""

import json
import os
import tempfile
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic_core import from_json

from dpo_video.errors import UserError
from dpo_video.names import did_you_mean
from dpo_video.texts import without_halves


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question about one clip, with the caption that the judge reads as evidence."""

    id: str
    video: str | list[str]
    """A video file, a folder of frames, or a list of frame files; relative to `data.video_root`."""
    prompt: str
    caption: str
    answer: str | None = None
    """The gold answer; evaluation measures accuracy where it is given."""
    start: float | None = None
    """Seconds into the file where the clip begins."""
    end: float | None = None
    """Seconds into the file where the clip ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One answer of the policy to one sample."""

    id: str
    """`<sample id>#<k>`, k counting from 0."""
    sample_id: str
    text: str
    model: str
    settings: str
    """Hash of all that determines the text: model, revision, prompt, frames, sampler."""
    seed: int
    finish: str = "stop"
    """`stop` when the answer ended by itself, `length` when it was cut at `max_new_tokens`."""
    sampler: str | None = None
    """Which of `generate.mix` drew it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """What the judge made of one candidate: a score, or None with the reason."""

    candidate_id: str
    scorer: str
    """`<name>@<hash of the scorer file>`."""
    judge: str
    score: float | None
    status: str
    """`scored`, `unscored` (the judge answered, no valid verdict), `refused` (it never answers this prompt), `failed`
    (no answer; the next run asks again) or `dropped` (cleaning kept it from the judge)."""
    reason: str
    """The judge's explanation, or why there is no score."""
    reply: str
    distribution: dict[str, float] | None = None
    """Probability of each label, where the score is read from label probabilities."""
    taken_from: str | None = None
    """The candidate that was judged in place of this one, whose text is the same or nearly."""
    claims: list[dict[str, Any]] | None = None
    """Each claim of the answer with its likeliest label, its worth and its label probabilities, under `claims`."""
    details: dict[str, Any] | None = None
    """What else the score rests on: precision and coverage, comparisons, the scores of a jury, an escalation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What a policy makes of one candidate by itself."""

    candidate_id: str
    reward: float
    """Beta times the answer's log-prob under the policy less that under the reference: DPO's implicit reward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A chosen and a rejected answer to one sample: all that training needs, readable by people and TRL."""

    sample_id: str
    video: str | list[str]
    prompt: str
    chosen: str
    rejected: str
    chosen_score: float | None = None
    """The judge's; imported pairs may have none."""
    rejected_score: float | None = None
    source: str
    """The pair rule or the format that made it."""
    chosen_id: str
    rejected_id: str
    start: float | None = None
    end: float | None = None
    rejected_video: str | list[str] | None = None
    """The clip that the rejected answer goes with, where it is another one."""
    rejected_start: float | None = None
    """Seconds into the rejected answer's file where its clip begins, where that is another clip."""
    rejected_end: float | None = None
    """Seconds into that file where it ends."""
    rejected_corruption: str | None = None
    """What is done to the clip of the rejected answer, its own or `rejected_video`: `reverse`, `shuffle:N` or `drop:N`,
    N drawing the order of the frames, or those that stay (see video/corrupt.py)."""
    extra: dict[str, Any] | None = None
    """Fields of an imported row that are kept as they are."""
    rejected_finish: str = "stop"
    """`length` where the rejected answer was cut: training then leaves its end-of-turn token out."""
    implicit_margin: float | None = None
    """How much higher the policy's implicit reward of the chosen answer is, where rewards were given."""

    @property
    def scores(self) -> tuple[float, float]:
        """The scores of chosen and rejected; UserError where an imported pair has none."""
        if self.chosen_score is None or self.rejected_score is None:
            raise UserError(f"the pair of sample {self.sample_id!r} has no scores: it was imported without. Margins "
                            "are known of judged pairs only")
        return self.chosen_score, self.rejected_score


Record = TypeVar("Record", Sample, Candidate, Judgment, Reward, Pair)
AnyRecord = Sample | Candidate | Judgment | Reward | Pair
HINTS: dict[type, dict[str, Any]] = {kind: get_type_hints(kind) for kind in (Sample, Candidate, Judgment, Reward, Pair)}
REQUIRED = {kind: {field.name for field in fields(kind) if field.default is MISSING} for kind in HINTS}
RIGHT: set[tuple[object, ...]] = set()
"""Kinds with the fields and types of rows that were found right: most rows look like the one before."""


def _matches(value: object, hint: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_matches(value, part) for part in get_args(hint))
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_matches(item, get_args(hint)[0]) for item in value)
    if get_origin(hint) is dict:
        return isinstance(value, dict)
    if hint is NoneType:
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def _in_words(hint: Any) -> str:
    """Return what JSON calls a kind of value."""
    if isinstance(hint, UnionType):
        return " or ".join(_in_words(part) for part in get_args(hint))
    words = {str: "a string in quotes", float: "a number", int: "an integer", bool: "true or false", NoneType: "null",
             list: "a list", dict: "an object"}
    return words[get_origin(hint) or hint]


def from_dict(kind: type[Record], row: Mapping[str, Any], where: str) -> Record:
    """Build a record from a mapping; `where` (file:line) opens every error message."""
    looks = (kind, *row, *map(type, row.values()))
    if looks not in RIGHT:
        _check(kind, row, where)
        if list not in looks:  # whose items count, too
            RIGHT.add(looks)
    return kind(**row)


def _check(kind: type[Record], row: Mapping[str, Any], where: str) -> None:
    """Raise UserError for the first field that is unknown, missing or of a wrong type."""
    hints = HINTS[kind]
    for key in row:
        if key not in hints:
            raise UserError(f"{where}: unknown field `{key}`.{did_you_mean(key, hints)} "
                            f"A {kind.__name__} has: {', '.join(hints)}")
    for name, hint in hints.items():
        if name not in row:
            if name in REQUIRED[kind]:
                raise UserError(f"{where}: missing `{name}`. {_why_needed(kind, name)}")
        elif not _matches(row[name], hint):
            raise UserError(f"{where}: `{name}` must be {_in_words(hint)}, got {row[name]!r}")


def _why_needed(kind: type, name: str) -> str:
    if (kind, name) == (Sample, "caption"):
        return "Every sample needs the detailed caption that the judge scores answers against."
    return f"Every {kind.__name__.lower()} needs it."


def read_jsonl(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Yield the records of a JSONL file, one line at a time; blank lines are allowed."""
    return (record for _, _, record in _read(path, kind))


def read_lines(path: Path, kind: type[Record]) -> Iterator[tuple[int, Record]]:
    """Yield the records of a JSONL file, each with the number of its line."""
    return ((number, record) for number, _, record in _read(path, kind))


def read_places(path: Path, kind: type[Record]) -> Iterator[tuple[int, Record]]:
    """Yield the records of a JSONL file, each with the byte at which its line begins."""
    return ((begin, record) for _, begin, record in _read(path, kind))


def read_rows(path: Path, what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the JSON object of each line of a JSONL file of `what`, with the number of its line."""
    for number, _, line in _lines(path, what):
        yield number, json_object(line, f"{path}:{number}")


def _read(path: Path, kind: type[Record]) -> Iterator[tuple[int, int, Record]]:
    for number, begin, line in _lines(path, f"{kind.__name__} records"):
        where = f"{path}:{number}"
        yield number, begin, from_dict(kind, json_object(line, where), where)


def _lines(path: Path, what: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield each line that is not blank with its number and the byte at which it begins."""
    if not path.is_file():
        raise UserError(f"no file at {str(path)!r}: expected a JSONL file of {what}")
    begin = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            text = line.removeprefix(BOM_UTF8) if number == 1 else line  # Windows editors begin files with it
            if text.strip():
                yield number, begin + len(line) - len(text), text
            begin += len(line)


def json_object(line: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in a line of a file; `where` opens every error message."""
    try:
        row = from_json(line, allow_inf_nan=False)
    except ValueError:
        row = _slowly(line, where)
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected one JSON object a line, got {line.decode().strip()[:40]!r}")
    return row


def _slowly(line: bytes, where: str) -> Any:
    """Return what a line holds that `from_json` does not take: half a surrogate pair becomes U+FFFD, else say what is.
    """
    try:
        return json.loads(without_halves(json.dumps(DECODER.decode(line.decode().strip()), ensure_ascii=False)))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error


def _no_number(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is no number of JSON; leave the field out", name, 0)


DECODER = json.JSONDecoder(parse_constant=_no_number)
"""Python's own reads NaN and Infinity, which JSON does not have, and nothing here can work with."""


def as_row(record: AnyRecord) -> dict[str, Any]:
    """Return a record's fields in declared order; values are not copied."""
    return {name: getattr(record, name) for name in HINTS[type(record)]}


def to_json(record: AnyRecord) -> str:
    """Return a record as one line of JSON, fields in declared order, None fields left out."""
    row = {key: value for key, value in as_row(record).items() if value is not None}
    if isinstance(record, Pair) and record.rejected_finish == "stop":
        del row["rejected_finish"]
    if isinstance(record, Judgment):
        row.setdefault("score", None)
    return json.dumps(row, ensure_ascii=False)


def write_atomic(path: Path, text: Iterable[str] | str) -> None:
    """Write a text file so that readers see the old content or the new, never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        # a file name in the recipe need not be UTF-8
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as out:
            out.writelines([text] if isinstance(text, str) else text)
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_jsonl(path: Path, records: Iterable[AnyRecord]) -> None:
    """Write records as JSONL atomically, in the order given."""
    write_atomic(path, (to_json(record) + "\n" for record in records))
