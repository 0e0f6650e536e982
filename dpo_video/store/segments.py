"""Rows in append-only files, for file systems where SQLite cannot lock: each process that writes
has a file of its own.

`segments/<number>-<machine>-<pid>.jsonl`, one row a line with the CRC-32 of its text:
`{"crc32":"1a2b3c4d","row":["judgment","<key>",{...}]}`. A newer line replaces an older one with the
same kind and key; files count in the order of their numbers. A killed process leaves at most one
torn line, the last of its file. Rows are found through a SQLite index in the machine's own
temporary folder, which is built anew by every process.
"""

import json
import os
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.store.body import write_body
from dpo_video.store.database import Database, cannot_write
from dpo_video.store.writer import Row

OPENING = b'{"crc32":"%08x","row":'
OPENING_LENGTH = len(OPENING % 0)
STAGE = "finished stage"
"""The kind of the lines that record finished stages."""
BATCH = 1000
READ_JSON = json.JSONDecoder().raw_decode


class Segments:
    """Rows by kind and key, and finished stages, in the files of `folder/segments`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "segments"
        self._index_folder = tempfile.mkdtemp(prefix="dpo-video-index-")
        try:
            index = Path(self._index_folder) / "index.sqlite"
            for suffix in ("", "-wal"):  # rows of a run that was begun on another file system
                with suppress(FileNotFoundError):
                    shutil.copyfile(folder / f"store.sqlite{suffix}", f"{index}{suffix}")
            self._index = Database(index)
            self.path.mkdir(exist_ok=True)
            self.torn = read_segments(self.path, self._index)
            self._handle = _open_next(self.path)
            self._size = 0
        except BaseException:
            shutil.rmtree(self._index_folder)
            raise

    def commit(self, rows: Sequence[Row]) -> None:
        """Append rows, all or none."""
        self._append(b"".join(_line(row.kind, row.key, row.body) for row in rows))
        self._index.commit(rows)

    def _append(self, lines: bytes) -> None:
        try:
            if (
                os.fstat(self._handle).st_size != self._size
            ):  # a torn line that could not be taken back: end it
                lines = b"\n" + lines
            written = 0
            while written < len(lines):
                written += os.write(self._handle, lines[written:])
            self._size = os.fstat(self._handle).st_size
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._handle, self._size)
            raise cannot_write(self.path, error) from error

    def make_durable(self) -> None:
        """Wait until the file server has what was appended."""
        try:
            os.fsync(self._handle)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def get(self, kind: str, keys: Sequence[str]) -> dict[str, str]:
        """Return the bodies of the stored rows among `keys`."""
        return self._index.get(kind, keys)

    def known(self, kind: str, keys: Sequence[str], *, without: Sequence[str]) -> set[str]:
        """Return which of `keys` have a row, those with a status in `without` aside."""
        return self._index.known(kind, keys, without=without)

    def keys(self, kind: str, *, without: Sequence[str]) -> Iterator[str]:
        """Yield the keys of all rows of a kind, those with a status in `without` aside."""
        return self._index.keys(kind, without=without)

    def rows(self, kind: str) -> Iterator[tuple[str, str]]:
        """Yield key and body of all rows of a kind, by key."""
        return self._index.rows(kind)

    def finished(self, stage: str) -> dict[str, Any] | None:
        """Return `{"fingerprint", "seconds", "summary"}` of a finished stage, or None."""
        return self._index.finished(stage)

    def finish(
        self, stage: str, *, fingerprint: str, seconds: float, summary: Mapping[str, Any]
    ) -> None:
        """Record a finished stage."""
        body = {"fingerprint": fingerprint, "seconds": seconds, "summary": summary}
        self._append(_line(STAGE, stage, write_body(STAGE, body)))
        self._index.finish(stage, fingerprint=fingerprint, seconds=seconds, summary=summary)

    def close(self) -> None:
        """Close the file; one without a line is removed again."""
        try:
            os.fsync(self._handle)
        finally:
            os.close(self._handle)
            self._index.close()
            shutil.rmtree(self._index_folder)
        for path in self.path.glob(f"*-{_machine()}-{os.getpid()}.jsonl"):
            if path.stat().st_size == 0:
                path.unlink()


def read_segments(folder: Path, into: Database) -> int:
    """Copy the rows of all segments into a database, older ones first; return how many torn lines
    were dropped.
    """
    torn = 0
    for path in sorted(folder.glob("*.jsonl")):
        batch: list[Row] = []
        with path.open("rb") as lines:
            for line in lines:
                row = _read_line(line)
                if row is None:
                    torn += 1
                elif row.kind == STAGE:
                    into.finish(row.key, **strict_json.loads_earlier(row.body))
                else:
                    batch.append(row)
                if len(batch) == BATCH:
                    into.commit(batch)
                    batch = []
        into.commit(batch)
    return torn


def _line(kind: str, key: str, body: str) -> bytes:
    text = f"[{strict_json.dumps(kind)},{strict_json.dumps(key)},{body}]".encode()
    return OPENING % zlib.crc32(text) + text + b"}\n"


def _read_line(line: bytes) -> Row | None:
    """Return the row of a line; None where the line is not whole, or not what was written."""
    text = line[OPENING_LENGTH:-2]
    if not line.endswith(b"}\n") or line[:OPENING_LENGTH] != OPENING % zlib.crc32(text):
        return None
    row = text.decode()
    kind, end = READ_JSON(row, 1)
    key, end = READ_JSON(row, end + 1)
    return Row(kind, key, row[end + 1 : -1])


def _open_next(folder: Path) -> int:
    """Return a new file of this process's own, numbered behind all others."""
    while True:
        last = max((int(path.name.split("-")[0]) for path in folder.glob("*.jsonl")), default=-1)
        path = folder / f"{last + 1:06d}-{_machine()}-{os.getpid()}.jsonl"
        try:
            return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o666)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot write to {str(folder)!r}: {error.strerror}") from error


def _machine() -> str:
    """Return the machine's name as part of a file name."""
    return "".join(sign if sign.isalnum() else "_" for sign in socket.gethostname())
