"""`dpo-video status RUN`: what a run is at, read from its folder, whoever works there."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_object
from dpo_video.core.progress import duration_text, rate_text
from dpo_video.core.status_file import RunStatus, read_status

STAGE_NAMES = ("generate", "judge", "pair", "train", "evaluate")
QUIET_SECONDS = 60.0
"""So long without a step, and it is said when the last one was."""


@dataclass(frozen=True, kw_only=True)
class RunView:
    """What a run folder says about its run."""

    folder: Path
    finished: Mapping[str, Mapping[str, Any]]
    """Summary and seconds of each finished stage, by name, in order."""
    status: RunStatus | None
    """What the last process was at; None where none has said."""

    @property
    def is_running(self) -> bool:
        """Whether a process works in the folder."""
        return self.status is not None and self.status.is_running


def read_run(folder: Path) -> RunView:
    """Return what a run folder says; UserError where it is no run's folder."""
    manifest, status = folder / "manifest.json", read_status(folder)
    if not manifest.is_file() and status is None:
        raise UserError(
            f"no manifest.json and no status.json in {str(folder)!r}: it is no run's folder, or "
            "nothing was begun there"
        )
    stages = read_object(manifest).get("stages", {}) if manifest.is_file() else {}
    return RunView(
        folder=folder,
        finished={name: stages[name] for name in STAGE_NAMES if stages.get(name)},
        status=status,
    )


def status_row(view: RunView) -> dict[str, Any]:
    """Return a run as `--json` prints it."""
    status = view.status
    return {
        "run": str(view.folder),
        "running": view.is_running,
        "stage": status.stage if status and view.is_running else None,
        "title": status.title if status else None,
        "done": status.done if status else None,
        "total": status.total if status else None,
        "rate": status.rate if status else None,
        "seconds_left": status.seconds_left if status else None,
        "updated": status.updated if status else None,
        "last_error": status.last_error if status else None,
        "finished": {name: row["seconds"] for name, row in view.finished.items()},
    }


def status_text(view: RunView, *, clock: float | None = None) -> str:
    """Return a run as lines: a line a stage, then what went wrong."""
    status = view.status
    current = status.stage if status is not None and not status.is_over else ""
    lines = [str(view.folder)]
    for name in STAGE_NAMES:
        if name == current and status is not None:
            word = "running" if status.is_running else "killed"
            lines.append(f"  {name:<9} {word:<9} {_progress(status, clock or time.time())}")
        elif name in view.finished:
            row = view.finished[name]
            lines.append(f"  {name:<9} finished  in {duration_text(row['seconds'])}")
        else:
            lines.append(f"  {name:<9} -")
    if status is not None and not current and status.is_running:
        lines.append(f"  {_progress(status, clock or time.time())}")
    if status is not None and status.last_error:
        lines.append(f"last error: {status.last_error}")
    if current and status is not None and not status.is_running:
        lines.append(
            f"process {status.pid} is gone and told no reason, as after kill -9 or out of memory; "
            "the same command goes on from what is stored"
        )
    return "\n".join(lines)


def _progress(status: RunStatus, clock: float) -> str:
    """Return how far a stage is: `judge (caption_score): 120 of 480 (25 %), 4.1/s, 1 min left`."""
    if not status.total:
        return f"begun {duration_text(max(0.0, clock - status.updated))} ago, nothing counted yet"
    share = 100 * status.done // status.total
    text = f"{status.title}: {status.done} of {status.total} ({share} %)"
    if status.rate:
        text += f", {rate_text(status.rate)}"
    if status.seconds_left is not None:
        text += f", {duration_text(status.seconds_left)} left"
    if clock - status.updated > QUIET_SECONDS:
        text += f"; last seen {duration_text(clock - status.updated)} ago"
    return text
