"""The lock of a run folder: a file with the owner's process and machine, which its owner touches as a sign of life."""

import os
import socket
import time
from pathlib import Path

from dpo_video.errors import UserError

SILENT_SECONDS = 180.0
"""After so long without a sign of life the owner on another machine is taken to be gone; file servers show a changed
time up to a minute late."""


def take_lock(folder: Path) -> Path:
    """Take the folder's lock file and return it; it outlives only a killed owner, and is then taken over."""
    path = folder / "lock"
    for _ in range(3):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            _refuse_while_owned(folder, path)
            path.unlink(missing_ok=True)
            continue
        with os.fdopen(handle, "w") as out:
            out.write(f"{os.getpid()} {socket.gethostname()}")
        return path
    raise UserError(f"cannot take the lock {str(path)!r}: other processes take it at the same moment; try again")


def show_life(lock: Path) -> None:
    """Set the lock file's time to now, by the clock of its file system; UserError where the file is gone."""
    try:
        os.utime(lock)
    except FileNotFoundError:
        raise UserError(f"the lock {str(lock)!r} is gone: another process took the run folder, or somebody deleted it. "
                        "This process stops, so that no two write there") from None


def _refuse_while_owned(folder: Path, path: Path) -> None:
    """Raise UserError while the lock's owner lives: a process here, or one elsewhere that gave a sign of life."""
    try:
        pid, _, host = path.read_text().strip().partition(" ")
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return
    advice = "Wait for it, stop it, or give this run another `name`"
    if host in ("", socket.gethostname()):
        if pid.isdigit() and _alive(int(pid)):
            raise UserError(f"the run folder {str(folder)!r} is in use by process {pid}. {advice}")
        return
    silent = _now(folder) - touched
    if silent < SILENT_SECONDS:
        raise UserError(f"the run folder {str(folder)!r} is in use by process {pid} on {host}, which gave a sign of "
                        f"life {max(0, silent):.0f} s ago (it counts as gone after {SILENT_SECONDS:.0f} s). {advice}")


def _now(folder: Path) -> float:
    """Return the time by the clock that the folder's file system stamps files with, in seconds."""
    probe = folder / f".clock-{os.getpid()}-{time.monotonic_ns()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
