"""Files of benchmarks as their authors give them: paths, read whole, and told by field where they
are of another version.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.text import shortened
from dpo_video.data.choices import LETTERS

SUFFIXES = (".json", ".jsonl", ".parquet")
VIDEO_SUFFIXES = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov")
"""Under which a clip lies on the disk that its benchmark calls `.mp4`, or by its name alone."""


def find_files(path: Path, names: Sequence[str], *, title: str, origin: str) -> list[Path]:
    """Return the files of a set: the one given, or those of the names in a folder, in that order.

    Raises UserError with the way to get them where there are none.
    """
    get = f"The files of {title} are not part of this project. Get them: {origin}"
    if path.is_dir():
        paths: list[Path] = []
        for name in names:
            matches = sorted(file for file in path.rglob(name) if file.suffix in SUFFIXES)
            if len(matches) > 1 and "*" not in name:
                raise UserError(
                    f"{path}: {len(matches)} files in it are called {name!r}, such as {matches[0]} "
                    f"and {matches[1]}: give the folder of the questions, or the file itself"
                )
            paths += matches
        if not paths:
            raise UserError(f"{path}: none of {', '.join(names)} in it. {get}")
        return paths
    if not path.is_file():
        raise UserError(f"no file at {str(path)!r}. {get}")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: its name must end in one of {', '.join(SUFFIXES)}. {get}")
    return [path]


def beside(path: Path, name: str, *, why: str) -> Path:
    """Return the file of a name in the folder of another; UserError says why it is needed."""
    neighbour = path.with_name(name)
    if not neighbour.is_file():
        raise UserError(f"{path}: needs {name!r} in the same folder: {why}")
    return neighbour


def read_published_json(path: Path, kind: type) -> Any:
    """Return the contents of a JSON file that is a list, or an object whose keys stand once."""
    if not path.is_file():
        raise UserError(f"no file at {str(path)!r}")
    try:
        contents = strict_json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(contents, kind):
        expected = "a list" if kind is list else "an object"
        raise UserError(f"{path}: expected {expected}, as published; got {type(contents).__name__}")
    return contents


def read_table(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each row with where it stands, of a JSON list, JSON lines or Parquet."""
    rows = _json_lines(path) if path.suffix == ".jsonl" else _numbered_rows(path)
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: expected an object, got {shortened(repr(row))}")
        yield where, row


def _numbered_rows(path: Path) -> Iterator[tuple[str, Any]]:
    rows = _parquet_rows(path) if path.suffix == ".parquet" else read_published_json(path, list)
    for index, row in enumerate(rows):
        yield f"{path}: row {index}", row


def _parquet_rows(path: Path) -> list[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        return list(pyarrow.parquet.read_table(path).to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file, or a damaged one: {error}") from error


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the value of each line that is not blank; another tool's may have NaN in it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield f"{path}:{number}", strict_json.loads_foreign(line.strip())
        except ValueError as error:
            raise UserError(f"{path}:{number}: not JSON ({error})") from error


def field(row: Any, name: str, where: str) -> Any:
    """Return a field of a row; UserError names the one that a file of another version lacks."""
    if not isinstance(row, Mapping) or row.get(name) is None:
        raise UserError(f"{where}: no field `{name}`: the file is of another version or benchmark")
    return row[name]


def text_field(row: Any, name: str, where: str) -> str:
    """Return a field that is a text and says something."""
    text = field(row, name, where)
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: `{name}` must be a text, got {shortened(repr(text))}")
    return text


def list_field(row: Any, name: str, where: str) -> list[Any]:
    """Return a field that is a list with something in it."""
    values = field(row, name, where)
    if not isinstance(values, list) or not values:
        raise UserError(f"{where}: `{name}` must be a list, got {shortened(repr(values))}")
    return values


def object_items(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the members of a part of a file that is an object by ids."""
    if not isinstance(value, Mapping):
        raise UserError(
            f"{where}: expected an object, got {shortened(repr(value))}: the file is of another "
            "version or benchmark"
        )
    yield from value.items()


def gold_yes_no(text: str, where: str) -> str:
    """Return a published gold answer (`Yes.`, `no`) as `yes` or `no`."""
    answer = text.strip().lower().rstrip(".")
    if answer not in ("yes", "no"):
        raise UserError(f"{where}: the gold answer {text!r} is neither yes nor no")
    return answer


def gold_letter(answer: str, options: Sequence[str], where: str) -> str:
    """Return the letter of the option that is the gold answer; of equal ones the last."""
    indices = [index for index, option in enumerate(options) if option == answer]
    if not indices:
        raise UserError(f"{where}: the answer {answer!r} is none of the options {list(options)}")
    if len(options) > len(LETTERS):
        raise UserError(f"{where}: {len(options)} options, more than there are letters")
    return LETTERS[indices[-1]]


def first_existing(clips: Path | None, *names: str) -> str:
    """Return the first of several paths at which a clip lies below the folder of clips, with its
    own or another video's suffix, else the first.
    """
    if clips is None:
        return names[0]
    for name in names:
        path = PurePosixPath(name)
        for suffix in dict.fromkeys((path.suffix, *VIDEO_SUFFIXES)):
            spelling = str(path.with_suffix(suffix))
            if (clips / spelling).exists():
                return spelling
    return names[0]
