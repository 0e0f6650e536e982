"""What is to be decoded for a sample or a pair."""

from dataclasses import replace
from pathlib import Path

from dpo_video.records import Pair, Sample
from dpo_video.video.corrupt import check_corruption
from dpo_video.video.frames import ClipRequest
from dpo_video.video.sources import clip_key, rejected_clip_key, rejected_part, resolve_video


def clip_request(record: Sample | Pair, root: Path) -> ClipRequest:
    """Return what to decode for a sample or a pair; raises VideoError for an address."""
    return _request(clip_key(record), record.video, root, start=record.start, end=record.end)


def rejected_clip_request(pair: Pair, root: Path) -> ClipRequest:
    """Return what to decode for a pair's rejected answer, and what is then done to the frames."""
    if pair.rejected_corruption is not None:
        check_corruption(pair.rejected_corruption, f"rejected_corruption of the pair of sample {pair.sample_id!r}")
    video, start, end = rejected_part(pair)
    return replace(_request(rejected_clip_key(pair), video, root, start=start, end=end),
                   corruption=pair.rejected_corruption)


def _request(key: str, name: str | list[str], root: Path, *, start: float | None, end: float | None) -> ClipRequest:
    video = resolve_video(name, root)
    return ClipRequest(key=key, video=tuple(video) if isinstance(video, list) else video, start=start, end=end)
