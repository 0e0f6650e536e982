"""Candidates and judgments of a run as Parquet shards with a manifest, in memory that does not grow
with the rows.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from itertools import chain, islice
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_atomic
from dpo_video.core.records import Candidate, Judgment

if TYPE_CHECKING:
    import pyarrow

SHARD_ROWS = 100_000
GROUP_ROWS = 10_000
"""Rows of a row group: what is in memory at a time."""
TABLES: dict[str, Any] = {"candidates": Candidate, "judgments": Judgment}
MANIFEST = "manifest.json"


def write_parquet(
    run_folder: Path, folder: Path, *, shard_rows: int = SHARD_ROWS
) -> dict[str, int]:
    """Write `<table>-<number>.parquet` (zstd) and manifest.json into `folder`, return rows by
    table.

    Every shard gets its name when it is whole, and the manifest is written last: rows, schema, and
    the sha256 of every shard. An earlier export in `folder` is replaced; other files there are
    refused.
    """
    sources = {table: run_folder / f"{table}.jsonl" for table in TABLES}
    for source in sources.values():
        if not source.is_file():
            raise UserError(
                f"no {source.name} in {str(run_folder)!r}: finish the judge stage first"
            )
    _make_room(folder)
    tables = {}
    for table, source in sources.items():
        rows = (asdict(record) for record in read_jsonl(source, TABLES[table]))
        tables[table] = _write_table(folder, table, rows, shard_rows=shard_rows)
    write_atomic(
        folder / MANIFEST,
        strict_json.dumps({"run": run_folder.name, "tables": tables}, indent=2) + "\n",
    )
    return {table: facts["rows"] for table, facts in tables.items()}


def _make_room(folder: Path) -> None:
    """Make the folder, and remove an earlier export, its manifest first: no manifest may tell of
    missing shards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ours: list[Path] = []
    strangers: list[str] = []
    for path in sorted(folder.iterdir()):
        is_shard = path.name.removeprefix(".").startswith(tuple(f"{table}-" for table in TABLES))
        if is_shard or path.name == MANIFEST:
            ours.append(path)
        else:
            strangers.append(path.name)
    if strangers:
        raise UserError(
            f"{str(folder)!r} holds other files ({strangers[0]}): give --parquet a folder of its "
            "own"
        )
    for path in sorted(ours, key=lambda path: path.name != MANIFEST):
        path.unlink()


def _write_table(
    folder: Path, table: str, rows: Iterator[Mapping[str, Any]], *, shard_rows: int
) -> dict[str, Any]:
    schema = schema_of(TABLES[table])
    shards: list[dict[str, Any]] = []
    while (first := next(rows, None)) is not None:
        name = f"{table}-{len(shards):05d}.parquet"
        count = _write_shard(
            folder / f".{name}", schema, chain([first], islice(rows, shard_rows - 1))
        )
        (folder / f".{name}").replace(folder / name)
        with (folder / name).open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        shards.append(
            {"file": name, "rows": count, "bytes": (folder / name).stat().st_size, "sha256": digest}
        )
    return {
        "rows": sum(shard["rows"] for shard in shards),
        "shards": shards,
        "schema": {field.name: str(field.type) for field in schema},
    }


def _write_shard(path: Path, schema: "pyarrow.Schema", rows: Iterator[Mapping[str, Any]]) -> int:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    texts = [field.name for field in schema if field.metadata]
    count = 0
    with ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(islice(rows, GROUP_ROWS)):
            flat = [_with_json(row, texts) for row in group]
            writer.write_batch(pyarrow.RecordBatch.from_pylist(flat, schema=schema))
            count += len(group)
    return count


def schema_of(kind: type) -> "pyarrow.Schema":
    """Return the Arrow schema of a record: text, int64, float64, and label probabilities as a map;
    the rest as JSON.
    """
    import pyarrow

    simple = {
        str: pyarrow.string(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        bool: pyarrow.bool_(),
        dict[str, float]: pyarrow.map_(pyarrow.string(), pyarrow.float64()),
        list[str]: pyarrow.list_(pyarrow.string()),
    }
    hints = get_type_hints(kind)
    columns = []
    for field in fields(kind):
        hint, nullable = _without_none(hints[field.name])
        if hint in simple:
            columns.append(pyarrow.field(field.name, simple[hint], nullable=nullable))
        else:
            columns.append(
                pyarrow.field(
                    field.name, pyarrow.string(), nullable=True, metadata={"content": "json"}
                )
            )
    return pyarrow.schema(columns)


def _without_none(hint: Any) -> tuple[Any, bool]:
    """Return a type without None, and whether None was among it."""
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    types = [member for member in parts if member is not NoneType]
    if len(types) != 1:
        return hint, NoneType in parts
    is_simple = get_origin(types[0]) is None or types[0] in (dict[str, float], list[str])
    return types[0] if is_simple else hint, NoneType in parts


def _with_json(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return a row with some of its fields as JSON."""
    texts = {
        name: strict_json.dumps(row[name], ensure_ascii=False)
        for name in names
        if row[name] is not None
    }
    return {**row, **texts}
