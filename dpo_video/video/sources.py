"""Where a sample's clip lies, and its name in counts and in the store."""

import hashlib
import os
import re
import unicodedata
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.records import Pair, Sample
from dpo_video.video.corrupt import check_corruption
from dpo_video.video.frames import ClipRequest, VideoError

REMOTE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")
REPOSITORY = re.compile(r"(datasets|models|spaces)--")
"""How the folder of a repository in the cache of the Hugging Face Hub begins."""


def resolve_video(video: str | list[str], root: Path) -> Path | list[Path]:
    """Return the path (or paths, of a list of frames) of a record's `video`; relative ones start
    from `root`.
    """
    if isinstance(video, list):
        return [_resolve(name, root) for name in video]
    return _resolve(video, root)


def _resolve(name: str, root: Path) -> Path:
    if REMOTE.match(name) and _file_address(name) is None and not os.path.exists(root / name):
        raise VideoError("remote", name, "an address, not a file: download it first")
    return find_path(name, root)


def find_path(name: str, root: Path) -> Path:
    """Return the path that a record names, in the spelling of Unicode that is there."""
    path = root / local_path(name)
    if name.isascii() or os.path.exists(path):
        return path
    # é is one character or two: macOS and archives made there write the other than most programs
    spellings = (Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD"))
    return next((spelling for spelling in spellings if os.path.exists(spelling)), path)


def local_path(name: str) -> Path:
    """Return the path that a record names: `~` at its beginning is somebody's home, `file:///..` an
    address of this machine; `~clip.mp4` is a file's name.
    """
    address = _file_address(name)
    if address is not None:
        return Path(address)
    try:
        return Path(name).expanduser()
    except RuntimeError:  # nobody is called so
        return Path(name)


def _file_address(name: str) -> str | None:
    """Return the path of a `file://` address of this machine; None for any other name."""
    if not name.lower().startswith("file:/"):
        return None
    address = urlsplit(name)
    return unquote(address.path) if address.netloc in ("", "localhost") else None


def check_inside(video: str | list[str], root: Path, where: str) -> None:
    """Raise UserError where a clip, or a link in a folder of frames, leads out of `root`.

    Args:
        video: as in a record.
        root: the folder that relative paths start from.
        where: the record, for the error.
    """
    for name in [video] if isinstance(video, str) else video:
        try:
            path = _resolve(name, root)
        except VideoError:  # an address is no way out; its own reason is told where it is read
            continue
        real = path_outside(path, root)
        if real is not None:
            raise UserError(
                f"{where}: the clip {name!r} is {real!r}, outside of data.video_root "
                f"{str(root)!r}. Set data.video_root to a folder that holds all clips; or, "
                "where you trust the paths of this file, set data.outside_root=true"
            )


def path_outside(path: Path, root: Path) -> str | None:
    """Return where a clip, or a link in a folder of frames, lies outside of `root`; None where all
    of it lies inside.

    The files of a snapshot in the cache of the Hugging Face Hub are links to the blobs of the same
    repository, which count as inside.
    """
    real_root = _real_folder(str(root))
    for real in _real_paths(path):
        blobs = _blobs_of(real_root)
        inside = os.path.commonpath([real_root, real]) == real_root
        if not inside and (blobs is None or os.path.dirname(real) != blobs):
            return real
    return None


@lru_cache
def _blobs_of(root: str) -> str | None:
    """Return the folder that the files of a Hub snapshot link to, for a root in such a snapshot:
    `.../datasets--user--name/snapshots/REVISION/...` has `.../datasets--user--name/blobs`.
    """
    for folder in Path(root).parents:
        if folder.name == "snapshots" and REPOSITORY.match(folder.parent.name):
            return str(folder.parent / "blobs")
    return None


def _real_paths(path: Path) -> list[str]:
    """Return where a clip really lies, all links followed; of a folder of frames also where its
    links lead.
    """
    real = real_path(path)
    try:
        with os.scandir(real) as entries:
            return [real, *(os.path.realpath(entry) for entry in entries if entry.is_symlink())]
    except (OSError, ValueError):  # a file, or nothing
        return [real]


def real_path(path: Path) -> str:
    """Return a path with all links followed, whether or not anything lies there."""
    real = os.path.join(_real_folder(str(path.parent)), path.name)
    if path.name in ("", "..") or os.path.islink(real):
        return os.path.realpath(path)
    return real


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    """Return a folder with all links followed; many clips lie in one."""
    try:
        return os.path.realpath(folder)
    except ValueError:  # a null byte: no such folder
        return os.path.abspath(folder)


def clip_key(sample: Sample | Pair) -> str:
    """Return the name of a sample's clip: its video, then `#t=start,end` where it is a part of
    it.
    """
    return _clip_name(sample.video, sample.start, sample.end)


def rejected_clip_key(pair: Pair) -> str:
    """Return the name of the clip that a pair's rejected answer goes with: its own, another, or a
    corrupted one.
    """
    name = _clip_name(*rejected_part(pair))
    return name if pair.rejected_corruption is None else f"{name}#{pair.rejected_corruption}"


def rejected_part(pair: Pair) -> tuple[str | list[str], float | None, float | None]:
    """Return video, start and end of the clip that a pair's rejected answer goes with."""
    if pair.rejected_video is None and pair.rejected_start is None and pair.rejected_end is None:
        return pair.video, pair.start, pair.end
    return (
        pair.video if pair.rejected_video is None else pair.rejected_video,
        pair.rejected_start,
        pair.rejected_end,
    )


def _clip_name(video: str | list[str], start: float | None, end: float | None) -> str:
    name = video
    if isinstance(name, list):
        digest = hashlib.sha256(strict_json.dumps(name).encode()).hexdigest()[:12]
        name = f"{name[0] if name else ''} and on ({len(name)} frames, {digest})"
    if start is None and end is None:
        return name
    begins, ends = ("" if second is None else repr(float(second)) for second in (start, end))
    return f"{name}#t={begins},{ends}"


def file_name(video: str | list[str]) -> str:
    """Return the name of a record's video, whatever part of it the clip is: what is resampled as
    one.
    """
    return video if isinstance(video, str) else "\n".join(video)


def clip_request(record: Sample | Pair, root: Path) -> ClipRequest:
    """Return what to decode for a sample or a pair; raises VideoError for an address."""
    return _request(clip_key(record), record.video, root, start=record.start, end=record.end)


def rejected_clip_request(pair: Pair, root: Path) -> ClipRequest:
    """Return what to decode for a pair's rejected answer, and what is then done to the frames."""
    if pair.rejected_corruption is not None:
        check_corruption(
            pair.rejected_corruption,
            f"rejected_corruption of the pair of sample {pair.sample_id!r}",
        )
    video, start, end = rejected_part(pair)
    return replace(
        _request(rejected_clip_key(pair), video, root, start=start, end=end),
        corruption=pair.rejected_corruption,
    )


def _request(
    key: str, name: str | list[str], root: Path, *, start: float | None, end: float | None
) -> ClipRequest:
    video = resolve_video(name, root)
    return ClipRequest(
        key=key, video=tuple(video) if isinstance(video, list) else video, start=start, end=end
    )
