"""Records as JSON lines: read with errors that name file and line, written whole or not at all."""

import json
import os
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.names import did_you_mean
from dpo_video.core.records import EarlierTurn, Judgment, Pair, Record, Sample
from dpo_video.core.text import replace_lone_surrogates, shortened
from dpo_video.core.turns import turn_rows

ADAPTERS: dict[type, TypeAdapter[Any]] = {}
WRITTEN_BY_PEOPLE = (Sample, Pair)
"""A field may stand twice in their lines. Candidates and judgments come by the million, and from
here.
"""
LIST = re.compile(rb"\s*\[\s*(\{|$)")
"""How a file begins that holds one list of objects."""


def _adapter(kind: type) -> TypeAdapter[Any]:
    """Return what checks the rows of a record; it is made when first asked for."""
    if kind not in ADAPTERS:
        ADAPTERS[kind] = TypeAdapter(kind)
    return ADAPTERS[kind]


def _field_names(kind: Any) -> list[str]:
    """Return the names of a record's fields in declared order."""
    return list(kind.__dataclass_fields__)


def _quoted_names(kind: type) -> list[bytes]:
    """Return the fields, as they stand in a line, of a record that people write."""
    names = _field_names(kind) if kind in WRITTEN_BY_PEOPLE else []
    return [f'"{name}"'.encode() for name in names]


