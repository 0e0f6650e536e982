"""Records as JSON lines: read with errors that name file and line, written whole or not at all."""

import json
import math
import os
import re
import tempfile
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from pydantic_core import from_json

from dpo_video.core.errors import UserError
from dpo_video.core.names import did_you_mean
from dpo_video.core.records import AnyRecord, Candidate, Judgment, Pair, Record, Reward, Sample
from dpo_video.core.text import replace_lone_surrogates

HINTS: dict[type, dict[str, Any]] = {
    kind: get_type_hints(kind) for kind in (Sample, Candidate, Judgment, Reward, Pair)
}


REQUIRED = {
    kind: {field.name for field in fields(kind) if field.default is MISSING} for kind in HINTS
}


LIST = re.compile(rb"\s*\[\s*(\{|$)")
"""How a file begins that holds one list of objects."""
RIGHT: set[tuple[object, ...]] = set()
"""Kinds with the fields and types of rows that were found right: most rows look like the one
before.
"""


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
    words = {
        str: "a string in quotes",
        float: "a number",
        int: "an integer",
        bool: "true or false",
        NoneType: "null",
        list: "a list",
        dict: "an object",
    }
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
            raise UserError(
                f"{where}: unknown field `{key}`.{did_you_mean(key, hints)} "
                f"A {kind.__name__} has: {', '.join(hints)}"
            )
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


def try_rows(path: Path, what: str) -> Iterator[tuple[int, dict[str, Any] | UserError]]:
    """Yield the JSON object of each line of a JSONL file of `what` with the number of its line, or
    what is wrong with the line.
    """
    for number, _, line in _lines(path, what):
        try:
            row: dict[str, Any] | UserError = json_object(line, f"{path}:{number}")
        except UserError as error:
            row = error
        yield number, row


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
            text = (
                line.removeprefix(BOM_UTF8) if number == 1 else line
            )  # Windows editors begin files with it
            if not begin and LIST.match(text):
                raise UserError(
                    f"{path}: a JSON list, and {what} stand an object a line. Turn it into JSONL: "
                    f"dpo-video import table {path} --out {path.with_suffix('.jsonl').name}"
                )
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
        raise UserError(
            f"{where}: expected one JSON object a line, got {line.decode().strip()[:40]!r}"
        )
    return row


def _slowly(line: bytes, where: str) -> Any:
    """Return what a line holds that `from_json` does not take: half a surrogate pair becomes
    U+FFFD, else say what is.
    """
    try:
        return json.loads(
            replace_lone_surrogates(
                json.dumps(DECODER.decode(line.decode().strip()), ensure_ascii=False)
            )
        )
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise UserError(f"{where}: not JSON of ours: it is nested too deeply") from error
    except ValueError as error:  # an integer of more digits than Python reads
        raise UserError(f"{where}: not JSON of ours ({error})") from error


def _no_number(name: str) -> None:
    raise json.JSONDecodeError(f"{name} is no number of JSON; leave the field out", name, 0)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise json.JSONDecodeError(f"{digits[:20]} is larger than any number here", digits, 0)
    return number


DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)
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
