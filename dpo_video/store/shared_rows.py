"""Log-probs of the reference in a folder that runs share: one SQLite (WAL) file, safe under several
writers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from dpo_video.core.errors import UserError
from dpo_video.recipe import Recipe
from dpo_video.store.body import read_body, write_body
from dpo_video.store.database import Database, in_pages
from dpo_video.store.overlay import RowStore
from dpo_video.store.writer import Row

FILE = "reference.sqlite"
WAIT_SECONDS = 120.0
"""How long a writer waits for another one; each holds the file for the rows of one forward."""


class SharedRows:
    """Rows in a folder that several processes read and write; the first writer of a key wins."""

    def __init__(self, folder: Path) -> None:
        """Open or make the file; raises UserError where that cannot be done."""
        self._waiting: list[Row] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make {str(folder)!r} (train.reference_folder): {error.strerror}. Give a "
                "folder on a disk of this machine, or leave it out"
            ) from error
        self._rows = Database(folder / FILE, shared_seconds=WAIT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.flush()
        finally:
            self._rows.close()

    def get(self, kind: str, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the stored rows among `keys`, by key."""
        rows: dict[str, dict[str, Any]] = {}
        for page in in_pages(keys):
            bodies = self._rows.get(kind, page)
            rows.update((key, self._read(kind, key, body)) for key, body in bodies.items())
        return rows

    def known(
        self, kind: str, keys: Iterable[str], *, without: Sequence[str] = ("failed",)
    ) -> set[str]:
        """Return which of `keys` have a stored row, those with a status in `without` aside."""
        known: set[str] = set()
        for page in in_pages(keys):
            known |= self._rows.known(kind, page, without=without)
        return known

    def keys(self, kind: str, *, without: Sequence[str] = ("failed",)) -> Iterator[str]:
        """Yield the keys of all stored rows of a kind, those with a status in `without` aside."""
        for key, body in self._rows.rows(kind):
            if self._read(kind, key, body).get("status") not in without:
                yield key

    def put(self, kind: str, key: str, body: Mapping[str, Any]) -> None:
        """Store a row with the next `flush`, unless there is one under its key."""
        self._waiting.append(Row(kind, key, write_body(kind, body)))

    def flush(self) -> None:
        """Write what was put, all or nothing."""
        if self._waiting:
            self._rows.commit(self._waiting)
            self._waiting.clear()

    def _read(self, kind: str, key: str, text: str) -> dict[str, Any]:
        return read_body(text, kind, key, self._rows.path.parent)


@contextmanager
def open_rows(recipe: Recipe, run_rows: RowStore) -> Iterator[RowStore]:
    """Give where a recipe keeps the reference's log-probs: `train.reference_folder`, or the run's
    own store.
    """
    folder = recipe.train.reference_folder
    if folder is None:
        yield run_rows
        return
    with SharedRows(Path(folder).expanduser()) as shared:
        yield shared
