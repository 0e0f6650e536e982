"""Rows of any data file as a stream: JSONL, a JSON list, CSV, TSV, Parquet, or a Hugging Face
dataset; flat memory.
"""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.strict_json import TooDeep
from dpo_video.core.text import replace_lone_surrogates, shortened
from dpo_video.formats.json_list import read_json_list

ForeignRow = dict[str, Any]
BATCH_ROWS = 100
"""Rows of a Parquet file in memory at a time; one may hold a whole clip."""
MAX_DEPTH = 100
"""Levels of objects and lists in a row; no format has more than seven."""
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def read_foreign_rows(source: str) -> Iterator[tuple[str, ForeignRow]]:
    """Yield each row with where it stands (file:line, or file and row number).

    A `.json` or `.jsonl` file is read by what is in it: a list of objects, or an object a line.
    `hf:NAME` or `hf:NAME:SPLIT` streams a dataset from the hub, and a folder is one that `datasets`
    has saved. Values are such as our own files can hold: see `_plain`.
    """
    for where, row in _open(source):
        try:
            plain = {name: _plain(value) for name, value in row.items()}
        except TooDeep as error:
            raise UserError(_too_deep(where)) from error
        yield where, plain


def _too_deep(where: str) -> str:
    return (
        f"{where}: nested deeper than {MAX_DEPTH} levels, which no format is. Leave the row "
        "out, or the field that is nested so"
    )


def _plain(value: Any, depth: int = 1) -> Any:
    """Return a value with None for NaN, which pandas writes for what is missing, and U+FFFD for
    half a character.
    """
    if depth > MAX_DEPTH:
        raise TooDeep
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, str):
        return replace_lone_surrogates(value)
    if isinstance(value, list):
        return [_plain(element, depth + 1) for element in value]
    if isinstance(value, dict):
        return {name: _plain(element, depth + 1) for name, element in value.items()}
    return value


def _open(source: str) -> Iterator[tuple[str, ForeignRow]]:
    if source.startswith("hf:"):
        return _read_hub(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return _read_saved(path)
    if not path.is_file():
        raise UserError(
            f"no file at {source!r}. Give a file ({', '.join(SUFFIXES)}), the folder of a saved "
            "dataset, or hf:NAME of one on the hub"
        )
    return _read_file(path, source)


def _read_file(path: Path, source: str) -> Iterator[tuple[str, ForeignRow]]:
    try:
        yield from _rows_of_file(path, source)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text ({error.reason}). Save it as UTF-8, e.g. with iconv"
        ) from error


def _rows_of_file(path: Path, source: str) -> Iterator[tuple[str, ForeignRow]]:
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


def _read_lines(path: Path) -> Iterator[tuple[str, ForeignRow]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = strict_json.loads_foreign(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{where}: not JSON ({error.msg} at column {error.colno}). Each line must "
                    "hold one object, or the file one list"
                ) from error
            except TooDeep as error:
                raise UserError(_too_deep(where)) from error
            except ValueError as error:  # an integer of more digits than Python reads
                raise UserError(f"{where}: {error}") from error
            yield where, _object(row, where)


def _read_list(path: Path) -> Iterator[tuple[str, ForeignRow]]:
    number = 0
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, row in enumerate(read_json_list(file), start=1):
                yield f"{path}: row {number}", _object(row, f"{path}: row {number}")
        except TooDeep as error:
            raise UserError(_too_deep(f"{path}: row {number + 1}")) from error
        except (UserError, UnicodeDecodeError):
            raise
        except ValueError as error:
            raise UserError(f"{path}: not JSON after row {number}: {error}") from error


def _read_table(path: Path, *, delimiter: str) -> Iterator[tuple[str, ForeignRow]]:
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(
                        f"{path}:{reader.line_num}: {len(reader.fieldnames or [])} columns are "
                        "named, and the row has another number of them"
                    )
                yield f"{path}:{reader.line_num}", dict(row)
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: not a table: {error}") from error


def _read_parquet(path: Path) -> Iterator[tuple[str, ForeignRow]]:
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except _damage() as error:
        after = f" after row {number}" if number else ""
        raise UserError(
            f"{path}: not a Parquet file, or a damaged one{after}: {_first_line(error)}. Get the "
            "file again"
        ) from error


def _read_saved(path: Path) -> Iterator[tuple[str, ForeignRow]]:
    import datasets

    try:
        dataset = datasets.load_from_disk(str(path))
    except FileNotFoundError as error:
        raise UserError(
            f"{str(path)!r} is a folder, and no dataset that `datasets` has saved there"
        ) from error
    except _damage() as error:
        raise UserError(
            f"cannot read the dataset that was saved in {str(path)!r}: {_first_line(error)}"
        ) from error
    if isinstance(dataset, datasets.DatasetDict):
        raise UserError(
            f"{str(path)!r} holds several splits: give the folder of one, e.g. "
            f"{path / next(iter(dataset))}"
        )
    number = 0
    try:
        # as Arrow, so that no clip is decoded
        for batch in dataset.with_format("arrow").iter(batch_size=BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row
    except _damage() as error:
        raise UserError(
            f"cannot read the dataset in {str(path)!r} past row {number}: {_first_line(error)}"
        ) from error


def _read_hub(source: str) -> Iterator[tuple[str, ForeignRow]]:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    _, _, address = source.partition(":")
    name, _, split = address.partition(":")
    # the bases are those of the HTTP library, whichever this version of huggingface_hub is built on
    failures: tuple[Any, ...] = (*_damage(), *HfHubHTTPError.__bases__)
    number = 0
    try:
        dataset = datasets.load_dataset(name, split=split or "train", streaming=True)
        for number, row in enumerate(_undecoded(dataset), start=1):
            yield f"{source}: row {number}", dict(row)
    except failures as error:
        step = (
            f"read the dataset {name!r} past row {number}"
            if number
            else f"open the dataset {name!r}"
        )
        raise UserError(
            f"cannot {step}: {_first_line(error)}. Check the name, the split "
            f"{split or 'train'!r} and the network"
        ) from error


def _undecoded(dataset: Any) -> Any:
    """Return a streamed dataset whose clips, pictures and sounds stay what they are stored as, path
    and bytes: to decode them takes torchcodec, and each is decoded where it is needed.
    """
    for name, feature in (dataset.features or {}).items():
        undecoded = _undecoded_feature(feature)
        if undecoded != feature:
            dataset = dataset.cast_column(name, undecoded)
    return dataset


def _undecoded_feature(feature: Any) -> Any:
    import datasets

    if isinstance(feature, datasets.Video | datasets.Image | datasets.Audio):
        return type(feature)(decode=False)
    if isinstance(feature, datasets.List):
        return datasets.List(_undecoded_feature(feature.feature), length=feature.length)
    if isinstance(feature, dict):
        return {name: _undecoded_feature(member) for name, member in feature.items()}
    return feature


def _damage() -> tuple[type[Exception], ...]:
    """Return what pyarrow and datasets raise for files that are not what they say."""
    import pyarrow as pa
    from datasets.exceptions import DatasetsError

    return (
        pa.ArrowException,
        DatasetsError,
        OSError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        MemoryError,
        NotImplementedError,
    )


def _first_line(error: BaseException) -> str:
    return (str(error) or repr(error)).splitlines()[0][:200]


def _object(row: Any, where: str) -> ForeignRow:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, got {shortened(repr(row))}")
    return row