def _in_words(hint: Any) -> str:
    """Return what JSON calls a kind of value."""
    if isinstance(hint, UnionType):
        return " or ".join(_in_words(kind) for kind in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(repr(value) for value in get_args(hint))
    words = {
        str: "a string in quotes",
        float: "a number",
        int: "an integer",
        bool: "true or false",
        NoneType: "null",
        list: "a list",
        tuple: "a list",
        dict: "an object",
    }
    return words[get_origin(hint) or hint]


def from_dict(kind: type[Record], row: Mapping[str, Any], where: str) -> Record:
    """Build a record from a mapping; `where` (file:line) opens every error message."""
    try:
        # not strict: the field that is not finite is to be named
        record: Record = _adapter(kind).validate_json(json.dumps(row))
    except ValidationError as error:
        raise UserError(f"{where}: {_problem(kind, row, error)}") from None
    return record


def _problem(kind: type, row: Mapping[str, Any], error: ValidationError) -> str:
    """Return what is wrong with a row: the first field that is unknown, else missing or of a wrong
    type.
    """
    details = error.errors(include_url=False)
    unknown = [row for row in details if row["type"] == "unexpected_keyword_argument"]
    unknown.sort(key=lambda row: len(row["loc"]))
    detail = (unknown or details)[0]
    if not detail["loc"]:  # no field, but the JSON of the row
        return "not JSON of ours: it is nested too deeply"
    name = str(detail["loc"][0])
    if name == "history" and len(detail["loc"]) > 1:
        return _turn_problem(row["history"], detail)
    if unknown:
        names = _field_names(kind)
        return (
            f"unknown field `{name}`.{did_you_mean(name, names)} A {kind.__name__} has: "
            f"{', '.join(names)}"
        )
    if detail["type"] == "missing":
        return f"missing `{name}`. Every {kind.__name__.lower()} needs it."
    value = shortened(repr(row[name]))
    if detail["type"] == "finite_number":
        return f"`{name}` must be a finite number, got {value}"
    return f"`{name}` must be {_in_words(get_type_hints(kind)[name])}, got {value}"


def _turn_problem(history: Sequence[Any], detail: Mapping[str, Any]) -> str:
    """Return what is wrong with one turn of a `history`."""
    index, *names = detail["loc"][1:]
    where = f"`history`, turn {index + 1}"
    if not names:
        return (
            f"{where} must be an object with `question` and `answer`, got "
            f"{shortened(repr(history[index]))}"
        )
    if detail["type"] == "unexpected_keyword_argument":
        known = _field_names(EarlierTurn)
        return (
            f"{where}: unknown field `{names[0]}`.{did_you_mean(str(names[0]), known)} A turn has: "
            f"{', '.join(known)}"
        )
    if detail["type"] == "missing":
        return f"{where}: missing `{names[0]}`. Every turn needs a question and its answer"
    return (
        f"{where}: `{names[0]}` must be a string in quotes, got "
        f"{shortened(repr(history[index][names[0]]))}"
    )


def read_jsonl(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Yield the records of a JSONL file, one line at a time; blank lines are allowed."""
    return (record for _, _, record in _read(path, kind))


def read_lines(path: Path, kind: type[Record]) -> Iterator[tuple[int, Record]]:
    """Yield the records of a JSONL file, each with the number of its line."""
    return ((number, record) for number, _, record in _read(path, kind))


def read_places(path: Path, kind: type[Record]) -> Iterator[tuple[int, Record]]:
    """Yield the records of a JSONL file, each with the byte at which its line begins."""
    return ((begin, record) for _, begin, record in _read(path, kind))


def read_rows(path: Path, content: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the JSON object of each line of a JSONL file of `what`, with the number of its line."""
    for number, _, line in _lines(path, content):
        yield number, json_object(line, f"{path}:{number}")


def try_rows(path: Path, content: str) -> Iterator[tuple[int, dict[str, Any] | UserError]]:
    """Yield the JSON object of each line of a JSONL file of `what` with the number of its line, or
    what is wrong with the line.
    """
    for number, _, line in _lines(path, content):
        try:
            row: dict[str, Any] | UserError = json_object(line, f"{path}:{number}")
        except UserError as error:
            row = error
        yield number, row


def _read(path: Path, kind: type[Record]) -> Iterator[tuple[int, int, Record]]:
    validate, names = _adapter(kind).validate_json, _quoted_names(kind)
    for number, begin, line in _lines(path, f"{kind.__name__} records"):
        try:
            record = validate(line)
        except ValidationError:
            where = f"{path}:{number}"
            record = from_dict(kind, json_object(line, where), where)
        if b"NaN" in line or b"Infinity" in line or (names and _has_twice(line, names)):
            _carefully(line, f"{path}:{number}")  # it may be no more than a word of a text
        yield number, begin, record


def _has_twice(line: bytes, names: list[bytes]) -> bool:
    return any(line.count(name) > 1 for name in names)


def _lines(path: Path, content: str) -> Iterator[tuple[int, int, bytes]]:
    """Yield each line that is not blank with its number and the byte at which it begins."""
    if not path.is_file():
        raise UserError(f"no file at {str(path)!r}: expected a JSONL file of {content}")
    begin = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            text = (
                line.removeprefix(BOM_UTF8) if number == 1 else line
            )  # Windows editors begin files with it
            if not begin and LIST.match(text):
                raise UserError(
                    f"{path}: a JSON list, and {content} stand an object a line. Turn it into "
                    f"JSONL: dpo-video import table {path} --out {path.with_suffix('.jsonl').name}"
                )
            if text.strip():
                yield number, begin + len(line) - len(text), text
            begin += len(line)


def json_object(line: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in a line of a file; `where` opens every error message."""
    try:
        row = from_json(line, allow_inf_nan=False)
    except ValueError:
        row = None
    if not isinstance(row, dict) or line.count(b'":') != len(row):  # nested, or a key stands twice
        row = _carefully(line, where)
    if not isinstance(row, dict):
        raise UserError(
            f"{where}: expected one JSON object a line, got {line.decode().strip()[:40]!r}"
        )
    return row


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object that a whole file holds; UserError with file and line for another one,
    also for one with NaN or Infinity, which JSON does not have.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        row = strict_json.loads(text.strip())
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        where = error.lineno if error.doc == text.strip() else _line_of(error.doc, text)
        raise UserError(f"{path}:{where}: not JSON ({error.msg})") from error
    except strict_json.TooDeep:
        raise UserError(f"{path}: not JSON of ours: it is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON of ours ({error})") from error
    if not isinstance(row, dict):
        raise UserError(f"{path}:1: expected one JSON object, got {text.strip()[:40]!r}")
    return row


def _line_of(token: str, text: str) -> int:
    """Return the line of a text on which a token stands first."""
    return text[: text.find(token)].count("\n") + 1


def _carefully(line: bytes, where: str) -> Any:
    """Return what a line holds, half a surrogate pair in it as U+FFFD; else say what is wrong."""
    try:
        return strict_json.loads(
            replace_lone_surrogates(
                strict_json.dumps(strict_json.loads(line.strip()), ensure_ascii=False)
            )
        )
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except strict_json.TooDeep:
        raise UserError(f"{where}: not JSON of ours: it is nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise UserError(f"{where}: not JSON of ours ({error})") from error


def as_row(record: Any) -> dict[str, Any]:
    """Return a record's fields in declared order, earlier turns as objects; other values are not
    copied.
    """
    row = {name: getattr(record, name) for name in _field_names(type(record))}
    if row.get("history") is not None:
        row["history"] = turn_rows(row["history"])
    return row


def to_json(record: Any) -> str:
    """Return a record as one line of JSON, fields in declared order, None fields left out."""
    row = {key: value for key, value in as_row(record).items() if value is not None}
    if isinstance(record, Pair) and record.rejected_finish == "stop":
        del row["rejected_finish"]
    if isinstance(record, Sample) and record.answer_kind == "text":
        del row["answer_kind"]
    if isinstance(record, Judgment):
        row.setdefault("score", None)
    return strict_json.dumps(row, ensure_ascii=False)


def write_atomic(path: Path, text: Iterable[str] | str) -> None:
    """Write a text file so that readers see the old content or the new, never a part of it.

    Who may read it, the process's umask says, as of any new file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        # a file name in the recipe need not be UTF-8
        with draft.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines([text] if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write records as JSONL atomically, in the order given."""
    write_atomic(path, (to_json(record) + "\n" for record in records))
