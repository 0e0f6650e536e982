"""Rows in SQLite (WAL). Every call may come from any thread; a commit never waits for an fsync, see
`make_durable`.
"""

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.store.body import read_body, write_body
from dpo_video.store.writer import Row

PAGE = 500
LONG_PAGE = 10_000
"""Keys that are read at once where the rows stay on the disk."""
LONG_LOG_PAGES = 16_384
"""64 MiB of write-ahead log: longer than that, writing stops for one checkpoint."""
SCHEMA = """
create table if not exists rows (
    kind text not null, key text not null, body text not null, primary key (kind, key));
create table if not exists stages (
    name text primary key, fingerprint text not null, seconds real not null, summary text not null);
"""


class Database:
    """A SQLite file with rows by kind and key, and finished stages."""

    def __init__(self, path: Path, *, shared_seconds: float | None = None) -> None:
        """Open or make the file.

        Args:
            shared_seconds: how long a process waits for another one that writes, where several
                share the file; the first row of a key then stays. None: this process alone writes,
                a newer row replaces an older one, and `make_durable` is called now and then.
        """
        self.path = path
        self._lock = threading.Lock()
        shared = shared_seconds is not None
        self._insert = f"insert or {'ignore' if shared else 'replace'} into rows values (?, ?, ?)"
        try:
            self._db = sqlite3.connect(
                path,
                timeout=shared_seconds if shared_seconds is not None else 5.0,
                isolation_level=None,
                check_same_thread=False,
            )
            _use_wal(self._db, shared_seconds or 0.0)
            self._db.execute("pragma synchronous=normal")
            if not shared:
                self._db.execute("pragma wal_autocheckpoint=0")
            self._db.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise _cannot_open(path, error, shared=shared) from error

    def commit(self, rows: Sequence[Row]) -> None:
        """Write rows, all or none."""
        with self._lock:
            try:
                self._db.execute("begin immediate")
                self._db.executemany(self._insert, rows)
                self._db.execute("commit")
            except BaseException as error:
                with suppress(sqlite3.Error):
                    self._db.execute("rollback")
                if isinstance(error, sqlite3.Error):
                    raise cannot_write(self.path, error) from error
                raise

    def make_durable(self) -> None:
        """Move the committed rows from the log into the database, with an fsync; others read and
        write meanwhile.
        """
        try:
            with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
                _, pages, _ = connection.execute("pragma wal_checkpoint(passive)").fetchone()
            if pages > LONG_LOG_PAGES:
                with self._lock:
                    self._db.execute("pragma wal_checkpoint(truncate)").fetchone()
        except sqlite3.Error as error:
            raise cannot_write(self.path, error) from error

    def get(self, kind: str, keys: Sequence[str]) -> dict[str, str]:
        """Return the bodies of the stored rows among `keys`."""
        rows: dict[str, str] = {}
        for begin in range(0, len(keys), PAGE):
            page = keys[begin : begin + PAGE]
            marks = ",".join("?" * len(page))
            query = f"select key, body from rows where kind = ? and key in ({marks})"
            rows.update(self._select(query, kind, *page))
        return rows

    def known(self, kind: str, keys: Sequence[str], *, without: Sequence[str]) -> set[str]:
        """Return which of `keys` have a row, those with a status in `without` aside."""
        condition, values = _without(without)
        rows: set[str] = set()
        for begin in range(0, len(keys), PAGE):
            page = keys[begin : begin + PAGE]
            marks = ",".join("?" * len(page))
            query = f"select key from rows where kind = ? and key in ({marks}) and {condition}"
            rows.update(key for (key,) in self._select(query, kind, *page, *values))
        return rows

    def keys(self, kind: str, *, without: Sequence[str]) -> Iterator[str]:
        """Yield the keys of all stored rows of a kind, those with a status in `without` aside, as
        they lie on the disk.

        To read it from front to back is much faster than to look for many keys.
        """
        condition, values = _without(without)
        # +kind: not by that index
        query = f"select key from rows where rowid > ? and rowid <= ? and +kind = ? and {condition}"
        ((last,),) = self._select("select coalesce(max(rowid), 0) from rows")
        for begin in range(0, last, LONG_PAGE):
            page = self._select(query, begin, begin + LONG_PAGE, kind, *values)
            yield from (key for (key,) in page)

    def rows(self, kind: str) -> Iterator[tuple[str, str]]:
        """Yield key and body of all rows of a kind, by key, a page at a time."""
        last, page = "", [("", "")]
        query = "select key, body from rows where kind = ? and key > ? order by key limit ?"
        while page:
            page = self._select(query, kind, last, PAGE)
            yield from page
            last = page[-1][0] if page else last

    def finished(self, stage: str) -> dict[str, Any] | None:
        """Return `{"fingerprint", "seconds", "summary"}` of a finished stage, or None."""
        query = "select fingerprint, seconds, summary from stages where name = ?"
        rows = self._select(query, stage)
        if not rows:
            return None
        fingerprint, seconds, text = rows[0]
        summary = read_body(text, "finished stage", stage, self.path.parent)
        return {"fingerprint": fingerprint, "seconds": seconds, "summary": summary}

    def _select(self, query: str, *values: object) -> list[Any]:
        """Return the rows of a query; UserError where the file is damaged."""
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise _damaged(self.path, error) from error

    def finish(
        self, stage: str, *, fingerprint: str, seconds: float, summary: Mapping[str, Any]
    ) -> None:
        """Record a finished stage."""
        try:
            with self._lock:
                self._db.execute(
                    "insert or replace into stages values (?, ?, ?, ?)",
                    (stage, fingerprint, seconds, write_body("finished stage", summary)),
                )
        except sqlite3.Error as error:
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        """Close the file; SQLite then empties the log into it."""
        self._db.close()


