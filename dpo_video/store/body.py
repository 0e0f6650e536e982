"""The body of a stored row: an object as strict JSON text, checked on its way in and out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError


def write_body(kind: str, body: Mapping[str, Any]) -> str:
    """Return a row's body as JSON; UserError where it holds a number that JSON does not have."""
    try:
        return strict_json.dumps(body)  # ASCII: half a surrogate pair in it is no UTF-8
    except ValueError as error:
        raise UserError(
            f"a row of kind {kind!r} holds a number that is infinite or none at all (NaN), and is "
            "not stored: what made it went wrong before"
        ) from error


def read_body(text: str, kind: str, key: str, folder: Path) -> dict[str, Any]:
    """Return the body of a row; UserError where its text was damaged on the disk.

    A diverged training of an earlier version stored NaN in its counts: it is None.
    """
    try:
        body = strict_json.loads_earlier(text)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise UserError(
            f"the store in {str(folder)!r} is damaged: its row of kind {kind!r} under the key "
            f"{key[:16]!r} is no JSON object. Put back a copy of the store, or move it away: all "
            "of its rows are then made again"
        )
    return body
