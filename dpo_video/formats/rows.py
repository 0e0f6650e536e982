"""Rows of any data file as a stream: JSONL, a JSON list, CSV, TSV, Parquet, or a Hugging Face
dataset; flat memory.
"""

import csv
import json
import math
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.text import replace_lone_surrogates

Row = dict[str, Any]
BATCH_ROWS = 1000
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def read_rows(source: str) -> Iterator[tuple[str, Row]]:
    """Yield each row with where it stands (file:line, or file and row number).

    A `.json` or `.jsonl` file is read by what is in it: a list of objects, or an object a line.
    `hf:NAME` or `hf:NAME:SPLIT` streams a dataset from the hub, and a folder is one that `datasets`
    has saved. Values are such as our own files can hold: see `_plain`.
    """
    return (
        (where, {name: _plain(value) for name, value in row.items()})
        for where, row in _open(source)
    )


def _plain(value: Any) -> Any:
    """Return a value with None for NaN, which pandas writes for what is missing, and U+FFFD for
    half a character.
    """
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, str):
        return replace_lone_surrogates(value)
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value


def _open(source: str) -> Iterator[tuple[str, Row]]:
    if source.startswith("hf:"):
        return _read_hub(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_saved(path)
    if not path.is_file():
        raise UserError(
            f"no file at {source!r}. Give a file ({', '.join(SUFFIXES)}), the folder of a saved "
            f"dataset, "
            "or hf:NAME of one on the hub"
        )
    return _read_file(path, source)


def _read_file(path: Path, source: str) -> Iterator[tuple[str, Row]]:
    try:
        yield from _rows_of_file(path, source)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text ({error.reason}). Save it as UTF-8, e.g. with iconv"
        ) from error


def _rows_of_file(path: Path, source: str) -> Iterator[tuple[str, Row]]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path)
    if suffix in (".csv", ".tsv"):
        return _read_table(path, delimiter="," if suffix == ".csv" else "\t")
    if suffix not in SUFFIXES:
        raise UserError(
            f"{source!r}: the end of its name tells nothing. It must be one of "
            f"{', '.join(SUFFIXES)}"
        )
    return _read_list(path) if _opens_with(path) == "[" else _read_lines(path)


def _opens_with(path: Path) -> str:
    with path.open(encoding="utf-8-sig") as file:
        while (character := file.read(1)).isspace():
            pass
    return character


def _read_lines(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path}:{number}: not JSON ({error.msg} at column {error.colno}). Each line "
                    f"must "
                    "hold one object, or the file one list"
                ) from error
            yield f"{path}:{number}", _object(row, f"{path}:{number}")


def _read_list(path: Path) -> Iterator[tuple[str, Row]]:
    import ijson  # here: only this kind of file needs it

    number = 0
    with path.open("rb") as file:
        if file.read(len(BOM_UTF8)) != BOM_UTF8:
            file.seek(0)
        try:
            for number, row in enumerate(ijson.items(file, "item", use_float=True), start=1):
                yield f"{path}: row {number}", _object(row, f"{path}: row {number}")
        except ijson.JSONError as error:
            raise UserError(
                f"{path}: not JSON after row {number}: {str(error).splitlines()[0]}"
            ) from error


def _read_table(path: Path, *, delimiter: str) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        f"{path}:{reader.line_num}: {len(reader.fieldnames or [])} columns are "
                        f"named, and "
                        "the row has another number of them"
                    )
                yield f"{path}:{reader.line_num}", dict(row)
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: not a table: {error}") from error


def _read_parquet(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a Parquet file: {error}") from error


def _read_saved(path: Path) -> Iterator[tuple[str, Row]]:
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except FileNotFoundError as error:
        raise UserError(
            f"{str(path)!r} is a folder, and no dataset that `datasets` has saved there"
        ) from error
    if isinstance(found, datasets.DatasetDict):
        raise UserError(
            f"{str(path)!r} holds several splits: give the folder of one, e.g. "
            f"{path / next(iter(found))}"
        )
    for number, row in enumerate(found, start=1):
        yield f"{path}: row {number}", dict(row)


def _read_hub(source: str) -> Iterator[tuple[str, Row]]:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    _, _, rest = source.partition(":")
    name, _, split = rest.partition(":")
    number = 0
    try:
        for number, row in enumerate(
            datasets.load_dataset(name, split=split or "train", streaming=True), start=1
        ):
            yield f"{source}: row {number}", dict(row)
    except (
        OSError,
        ValueError,
        datasets.exceptions.DatasetsError,
        *HfHubHTTPError.__bases__,
    ) as error:
        # the bases are those of the HTTP library, whichever this version of huggingface_hub is
        # built on
        done = (
            f"read the dataset {name!r} past row {number}"
            if number
            else f"open the dataset {name!r}"
        )
        raise UserError(
            f"cannot {done}: {(str(error) or repr(error)).splitlines()[0][:200]}. Check the name, "
            f"the "
            f"split {split or 'train'!r} and the network"
        ) from error


def _object(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, got {json.dumps(row)[:60]}")
    return row
