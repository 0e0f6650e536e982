"""Where a sample's clip lies, and its name in counts and in the store."""

import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path

from dpo_video.core.records import Pair, Sample
from dpo_video.video.corrupt import check_corruption
from dpo_video.video.frames import ClipRequest, VideoError

REMOTE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")


def resolve_video(video: str | list[str], root: Path) -> Path | list[Path]:
    """Return the path (or paths, of a list of frames) of a record's `video`; relative ones start
    from `root`.
    """
    if isinstance(video, list):
        return [_resolve(name, root) for name in video]
    return _resolve(video, root)


def _resolve(name: str, root: Path) -> Path:
    if REMOTE.match(name) and not os.path.exists(root / name):
        raise VideoError("remote", name, "an address, not a file: download it first")
    return root / local_path(name)


def local_path(name: str) -> Path:
    """Return the path that a record names, `~` at its beginning as somebody's home; `~clip.mp4` is
    a file's name.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:  # nobody is called so
        return Path(name)


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
        digest = hashlib.sha256(json.dumps(name).encode()).hexdigest()[:12]
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
