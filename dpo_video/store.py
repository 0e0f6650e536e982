"""The run folder: a SQLite (WAL) working store, one writer, finished stages, a lock with the owner's pid."""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dpo_video.errors import UserError

COMMIT_ROWS = 100
COMMIT_SECONDS = 1.0
HASHED_BYTES = 1 << 30
SCHEMA = """
create table if not exists rows (
    kind text not null, key text not null, body text not null, primary key (kind, key)) without rowid;
create table if not exists stages (
    name text primary key, fingerprint text not null, seconds real not null, summary text not null);
"""


def row_key(**parts: Any) -> str:
    """Return the sha256 of all that determines a row, as canonical JSON: same parts, same key."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def content_hash(path: Path) -> str:
    """Return the sha256 of a file, or of the names and contents of all files below a folder.

    A file over 1 GiB counts by size and time of change instead of content: weights would take minutes to read. A copy
    of it then counts as another file, which costs a repetition and never reuses a wrong row.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    facts = [(file, file.stat()) for file in files]
    return _hash_files(tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in facts))


@lru_cache
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, size, changed in files:
        if size > HASHED_BYTES:
            digest.update(f"{path.name}: {size} bytes, {changed}\n".encode())
            continue
        with path.open("rb") as content:
            digest.update(f"{path.name}: {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


class RunStore:
    """Rows of a run by kind and key. Open it with `with RunStore(folder) as store:`; it holds the folder's lock.

    Rows are JSON objects. They are committed at most 100 rows or one second after they were put, so a killed
    process loses at most those; `flush` commits at once. A full disk raises UserError and loses nothing stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the run folder {str(folder)!r}: {error.strerror}") from error
        self._lock = _lock(folder)
        self._waiting = 0
        self._committed = time.monotonic()
        try:
            self._db = sqlite3.connect(folder / "store.sqlite", isolation_level=None, check_same_thread=False)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=normal")
            self._db.executescript(SCHEMA)
        except sqlite3.Error as error:
            self._lock.unlink(missing_ok=True)
            raise UserError(f"cannot use {str(folder / 'store.sqlite')!r}: {error}. "
                            "Is it a dpo-video run folder on a disk with working locks?") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            self.flush()
        finally:
            self._db.close()
            self._lock.unlink(missing_ok=True)

    def get(self, kind: str, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the stored rows among `keys`, by key."""
        found: dict[str, dict[str, Any]] = {}
        wanted = list(keys)
        for begin in range(0, len(wanted), 500):
            some = wanted[begin:begin + 500]
            marks = ",".join("?" * len(some))
            query = f"select key, body from rows where kind = ? and key in ({marks})"
            found.update((key, json.loads(body)) for key, body in self._db.execute(query, [kind, *some]))
        return found

    def known(self, kind: str, keys: Iterable[str]) -> set[str]:
        """Return those of `keys` that a stored row has, rows whose `status` is `failed` aside; rows are not read in."""
        found: set[str] = set()
        wanted = list(keys)
        for begin in range(0, len(wanted), 500):
            some = wanted[begin:begin + 500]
            marks = ",".join("?" * len(some))
            query = (f"select key from rows where kind = ? and key in ({marks}) "
                     "and json_extract(body, '$.status') is not 'failed'")
            found.update(key for key, in self._db.execute(query, [kind, *some]))
        return found

    def put(self, kind: str, key: str, body: Mapping[str, Any]) -> None:
        """Store a row, replacing the one under the same key."""
        try:
            if self._waiting == 0:
                self._db.execute("begin")
                self._committed = time.monotonic()
            self._db.execute("insert or replace into rows values (?, ?, ?)",
                             (kind, key, json.dumps(body, ensure_ascii=False)))
            self._waiting += 1
        except sqlite3.OperationalError as error:
            raise UserError(f"cannot write to {str(self.folder)!r}: {error}. What was stored before is safe; "
                            "make room and run the same command again") from error
        if self._waiting >= COMMIT_ROWS or time.monotonic() - self._committed > COMMIT_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Commit what was put."""
        if self._waiting == 0:
            return
        try:
            self._db.execute("commit")
        except sqlite3.OperationalError as error:
            with suppress(sqlite3.Error):
                self._db.execute("rollback")
            raise UserError(f"cannot write to {str(self.folder)!r}: {error}. What was stored before is safe; "
                            "make room and run the same command again") from error
        finally:
            self._waiting = 0

    def finished(self, stage: str) -> dict[str, Any] | None:
        """Return `{"fingerprint", "seconds", "summary"}` of a finished stage, or None."""
        row = self._db.execute("select fingerprint, seconds, summary from stages where name = ?", [stage]).fetchone()
        return None if row is None else {"fingerprint": row[0], "seconds": row[1], "summary": json.loads(row[2])}

    def finish(self, stage: str, *, fingerprint: str, seconds: float, summary: Mapping[str, Any]) -> None:
        """Record that a stage is done with the settings and inputs behind `fingerprint`."""
        self.flush()
        self._db.execute("insert or replace into stages values (?, ?, ?, ?)",
                         (stage, fingerprint, seconds, json.dumps(summary)))


def _lock(folder: Path) -> Path:
    """Take the folder's lock file; it holds the owner's pid and outlives only a killed owner."""
    path = folder / "lock"
    for _ in range(3):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            owner = path.read_text().strip() if path.exists() else ""
            if owner.isdigit() and _alive(int(owner)):
                raise UserError(f"the run folder {str(folder)!r} is in use by process {owner}. Wait for it, stop it, "
                                "or give this run another `name`") from None
            path.unlink(missing_ok=True)
            continue
        with os.fdopen(handle, "w") as out:
            out.write(str(os.getpid()))
        return path
    raise UserError(f"cannot take the lock {str(path)!r}: other processes take it at the same moment; try again")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
