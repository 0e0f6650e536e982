"""The lock of a run folder: a file that names its owner, which its owner touches as a sign of life.

Every change of owner is one step of the file system that only one process can win, and that also
works where files cannot be locked. A lock is made whole, by a hard link. Who takes over the lock of
an owner that is gone, or gives up its own, first makes a claim: a file whose name is the hash of
the lock's text, which no two locks share. One process alone can make it. Whoever holds it and still
finds that text in the lock may replace or delete the lock, for nobody else may. A claim is a lock
itself, and is taken over in the same way where its owner was killed.
"""

import errno
import hashlib
import os
import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self
from uuid import uuid4

from dpo_video.core.errors import UserError
from dpo_video.core.progress import log

SILENT_SECONDS = 180.0
"""After so long without a sign of life the owner on another machine is taken to be gone; file
servers show a changed time up to a minute late."""
WATCH_SECONDS = 120.0
"""How long a lock from the future is watched: its owner sets its time every 30 seconds, and file
servers may show that a minute late.
"""
HALF_MADE_SECONDS = 5.0
"""How long a lock without a valid owner may be one that is just being written."""
ATTEMPTS = 20
"""How often a lock is looked at that changes hands meanwhile."""
OWNER = re.compile(rb"(\d{1,10}) (\S{1,255}) (\S{1,255}) (\d{1,20})(?: ([0-9a-f]{32}))?\s*")
NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
ADVICE = "Wait for it, stop it, or give this run another `name`"


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
    def read(cls, text: bytes) -> Self | None:
        """Return the owner that a lock file names; None for a text that no owner wrote."""
        match = OWNER.fullmatch(text)
        if match is None or not 0 < int(match[1]) < 1 << 31:
            return None
        pid, host, machine, started, _ = match.groups()
        return cls(
            int(pid),
            host.decode(errors="replace"),
            machine.decode(errors="replace"),
            started.decode(),
        )

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


class Lock(NamedTuple):
    """A lock that this process took: its file, and the text that makes it ours."""

    path: Path
    text: bytes


def this_process() -> Owner:
    """Return this process as an owner."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return Owner(
        os.getpid(),
        "".join(socket.gethostname().split()) or "?",
        f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}",
        _started(os.getpid()),
    )


def take_lock(folder: Path) -> Lock:
    """Take the folder's lock file; UserError while another process has it.

    It outlives only a killed owner, and is then taken over.
    """
    text = f"{' '.join(map(str, this_process()))} {uuid4().hex}".encode()
    lock = Lock(folder / "lock", text)
    _acquire(lock)
    return lock


def show_life(lock: Lock) -> None:
    """Set the lock file's time to now, by the clock of its file system; UserError where it is not
    ours any more.
    """
    with suppress(FileNotFoundError):
        if _is_ours(lock):
            os.utime(lock.path)
            return
    raise UserError(
        f"the lock {str(lock.path)!r} is gone: another process took the run folder, or somebody "
        "deleted it. This process stops, so that no two write there"
    )


def give_up_lock(lock: Lock) -> None:
    """Delete the lock file, unless another process has taken it over or is about to."""
    claim = _claim(lock.path, lock.text)
    try:
        _acquire(claim)
    except UserError:
        return
    try:
        if _is_ours(lock):
            lock.path.unlink(missing_ok=True)
    finally:
        _release(claim)


def _acquire(lock: Lock) -> None:
    """Make a lock file ours; UserError while it is another's who lives."""
    draft = lock.path.with_name(f".lock-{uuid4().hex}")
    try:
        _write(draft, lock.text)
        for _ in range(ATTEMPTS):
            if _link(draft, lock):
                return
            content = _read(lock.path)
            if content is None:
                continue  # given up meanwhile
            _refuse_while_owned(lock.path, content)
            claim = _claim(lock.path, content)
            _acquire(claim)
            try:
                if _read(lock.path) == content:
                    draft.replace(lock.path)
                    return
            finally:
                _release(claim)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    raise UserError(
        f"cannot take the lock {str(lock.path)!r}: other processes take it at the same moment; try "
        "again"
    )


