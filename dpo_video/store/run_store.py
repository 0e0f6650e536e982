"""The working store of a run: rows by kind and key, finished stages, the folder's lock."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os.path import relpath
from pathlib import Path
from typing import Any, Self

from dpo_video.core.errors import UserError
from dpo_video.core.progress import log
from dpo_video.store.body import read_body, write_body
from dpo_video.store.database import Database, in_pages
from dpo_video.store.file_system import StoreEngine, choose_kind
from dpo_video.store.lock import give_up_lock, show_life, take_lock
from dpo_video.store.segments import Segments, read_segments
from dpo_video.store.writer import Row, Writer


class RunStore:
    """Rows of a run by kind and key. Open it with `with RunStore(folder) as store:`; it holds the
    folder's lock.

    Rows are JSON objects. A thread of the store's own commits them, at most 100 together and each
    within a second; `put` does not wait for an fsync. A killed process loses at most the last 100
    rows it put. `flush` waits for the commit. A full disk is a UserError from the next `put` or
    `flush`, and loses nothing stored. All methods may be called from any thread, and reading sees
    what was put.

    `kind` is SQLite, or append-only segments where the file system has no working locks; None finds
    out by trying.

    `shared` is the folder of another run whose store and lock this one uses. All rows are then
    common to both but those about stages: `finished`, `finish`, and the kinds that `own` names.
    """

    def __init__(
        self, folder: Path, *, kind: StoreEngine | None = None, shared: Path | None = None
    ) -> None:
        self.folder = folder
        self._prefix = "" if shared in (None, folder) else f"{relpath(folder, shared)}/"
        for needed in dict.fromkeys((folder, shared or folder)):
            try:
                needed.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"cannot make the run folder {str(needed)!r}: {error.strerror}"
                ) from error
        folder = shared or folder
        self._watching: dict[str, Callable[[str], None]] = {}
        self.has_put = False
        """Whether a row was put since the store was opened."""
        self._lock = take_lock(folder)
        try:
            self._rows = _open_rows(folder, kind)
        except BaseException:
            give_up_lock(self._lock)
            raise
        self._writer = Writer(self._rows.commit, self._make_durable)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.flush()
        finally:
            try:
                self._writer.close()
                self._rows.close()
            finally:
                give_up_lock(self._lock)

    def get(self, kind: str, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the rows among `keys`, by key."""
        rows: dict[str, dict[str, Any]] = {}
        for page in in_pages(keys):
            waiting = self._writer.waiting(
                kind, page
            )  # first: a row leaves the queue only once it is committed
            bodies = self._rows.get(kind, page) | waiting
            rows.update((key, self._read(kind, key, body)) for key, body in bodies.items())
        return rows

    def known(
        self, kind: str, keys: Iterable[str], *, without: Sequence[str] = ("failed",)
    ) -> set[str]:
        """Return which of `keys` have a row, those with a status in `without` aside; rows in the
        database stay there.
        """
        rows: set[str] = set()
        for page in in_pages(keys):
            recent = self._writer.waiting(kind, page)
            rows |= self._rows.known(kind, page, without=without) - recent.keys()
            rows.update(
                key
                for key, body in recent.items()
                if self._read(kind, key, body).get("status") not in without
            )
        return rows

    def keys(self, kind: str, *, without: Sequence[str] = ("failed",)) -> Iterator[str]:
        """Yield the keys of all rows of a kind, those with a status in `without` aside, in no
        order.
        """
        self.flush()
        yield from self._rows.keys(kind, without=without)

    def rows(self, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield key and row of every row of a kind, by key, without holding them all in memory."""
        self.flush()
        for key, body in self._rows.rows(kind):
            yield key, self._read(kind, key, body)

    def put(self, kind: str, key: str, body: Mapping[str, Any]) -> None:
        """Store a row, replacing the one under the same key."""
        self.has_put = True
        self._writer.put(Row(kind, key, write_body(kind, body)))
        if kind in self._watching:
            self._watching[kind](key)

    @contextmanager
    def watch(self, kind: str, tell: Callable[[str], None]) -> Iterator[None]:
        """Call `tell` with the key of each row of a kind that is put while the block runs, in the
        thread that puts it.
        """
        assert kind not in self._watching, f"rows of kind {kind!r} are watched already"
        self._watching[kind] = tell
        try:
            yield
        finally:
            del self._watching[kind]

    def flush(self) -> None:
        """Wait until what was put is committed."""
        self._writer.flush()

    def own(self, kind: str) -> str:
        """Return the kind of rows that are about this run's stages, and none of another run's that
        shares the store.
        """
        return self._prefix + kind

    def finished(self, stage: str) -> dict[str, Any] | None:
        """Return `{"fingerprint", "seconds", "summary"}` of a finished stage, or None."""
        return self._rows.finished(self._prefix + stage)

    def finish(
        self, stage: str, *, fingerprint: str, seconds: float, summary: Mapping[str, Any]
    ) -> None:
        """Record that a stage is done with the settings and inputs behind `fingerprint`."""
        self.flush()
        self._rows.finish(
            self._prefix + stage, fingerprint=fingerprint, seconds=seconds, summary=summary
        )

    def _read(self, kind: str, key: str, text: str) -> dict[str, Any]:
        return read_body(text, kind, key, self.folder)

    def _make_durable(self) -> None:
        show_life(self._lock)
        self._rows.make_durable()


def _open_rows(folder: Path, kind: StoreEngine | None) -> Database | Segments:
    """Open the rows of a folder; those of the other kind are taken over, so that a run may move
    between machines.
    """
    segments, database = folder / "segments", folder / "store.sqlite"
    reason = "asked for"
    if kind is None:
        kind, reason = choose_kind(folder)
    if kind == "segments":
        if not segments.exists():
            log.info(
                f"note: the run folder {str(folder)!r} gets no SQLite store: {reason}. Rows go to "
                f"append-only files "
                "in its folder `segments`; all else is the same"
            )
        opened = Segments(folder)
        if opened.torn:
            log.info(
                f"note: {opened.torn} torn line(s) in {str(segments)!r} left out: a process was "
                f"killed while it wrote. "
                "Their rows are made again"
            )
        return opened
    rows = Database(database)
    if segments.exists():
        read_segments(segments, rows)
        rows.make_durable()
        taken_over = segments.rename(
            folder / ".segments-taken-over"
        )  # at once: half of them would bring back old rows
        shutil.rmtree(taken_over)
    return rows
