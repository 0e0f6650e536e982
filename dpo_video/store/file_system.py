"""Which kind of store a folder's file system can carry, found out by trying."""

import fcntl
import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Literal

StoreEngine = Literal["sqlite", "segments"]

SHARED_TYPES = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "lustre",
    "9p",
    "afs",
    "ceph",
    "beegfs",
    "gpfs",
    "glusterfs",
    "orangefs",
    "pvfs2",
    "virtiofs",
    "vboxsf",
}
"""File systems of other machines: the shared memory that a SQLite write-ahead log needs ends at
this one, and whether locks hold depends on how they are mounted."""
LOCAL_FUSE = {"fuse.fuse-overlayfs", "fuse.ntfs-3g", "fuse.ext4", "fuse.lxcfs"}


def choose_kind(folder: Path) -> tuple[StoreEngine, str]:
    """Return the kind of store for a folder, and why SQLite cannot be used there ("" where it
    can).
    """
    system = file_system_type(folder, Path("/proc/self/mountinfo"))
    if system in SHARED_TYPES or (system.startswith("fuse.") and system not in LOCAL_FUSE):
        return "segments", f"it is on a network file system ({system})"
    problem = _try_locks(folder) or _try_sqlite(folder)
    return ("segments", problem) if problem else ("sqlite", "")


def file_system_type(folder: Path, mountinfo: Path) -> str:
    """Return the type of the file system that holds a folder, as `mountinfo` names it; "" where
    there is no such file.

    Fields as in proc(5): the mount point is the fifth, the type the first behind the separator " -
    ".
    """
    try:
        lines = mountinfo.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    best, kind = -1, ""
    real = str(folder.resolve())
    for line in lines:
        mount, _, details = line.partition(" - ")
        point = _unescape(mount.split()[4])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # the later of two mounts on one point hides the earlier
            best, kind = len(point), details.split()[0]
    return kind


def _unescape(text: str) -> str:
    for code, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, sign)
    return text


def _try_locks(folder: Path) -> str:
    """Return why locks do not work in a folder, "" where they do: the second of two must be
    refused.
    """
    with (
        tempfile.NamedTemporaryFile(dir=folder, prefix=".locks-") as file,
        open(file.name, "r+b") as second,
    ):
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return f"locks do not work there ({os.strerror(error.errno or 0)})"
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ""
        except OSError as error:
            return f"locks do not work there ({os.strerror(error.errno or 0)})"
        return "locks do not hold there (two at once on one file)"


def _try_sqlite(folder: Path) -> str:
    """Return why SQLite cannot keep a write-ahead log in a folder, "" where it can."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".locks-") as inner:
        try:
            with closing(sqlite3.connect(Path(inner) / "probe.sqlite", isolation_level=None)) as db:
                mode = db.execute("pragma journal_mode=wal").fetchone()[0]
                db.execute("create table probe (value)")
        except sqlite3.Error as error:
            full = (
                getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            )  # the next writer will say so
            return "" if full else f"SQLite does not work there ({error})"
    return "" if mode == "wal" else "SQLite keeps no write-ahead log there"
