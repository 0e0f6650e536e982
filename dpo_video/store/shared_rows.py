"""Log-probs of the reference in a folder that runs share: one SQLite (WAL) file, safe under several
writers.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, Self

from dpo_video.core.errors import UserError
from dpo_video.recipe import Recipe

FILE = "reference.sqlite"
WAIT_SECONDS = 120.0
"""How long a writer waits for another one; each holds the file for the rows of one forward."""
SCHEMA = (
    "create table if not exists rows (kind text, key text, body text, primary key (kind, key)) "
    "without rowid"
)


class RowStore(Protocol):
    """What is asked of a place for rows: the run's own store, or a shared one."""

    def get(self, kind: str, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the stored rows among `keys`, by key."""

    def put(self, kind: str, key: str, body: Mapping[str, Any]) -> None:
        """Store a row."""

    def flush(self) -> None:
        """Commit what was put."""


class SharedRows:
    """Rows in a folder that several processes read and write; the first writer of a key wins."""

    def __init__(self, folder: Path) -> None:
        """Open or make the file; raises UserError where that cannot be done."""
        self._file = folder / FILE
        self._waiting: list[tuple[str, str, str]] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._file, timeout=WAIT_SECONDS, isolation_level=None)
            _use_wal(self._db)
            self._db.execute("pragma synchronous=normal")
            self._db.execute(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"cannot use {str(self._file)!r} (train.reference_folder): {error}. Give a folder "
                f"on a "
                "disk of this machine, or leave it out"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.flush()
        finally:
            self._db.close()

    def get(self, kind: str, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the stored rows among `keys`, by key."""
        found: dict[str, dict[str, Any]] = {}
        wanted = list(keys)
        for begin in range(0, len(wanted), 500):
            some = wanted[begin : begin + 500]
            marks = ",".join("?" * len(some))
            query = f"select key, body from rows where kind = ? and key in ({marks})"
            found.update(
                (key, json.loads(body)) for key, body in self._db.execute(query, [kind, *some])
            )
        return found

    def put(self, kind: str, key: str, body: Mapping[str, Any]) -> None:
        """Store a row with the next `flush`, unless there is one under its key."""
        self._waiting.append((kind, key, json.dumps(body)))

    def flush(self) -> None:
        """Write what was put, all or nothing."""
        if not self._waiting:
            return
        try:
            self._db.execute("begin immediate")
            self._db.executemany("insert or ignore into rows values (?, ?, ?)", self._waiting)
            self._db.execute("commit")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._db.execute("rollback")
            raise UserError(
                f"cannot write to {str(self._file)!r} (train.reference_folder): {error}. What was "
                f"stored "
                "before is safe; make room and run the same command again"
            ) from error
        self._waiting.clear()


def _use_wal(database: sqlite3.Connection) -> None:
    """Switch a file to WAL; while another process does the same, SQLite refuses at once instead of
    waiting.
    """
    last = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            database.execute("pragma journal_mode=wal")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > last:
                raise
            time.sleep(0.05)
        else:
            return


@contextmanager
def open_rows(recipe: Recipe, own: RowStore) -> Iterator[RowStore]:
    """Give where a recipe keeps the reference's log-probs: `train.reference_folder`, or the run's
    own store.
    """
    folder = recipe.train.reference_folder
    if folder is None:
        yield own
        return
    with SharedRows(Path(folder).expanduser()) as shared:
        yield shared
