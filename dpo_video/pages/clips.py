"""Clips for a page: each made small once, in decoding processes, under a name that tells nothing
else.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_video.core.progress import progress
from dpo_video.core.records import Pair, Sample
from dpo_video.recipe import VideoSettings
from dpo_video.video import ClipRequest, FramePool, VideoError, clip_request
from dpo_video.video.jobs import SmallClip, SmallClipSettings

MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class ClipLimits:
    """How much of the clips a page gets."""

    most: int = 200
    """Clips with pictures."""
    megabytes: float = 200.0
    """All files together; clips behind that have pictures and no video."""
    with_video: bool = True


def clip_name(request: ClipRequest) -> str:
    """Return what a clip's small files are called, without suffix: a hash of its path and part, so
    that a page tells nothing of where it lies, and clips of two folders keep apart.
    """
    paths = [request.video] if isinstance(request.video, Path) else request.video
    whole = "\n".join(str(path.absolute()) for path in paths)
    text = f"{whole}#t={request.start},{request.end}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def request_of(record: Sample | Pair, root: Path) -> ClipRequest | str:
    """Return what to decode for a record, or why nothing can be."""
    try:
        return clip_request(record, root)
    except VideoError as error:
        return error.reason


def make_clips(
    requests: Iterable[ClipRequest], folder: Path, limits: ClipLimits, video: VideoSettings
) -> dict[str, dict[str, Any]]:
    """Write the small clips of some requests, in their order, and return the row of each for the
    page's script, by `clip_name`: names of files, or `error`.
    """
    wanted = list(dict.fromkeys(requests))[: limits.most]
    rows: dict[str, dict[str, Any]] = {}
    spent = 0.0
    settings = video.model_copy(update={"workers": min(2, video.workers)})
    with (
        FramePool(settings, look_ahead=2 * settings.workers) as pool,
        progress("clips", total=len(wanted)) as advance,
    ):

        def make(request: ClipRequest) -> SmallClip | VideoError:
            with_video = limits.with_video and spent < limits.megabytes * MEGABYTE
            small = SmallClipSettings(with_video=with_video, timeout=video.timeout)
            return pool.make_small(request, folder / clip_name(request), small)

        for request, reply in pool.each(wanted, make):
            name = clip_name(request)
            row = clip_row(name, reply, folder)
            spent += sum((folder / row[kind]).stat().st_size for kind in FILES if row.get(kind))
            rows[name] = row
            advance()
    return rows


FILES = ("video", "poster", "strip")


def clip_row(name: str, reply: SmallClip | VideoError, folder: Path) -> dict[str, Any]:
    """Return what a page's script is told of a clip."""
    if isinstance(reply, VideoError):
        return {"error": f"{reply.reason} [{reply.code}]"}
    files = {"poster": f"{name}.jpg", "strip": f"{name}-strip.jpg"}
    if (folder / f"{name}.mp4").is_file():
        files["video"] = f"{name}.mp4"
    return {
        **files,
        "seconds": round(reply.seconds, 3),
        "fps": round(reply.fps, 3),
        "width": reply.width,
        "height": reply.height,
        "sound": reply.has_sound,
        "note": reply.note,
    }
