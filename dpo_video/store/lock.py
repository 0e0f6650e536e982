"""The lock of a run folder: a file that names its owner, which its owner touches as a sign of
life.
"""

import os
import socket
import time
from pathlib import Path
from typing import NamedTuple, Self

from dpo_video.core.errors import UserError

SILENT_SECONDS = 180.0
"""After so long without a sign of life the owner on another machine is taken to be gone; file
servers show a changed time up to a minute late."""


class Owner(NamedTuple):
    """A process, told from others of its number: containers reuse numbers and names, as does a
    rebooted machine.
    """

    pid: int
    host: str
    machine: str
    """The boot and the space of process numbers: only there does the number say whether the process
    lives.
    """
    started: str
    """Clock ticks from the boot to the start of the process."""

    @classmethod
    def read(cls, text: str) -> Self:
        """Return the owner that a lock file names; what the text lacks is empty."""
        pid, host, machine, started = (text.split() + [""] * 4)[:4]
        return cls(int(pid) if pid.isdigit() else 0, host, machine, started)

    def alive(self) -> bool:
        """Return whether a process of this machine is there still."""
        started = _started(self.pid)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's, whose start the system may hide
            return started in ("", self.started)
        return started == self.started


def this_process() -> Owner:
    """Return this process as an owner."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Owner(
        os.getpid(),
        socket.gethostname(),
        f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}",
        _started(os.getpid()),
    )


def take_lock(folder: Path) -> Path:
    """Take the folder's lock file and return it; it outlives only a killed owner, and is then taken
    over.
    """
    path = folder / "lock"
    for _ in range(3):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            _refuse_while_owned(folder, path)
            path.unlink(missing_ok=True)
            continue
        with os.fdopen(handle, "w") as out:
            out.write(" ".join(map(str, this_process())))
        return path
    raise UserError(
        f"cannot take the lock {str(path)!r}: other processes take it at the same moment; try again"
    )


def show_life(lock: Path) -> None:
    """Set the lock file's time to now, by the clock of its file system; UserError where it is not
    ours any more.
    """
    if not _ours(lock):
        raise UserError(
            f"the lock {str(lock)!r} is gone: another process took the run folder, or somebody "
            f"deleted it. "
            "This process stops, so that no two write there"
        )
    os.utime(lock)


def give_up_lock(lock: Path) -> None:
    """Delete the lock file, unless another process has taken it over."""
    if _ours(lock):
        lock.unlink(missing_ok=True)


def _ours(lock: Path) -> bool:
    try:
        return Owner.read(lock.read_text()) == this_process()
    except FileNotFoundError:
        return False


def _refuse_while_owned(folder: Path, path: Path) -> None:
    """Raise UserError while the lock's owner lives: a process here, or one elsewhere that gave a
    sign of life.
    """
    try:
        owner = Owner.read(path.read_text())
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return
    advice = "Wait for it, stop it, or give this run another `name`"
    if owner.machine == this_process().machine:
        if owner.alive():
            raise UserError(
                f"the run folder {str(folder)!r} is in use by process {owner.pid}. {advice}"
            )
        return
    silent = _now(folder) - touched
    if silent < SILENT_SECONDS:
        raise UserError(
            f"the run folder {str(folder)!r} is in use by process {owner.pid} on {owner.host}, "
            f"which gave "
            f"a sign of life {max(0, silent):.0f} s ago (it counts as gone after "
            f"{SILENT_SECONDS:.0f} s). "
            f"{advice}"
        )


def _now(folder: Path) -> float:
    """Return the time by the clock that the folder's file system stamps files with, in seconds."""
    probe = folder / f".clock-{os.getpid()}-{time.monotonic_ns()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _started(pid: int) -> str:
    """Return when a process of this machine started, in clock ticks from the boot; empty where none
    runs.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, *fields = stat.rpartition(")")[
        2
    ].split()  # from field 3 of proc_pid_stat(5): the name may hold spaces
    return "" if state == "Z" else fields[18]  # a zombie has ended
