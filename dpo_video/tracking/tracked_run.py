"""What every tracker can be told."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from dpo_video.core import strict_json


class TrackedRun(Protocol):
    """An opened run of a tracker; each call may raise whatever its library raises."""

    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Log numbers and words about the run as a whole."""

    def log_step(self, values: Mapping[str, float], step: int) -> None:
        """Log what training reports of an optimizer step."""

    def log_table(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Log a table; a `frames` value is a strip of frames, uint8 (H, W, 3)."""

    def log_artifact(self, path: Path, *, kind: str, uses: Sequence[str]) -> None:
        """Keep a file or folder, where the tracker keeps files."""

    def log_page(self, name: str, page: str) -> None:
        """Show a page of HTML, where the tracker shows pages."""

    def close(self, *, failed: bool) -> None:
        """End the run."""

    def abandon(self) -> None:
        """Let go of the run after trouble."""


def first_line(error: Exception) -> str:
    """Return the first line of an error, or what it is called."""
    lines = str(error).strip().splitlines()
    return f"{lines[0][:200] if lines else type(error).__name__}"


def flat_values(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by their paths: `{"dropped": {"tie": 2}}` as `{"dropped/tie": 2}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flat_values(value, f"{prefix}{key}/"))
        else:
            flat[prefix + key] = (
                value if isinstance(value, int | float | str) else strict_json.dumps(value)
            )
    return flat