def _claim(path: Path, content: bytes) -> Lock:
    """Return the lock that must be held to change a lock with this content."""
    name = f".claim-{hashlib.sha256(path.name.encode() + content).hexdigest()[:32]}"
    text = f"{' '.join(map(str, this_process()))} {uuid4().hex}".encode()
    return Lock(path.with_name(name), text)


def _release(claim: Lock) -> None:
    if _is_ours(claim):
        claim.path.unlink(missing_ok=True)


def _write(path: Path, text: bytes) -> None:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            os.write(handle, text)
            os.fsync(handle)  # a full disk says so here
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
    except OSError as error:
        raise UserError(
            f"cannot write the lock of the run folder {str(path.parent)!r}: {error.strerror}. Make "
            "room there or allow writing, and run the same command again"
        ) from error


def _link(draft: Path, lock: Lock) -> bool:
    """Put a draft in a lock's place if nothing stands there, whole and in one step; return whether
    it is.
    """
    try:
        os.link(draft, lock.path)
    except FileExistsError:
        # a server that answered twice: the first time it was made
        return draft.stat().st_nlink > 1 and _is_ours(lock)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        return _create(lock)
    return True


def _create(lock: Lock) -> bool:
    """Make a lock where there are no hard links: in one step, though not whole at once."""
    try:
        _write(lock.path, lock.text)
    except UserError as error:
        if isinstance(error.__cause__, FileExistsError):
            return False
        raise
    return _is_ours(lock)  # one that was slow to write it may have lost it already


def _read(path: Path) -> bytes | None:
    """Return what a lock file holds; None where there is none."""
    try:
        if path.is_symlink():
            raise OSError(errno.ELOOP, "it is a link")
        with path.open("rb") as file:
            return file.read(1024)
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = "it is a folder" if isinstance(error, IsADirectoryError) else error.strerror
        raise UserError(
            f"cannot read the lock {str(path)!r}: {reason}. If no process works in its run folder, "
            "remove it"
        ) from error


def _is_ours(lock: Lock) -> bool:
    return _read(lock.path) == lock.text


def _refuse_while_owned(path: Path, content: bytes) -> None:
    """Raise UserError while the lock's owner lives: a process here, or one elsewhere that gave a
    sign of life.
    """
    owner, folder = Owner.read(content), path.parent
    if owner is None:
        _wait_while_half_made(path, content)
        return
    if owner.machine == this_process().machine:
        if owner.alive():
            raise UserError(
                f"the run folder {str(folder)!r} is in use by process {owner.pid}. {ADVICE}"
            )
        return
    silent = _silence(path)
    if silent is not None and silent < -HALF_MADE_SECONDS:
        silent = _watch(path)
    if silent is not None and silent < SILENT_SECONDS:
        raise UserError(
            f"the run folder {str(folder)!r} is in use by process {owner.pid} on {owner.host}, "
            f"which gave a sign of life {max(0, silent):.0f} s ago (it counts as gone after "
            f"{SILENT_SECONDS:.0f} s). {ADVICE}"
        )


def _wait_while_half_made(path: Path, content: bytes) -> None:
    """Wait a moment where a lock without an owner may be one that is just being written."""
    last = time.monotonic() + HALF_MADE_SECONDS
    while time.monotonic() < last and _read(path) == content:
        silent = _silence(path)
        if silent is None or silent > HALF_MADE_SECONDS:
            return
        time.sleep(0.1)


def _watch(path: Path) -> float | None:
    """Return the seconds since the last sign of life of a lock whose time lies in the future.

    The clock was set back since, so the times do not tell: only a new sign of life does.
    """
    log.info(
        f"the lock {str(path)!r} is from the future: the clock was set back. Watching it for "
        f"{WATCH_SECONDS:.0f} s, in which its owner must touch it"
    )
    before, last = _touched(path), time.monotonic() + WATCH_SECONDS
    while time.monotonic() < last:
        time.sleep(0.5)
        if _touched(path) != before:
            return 0.0
    return SILENT_SECONDS


def _touched(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _silence(path: Path) -> float | None:
    """Return the seconds since a lock was touched, by the clock that its file system stamps files
    with; None where it is gone.
    """
    probe = path.with_name(f".lock-{uuid4().hex}")
    try:
        probe.touch()
        touched = _touched(path)
        return None if touched is None else probe.stat().st_mtime - touched
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
