"""The one writer thread: rows wait in a queue of at most 100 and are committed together.

A second thread makes what is committed durable (an fsync), so that neither `put` nor a commit ever
waits for the disk.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

UNCOMMITTED_ROWS = 100
"""Rows that a killed process may lose at most; `put` waits for the writer while so many are not yet
committed.
"""
COMMIT_ROWS = 50
"""Rows that are worth a commit at once: half of the above, so that `put` goes on while a commit
runs.
"""
COMMIT_SECONDS = 1.0
"""A row is committed after this time at the latest, also when no further one comes."""
DURABLE_ROWS = 2000
"""Rows between two fsyncs."""
PULSE_SECONDS = 30.0
"""The longest time between two fsyncs, and between two signs of life on the lock."""


class Row(NamedTuple):
    """A row to be written: its body is JSON text."""

    kind: str
    key: str
    body: str


class Writer:
    """Commits rows in a thread of its own, in the order they were put.

    `commit` writes rows all or none and raises an exception when it cannot; `make_durable` fsyncs
    what was committed, every 2000 rows and every 30 seconds.
    Their exceptions are raised by the next `put` or `flush`; rows that are not committed stay and
    are tried again.
    """

    def __init__(
        self, commit: Callable[[Sequence[Row]], None], make_durable: Callable[[], None]
    ) -> None:
        self._commit, self._make_durable = commit, make_durable
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, str], tuple[int, str]] = {}
        """Body and number of every row that is not committed yet, oldest first."""
        self._number = 0
        self._oldest = 0.0
        self._wanted = 0
        """The last row that a `flush` waits for."""
        self._error: BaseException | None = None
        self._closing = False
        self._undurable = 0
        self._threads = [
            threading.Thread(target=work, name=f"store-{work.__name__.strip('_')}", daemon=True)
            for work in (self._write, self._sync)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, row: Row) -> None:
        """Queue a row, in place of one that waits under the same key."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or len(self._waiting) < UNCOMMITTED_ROWS)
            self._raise_error()
            if not self._waiting:
                self._oldest = time.monotonic()
            self._number += 1
            self._waiting.pop((row.kind, row.key), None)
            self._waiting[row.kind, row.key] = self._number, row.body
            if len(self._waiting) in (
                1,
                COMMIT_ROWS,
            ):  # the writer sleeps otherwise: no switch of threads per row
                self._changed.notify_all()

    def waiting(self, kind: str, keys: Iterable[str]) -> dict[str, str]:
        """Return the bodies among `keys` that are not committed yet."""
        with self._changed:
            if not self._waiting:
                return {}
            rows = {key: self._waiting.get((kind, key)) for key in keys}
        return {key: row[1] for key, row in rows.items() if row is not None}

    def flush(self) -> None:
        """Wait until all that was put is committed."""
        with self._changed:
            self._raise_error()
            last = self._wanted = self._number
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._error or not self._holds(last))
            self._raise_error()

    def close(self) -> None:
        """Stop the threads; what was not flushed is lost."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _holds(self, last: int) -> bool:
        """Return whether a row up to number `last` is not committed yet."""
        return bool(self._waiting) and next(iter(self._waiting.values()))[0] <= last

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            self._changed.notify_all()
            raise error

    def _due(self) -> bool:
        full = (
            len(self._waiting) >= COMMIT_ROWS or time.monotonic() - self._oldest >= COMMIT_SECONDS
        )
        return self._closing or (
            self._error is None and bool(self._waiting) and (full or self._holds(self._wanted))
        )

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._due():
                    idle = self._error is not None or not self._waiting
                    seconds = (
                        None if idle else max(0.0, self._oldest + COMMIT_SECONDS - time.monotonic())
                    )
                    self._changed.wait(seconds)
                if self._closing:
                    return
                batch, begun = dict(self._waiting), time.monotonic()
            error = None
            try:
                self._commit([Row(kind, key, body) for (kind, key), (_, body) in batch.items()])
            except BaseException as raised:  # noqa: BLE001 - raised again in the thread that puts rows
                error = raised
            with self._changed:
                self._error = error
                if error is None:
                    self._forget(batch, begun)
                self._changed.notify_all()

    def _forget(self, batch: dict[tuple[str, str], tuple[int, str]], begun: float) -> None:
        """Drop the committed rows from the queue, except those that were put again meanwhile."""
        for name, row in batch.items():
            if self._waiting.get(name) == row:
                del self._waiting[name]
        self._oldest = begun  # what is left came after that
        self._undurable += len(batch)

    def _sync(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closing or self._undurable >= DURABLE_ROWS, PULSE_SECONDS
                )
                if self._closing:
                    return
                self._undurable = 0
            try:
                self._make_durable()
            except BaseException as raised:  # noqa: BLE001 - as above
                with self._changed:
                    self._error = self._error or raised
                    self._changed.notify_all()
