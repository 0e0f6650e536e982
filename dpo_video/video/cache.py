"""What was made of clips, on disk: entries whole or absent, keyed by all that determines them."""

import hashlib
import io
import logging
import math
import os
import shutil
import stat
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.recipe import Recipe, VideoSettings
from dpo_video.recipe.affects import Affects, settings_that_affect
from dpo_video.video.frames import ClipRequest, Frames, SoundFormat

T = TypeVar("T")
log = logging.getLogger(__name__)

DECODERS = ("av", "decord")
EDGE = 1 << 16
"""Bytes of a file's beginning and end that tell it from others of its name and size."""
SHARES = 20
"""Parts of its limit after each of which a process looks what others have written."""
STARTED = time.time_ns()
"""When this process began, for what it has not read itself."""
TORN_SECONDS = 3600.0
"""An unfinished entry is older than this only where its writer was killed."""
UNREADABLE = (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged entry raises. Each entry carries checksums: a zip file its own, features
theirs.
"""
READING = 2
"""How a file is read: 1 lost the clock where a time is repeated, turned mirrored files, took the
first of several streams and the first picture of an animation, and cut grey of 16 bits off.
"""
ARRAYS = ("pixels", "times", "sound")
"""Fields of Frames that an entry holds as arrays."""
PART_TIMES = 2
"""How the times of a part of a file are reckoned: 1 took the mean rate of the whole file even where
the rate varies.
"""


class DiskCache:
    """Entries of bytes in a folder that any number of threads and processes share.

    An entry is written beside its place and renamed, so that a reader finds it whole or not at all.
    It begins with its own name: one that was copied or moved to another's place is damaged.
    Reading one sets its time of change, and above the limit those not read for longest go; or,
    with `keeps_first`, nothing more is written. A run reads its clips in the same order again and
    again: where they do not all fit, what was not read for longest is what is read next. What other
    settings have left, and this process has not read, still goes. Each process adds up what it
    writes, so a folder may pass its limit by a twentieth for each of them.
    """

    def __init__(self, folder: Path, *, limit: int, keeps_first: bool = False) -> None:
        """Use `folder`, made where it is not there, for at most `limit` bytes; with `keeps_first`
        for no more than half of the room that is left on its disk.
        """
        self.folder = folder
        self.limit = limit
        self._given_limit = limit
        self.counts: Counter[str] = Counter()
        """hits, written, corrupt, evicted, too_large, full, not_written, not_read: of this process.
        """
        self._keeps_first = keeps_first
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the cache {str(folder)!r}: {error.strerror}. Set video.cache_folder "
                f"to a "
                "folder that can be written, or video.cache: none"
            ) from error
        if keeps_first:
            self._look_again(0)
            self._evict(self.limit)
            self._look_again(0)
        else:
            self._room = limit - self._evict(limit * 9 // 10)

    def get(self, name: str, read: Callable[[bytes], T]) -> T | None:
        """Return what `read` makes of an entry; None where there is none, or a damaged one, which
        is removed.
        """
        path = self._path(name)
        head = entry_head(name)
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait
                raise OSError(f"{path} is not a regular file")
            with path.open("rb") as file:
                found_head = file.read(len(head))
                data = file.read()
            with suppress(OSError):  # of others, who let it be read alone
                os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if self._count("not_read") == 1:
                log.warning("cache: cannot read from %s (%s); going on without", self.folder, error)
            return None
        try:
            if found_head != head:
                raise ValueError("it is the entry of another clip or setting")
            entry = read(data)
        except UNREADABLE as error:
            self._count("corrupt")
            log.warning("cache: %s is damaged (%s) and made again", path, error)
            self._remove(path)
            return None
        self._count("hits")
        return entry

    def put(self, name: str, data: bytes) -> None:
        """Store an entry; a disk that refuses is told once and costs only the entry."""
        head = entry_head(name)
        size = len(head) + len(data)
        if size > self.limit:
            self._count("too_large")
            return
        if self._is_full(size, kind_of(name)):
            if self._count("full") == 1:
                log.info(
                    "cache: %s holds %.3g GB, the most that video.cache_gb and half of the free "
                    "disk allow; what does not fit is decoded in each stage",
                    self.folder,
                    self.limit / 1e9,
                )
            return
        path = self._path(name)
        torn = path.with_name(f".{uuid4().hex}")
        try:
            path.parent.mkdir(exist_ok=True)
            with torn.open("wb") as file:
                file.write(head)
                file.write(data)
            torn.replace(path)
        except OSError as error:
            with suppress(OSError):
                torn.unlink(missing_ok=True)
            if self._count("not_written") == 1:
                log.warning("cache: cannot write to %s (%s); going on without", self.folder, error)
            return
        self._count("written")
        with self._lock:
            self._room -= size
            if self._room < 0 and not self._keeps_first:
                self._evict(self.limit * 9 // 10)
                self._look_again(0)

    def _is_full(self, size: int, kind: str) -> bool:
        """Return whether an entry has no room where the first ones stay; for want of it, what was
        made with settings of another kind goes.
        """
        with self._lock:
            if self._keeps_first and self._room < size and not self.counts["full"]:
                self._look_again(size)
                if self._room < size:
                    self._evict(self.limit - max(self.limit // SHARES, size), but=kind)
                    self._look_again(size)
            return self._keeps_first and self._room < size

    def _look_again(self, size: int) -> None:
        """Find out how much room there is, and take a part of it, enough for an entry of `size`:
        others write too, here and elsewhere on the disk.
        """
        held = sum(entry_size for _, entry_size, _ in self._entries())
        if self._keeps_first:
            self.limit = min(self._given_limit, (held + shutil.disk_usage(self.folder).free) // 2)
        self._room = min(max(self.limit // SHARES, size), self.limit - held)

    def _evict(self, enough: int, *, but: str | None = None) -> int:
        """Where there are more bytes than the limit, delete the entries unused for longest until
        `enough` are left; return how many are.

        Args:
            but: a kind that stays; of the others goes what this process has not read, whatever the
                limit.
        """
        entries = self._entries()
        size = sum(entry_size for _, entry_size, _ in entries)
        if size <= self.limit and but is None:
            return size
        before = math.inf if but is None else STARTED
        for used, entry_size, path in sorted(entries):
            if size <= enough or used >= before:
                break
            if kind_of(path.name) != but and self._remove(path):
                self.counts["evicted"] += 1
                size -= entry_size
        return size

    def _remove(self, path: Path) -> bool:
        """Return whether a file is gone; one that the disk does not let go is left."""
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def _entries(self) -> list[tuple[int, int, Path]]:
        """Return the time of change, the size and the path of each entry; what a killed process
        left half written goes.
        """
        entries = []
        for path, facts in found_files(self.folder):
            if not path.name.startswith("."):
                entries.append((facts.st_mtime_ns, facts.st_size, path))
            elif time.time() - facts.st_mtime > TORN_SECONDS:
                self._remove(path)
        return entries

    def _count(self, name: str) -> int:
        with self._lock:
            self.counts[name] += 1
            return self.counts[name]

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name


def found_files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the files of a cache's folder, while other processes write and delete there."""
    for path in folder.glob("*/*"):
        try:
            facts = path.stat()
        except OSError:  # another process was faster
            continue
        yield path, facts


def kind_of(name: str) -> str:
    """Return what of an entry's name tells the settings that it was made with: all but the clip."""
    return name.partition("-")[2]


def entry_head(name: str) -> bytes:
    """Return the bytes that an entry of a cache begins with."""
    return f"dpo-video {name}\n".encode()


def open_cache(recipe: Recipe) -> DiskCache | None:
    """Return the cache that a recipe asks for, None for `video.cache: none`."""
    video = recipe.video
    if video.cache == "none":
        return None
    return DiskCache(
        cache_folder(recipe),
        limit=int(video.cache_gb * (1 << 30)),
        keeps_first=video.cache == "auto",
    )


def cache_folder(recipe: Recipe) -> Path:
    """Return where a recipe's runs keep their clips."""
    folder = recipe.video.cache_folder
    return recipe.store_folder / "cache" if folder is None else Path(folder).expanduser()


def cache_size(recipe: Recipe) -> dict[str, Any] | None:
    """Return the folder of a recipe's cache, and what it holds; None where there is none."""
    folder = cache_folder(recipe)
    if recipe.video.cache == "none" or not folder.is_dir():
        return None
    sizes = [facts.st_size for path, facts in found_files(folder) if path.name[0] != "."]
    return {"folder": str(folder), "clips": len(sizes), "gigabytes": sum(sizes) / 1e9}


def clip_identity(request: ClipRequest) -> dict[str, Any] | None:
    """Return what tells a clip from all others and from itself after a change; None where it cannot
    be read.

    That is the part of the file that it is, and of its files the name, size and time of change, and
    of the first the hash of its two ends as well: files out of an archive may share name, size and
    time.
    """
    try:
        video = request.video
        files = sorted(video.iterdir()) if isinstance(video, Path) and video.is_dir() else video
        paths = [files] if isinstance(files, Path) else list(files)
        facts = [(path.name, path.stat()) for path in paths]
        return {
            "files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in facts],
            "ends": next((_ends(path) for path in paths if path.is_file()), None),
            **part_identity(request.start, request.end),
        }
    except OSError:  # decoding tells the reason
        return None


def part_identity(start: float | None, end: float | None) -> dict[str, Any]:
    """Return what tells a part of a file from its other parts, and from itself with other times."""
    whole = start is None and end is None
    return {"start": start, "end": end} | ({} if whole else {"part_times": PART_TIMES})


def frames_identity(
    request: ClipRequest,
    settings: VideoSettings,
    *,
    multiple_of: int,
    sound: SoundFormat | None = None,
) -> dict[str, Any] | None:
    """Return all that determines the frames of a request, and the sound that is read with them;
    None where it cannot be read.
    """
    clip = clip_identity(request)
    if clip is None:
        return None
    corruption = {} if request.corruption is None else {"corruption": request.corruption}
    heard = {} if sound is None else {"sound": asdict(sound)}
    return {
        "clip": clip,
        "reading": READING,
        "multiple_of": multiple_of,
        **corruption,
        **heard,
        "policy": settings_that_affect(settings, Affects.PIXELS | Affects.DECODER),
        "decoders": {
            name: version(name) for name in DECODERS if name == "av" or settings.backend == name
        },
    }


def write_frames(frames: Frames) -> bytes:
    """Return frames as an npz file: `pixels`, `times`, `sound` where there is some, and the other
    facts as JSON text in `facts`.
    """
    facts = {
        field.name: getattr(frames, field.name)
        for field in fields(Frames)
        if field.name not in ARRAYS
    }
    buffer = io.BytesIO()
    arrays = {name: getattr(frames, name) for name in ARRAYS}
    np.savez(
        buffer,
        facts=np.array(strict_json.dumps(facts)),
        **{name: array for name, array in arrays.items() if array is not None},
    )
    return buffer.getvalue()


def read_frames_entry(data: bytes) -> Frames:
    """Return the frames of an npz file; raises one of UNREADABLE where it is damaged."""
    with np.load(io.BytesIO(data), allow_pickle=False) as entry:
        facts = strict_json.loads(str(entry["facts"]))
        own_size = facts.pop("own_size", None)
        return Frames(
            pixels=entry["pixels"],
            times=entry["times"],
            sound=entry.get("sound"),
            own_size=own_size and tuple(own_size),
            **facts,
        )


def _ends(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(EDGE))
        file.seek(max(0, path.stat().st_size - EDGE))
        digest.update(file.read(EDGE))
    return digest.hexdigest()