def _without(statuses: Sequence[str]) -> tuple[str, list[str]]:
    """Return the condition that a row has none of these statuses, and its values; bodies without
    the word, which is nearly all of them, are not parsed."""
    condition = " and not (instr(body, ?) and json_extract(body, '$.status') is ?)"
    return "true" + condition * len(statuses), [
        word for name in statuses for word in (f'"{name}"', name)
    ]


def _use_wal(database: sqlite3.Connection, wait_seconds: float) -> None:
    """Switch a file to WAL; while another process does the same, SQLite refuses at once instead of
    waiting.
    """
    last = time.monotonic() + wait_seconds
    while True:
        try:
            database.execute("pragma journal_mode=wal")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > last:
                raise
            time.sleep(0.05)
        else:
            return


def _cannot_open(path: Path, error: sqlite3.Error, *, shared: bool) -> UserError:
    if type(error) is sqlite3.DatabaseError:  # no database, or a malformed one
        return _damaged(path, error)
    advice = (
        "Give a folder on a disk of this machine (train.reference_folder), or leave it out"
        if shared
        else "Is it a dpo-video run folder on a disk with working locks?"
    )
    return UserError(f"cannot use {str(path)!r}: {error}. {advice}")


def _damaged(path: Path, error: sqlite3.Error) -> UserError:
    """Return the error of a file with wrong bytes in it: only its owner can say what may go."""
    return UserError(
        f"{str(path)!r} is damaged ({error}). Put back a copy of it, or save what can be read: "
        f"`sqlite3 {path.name} .recover | sqlite3 new.sqlite`, then rename new.sqlite to "
        f"{path.name} and delete {path.name}-wal. Or move it away: all of its rows are then made "
        "again"
    )


def cannot_write(path: Path, error: Exception) -> UserError:
    """Return the error of a disk that is full or gone."""
    return UserError(
        f"cannot write to {str(path.parent)!r}: {error}. What was stored before is safe; "
        "make room and run the same command again"
    )


def in_pages(keys: Iterable[str]) -> Iterator[list[str]]:
    """Yield the keys some hundred at a time."""
    page: list[str] = []
    for key in keys:
        page.append(key)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page
