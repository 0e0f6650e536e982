"""Rows that are read back and never stored: an overlay in memory over a run's store."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from dpo_video.core import strict_json
from dpo_video.store.body import write_body
from dpo_video.store.database import in_pages


class RowStore(Protocol):
    """Rows by kind and key, as `RunStore` and `OverlayStore` keep them."""

    def get(self, kind: str, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the rows among `keys`, by key."""
        ...

    def known(
        self, kind: str, keys: Iterable[str], *, without: Sequence[str] = ("failed",)
    ) -> set[str]:
        """Return which of `keys` have a row, those with a status in `without` aside."""
        ...

    def keys(self, kind: str, *, without: Sequence[str] = ("failed",)) -> Iterator[str]:
        """Yield the keys of all rows of a kind, those with a status in `without` aside."""
        ...

    def put(self, kind: str, key: str, body: Mapping[str, Any]) -> None:
        """Keep a row in the place of the one under the same key."""
        ...

    def flush(self) -> None:
        """Wait until what was put is safe."""
        ...


class OverlayStore:
    """A store whose new rows hide those of the store beneath, and are forgotten with it."""

    def __init__(self, beneath: RowStore) -> None:
        self._beneath = beneath
        self._rows: dict[tuple[str, str], str] = {}

    def get(self, kind: str, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the rows among `keys`, by key."""
        rows: dict[str, dict[str, Any]] = {}
        for page in in_pages(keys):
            rows |= self._beneath.get(kind, page)
            rows |= {key: strict_json.loads(body) for key, body in self._own(kind, page).items()}
        return rows

    def known(
        self, kind: str, keys: Iterable[str], *, without: Sequence[str] = ("failed",)
    ) -> set[str]:
        """Return which of `keys` have a row, those with a status in `without` aside."""
        known: set[str] = set()
        for page in in_pages(keys):
            hiding = self._own(kind, page)
            known |= self._beneath.known(kind, page, without=without) - hiding.keys()
            known |= {key for key, body in hiding.items() if _status(body) not in without}
        return known

    def keys(self, kind: str, *, without: Sequence[str] = ("failed",)) -> Iterator[str]:
        """Yield the keys of all rows of a kind, those with a status in `without` aside, in no
        order.
        """
        hiding = {key: body for (row_kind, key), body in self._rows.items() if row_kind == kind}
        yield from (key for key in self._beneath.keys(kind, without=without) if key not in hiding)
        yield from (key for key, body in hiding.items() if _status(body) not in without)

    def put(self, kind: str, key: str, body: Mapping[str, Any]) -> None:
        """Keep a row here, in the place of the one under the same key."""
        self._rows[kind, key] = write_body(kind, body)

    def flush(self) -> None:
        """Return at once: nothing is committed."""

    def _own(self, kind: str, keys: Iterable[str]) -> dict[str, str]:
        return {key: self._rows[kind, key] for key in keys if (kind, key) in self._rows}


def _status(body: str) -> object:
    return strict_json.loads(body).get("status")
