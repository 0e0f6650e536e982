"""Read the frames of a clip: one file, one folder of frames, or one list of frame files."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dpo_video.recipe import VideoSettings
from dpo_video.video.decode import decode_decord, decode_pyav
from dpo_video.video.frames import Frames, VideoError
from dpo_video.video.images import (
    FRAMES_PER_SECOND,
    decode_images,
    find_frames,
    frame_times,
    is_image,
)
from dpo_video.video.policies import extent, frame_indices, window
from dpo_video.video.probe import probe

Decode = Callable[[list[int]], NDArray[np.uint8]]
"""Returns the frames at some positions, (F, H, W, 3)."""
LOOK_FRAMES = 64
"""Frames decoded at a time to be looked at: their full size is in memory only so long."""
LOOK_SIDE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameQuery:
    """Which frames of a clip are wanted: the policy, and the part of the file."""

    settings: VideoSettings
    start: float | None = None
    end: float | None = None
    multiple_of: int = 1


def read_frames(
    video: Path | Sequence[Path],
    settings: VideoSettings,
    *,
    start: float | None = None,
    end: float | None = None,
    multiple_of: int = 1,
) -> Frames:
    """Return the frames of a clip that the policy in `settings` picks; raise VideoError with the
    one reason why not.

    Args:
        video: a video file, a folder of image files (in natural order), an image file, or image
            files in order. Frame files are taken to be half a second apart.
        settings: the recipe's `video` section; of it policy, num_frames, fps, min_frames,
            max_frames, change, backend, timeout.
        start: seconds into the file where the clip begins: the frame on screen then is the first.
        end: seconds into the file where the clip ends; past the file's end is fine.
        multiple_of: round the number of frames down to a multiple of this, where there are that
            many.
    """
    query = FrameQuery(settings=settings, start=start, end=end, multiple_of=multiple_of)
    if isinstance(video, Path) and not os.path.isdir(video) and not is_image(video):
        return _read_file(video, query)
    return _read_images([video] if isinstance(video, Path) and is_image(video) else video, query)


def _read_file(path: Path, query: FrameQuery) -> Frames:
    deadline = time.monotonic() + query.settings.timeout
    video = probe(path, deadline=deadline)
    indices, looked_at = _plan(
        path, video.times, query, partial(decode_pyav, video, deadline=deadline)
    )
    if query.settings.backend == "decord":
        result = decode_decord(video, indices)
        if not isinstance(result, str):
            return _frames(
                result,
                video.times,
                indices,
                query,
                fps=video.fps,
                backend="decord",
                looked_at=looked_at,
            )
        note = f"decord not used: {result}"
    else:
        note = None
    pixels = decode_pyav(video, indices, deadline=deadline)
    return _frames(
        pixels,
        video.times,
        indices,
        query,
        fps=video.fps,
        backend="pyav",
        note=note,
        looked_at=looked_at,
    )


def _read_images(video: Path | Sequence[Path], query: FrameQuery) -> Frames:
    files, note = find_frames(video)
    times = frame_times(len(files))

    def decode(positions: list[int]) -> NDArray[np.uint8]:
        return decode_images([files[position] for position in positions])

    indices, looked_at = _plan(files[0].parent, times, query, decode)
    return _frames(
        decode(indices),
        times,
        indices,
        query,
        fps=FRAMES_PER_SECOND,
        backend="images",
        note=note,
        looked_at=looked_at,
    )


def _plan(
    path: Path, times: NDArray[np.float64], query: FrameQuery, decode: Decode
) -> tuple[list[int], int]:
    """Return the positions of the frames to read, and how many were looked at to choose them."""
    looked_at = 0

    def look(positions: list[int]) -> NDArray[np.float32]:
        nonlocal looked_at
        looked_at += len(positions)
        chunks = (
            positions[begin : begin + LOOK_FRAMES]
            for begin in range(0, len(positions), LOOK_FRAMES)
        )
        return np.concatenate([small_pictures(decode(chunk)) for chunk in chunks])

    indices = frame_indices(
        times,
        query.settings,
        start=query.start,
        end=query.end,
        multiple_of=query.multiple_of,
        look=look,
    )
    if not indices:
        raise VideoError(
            "too_few_frames",
            path,
            f"no frame from {query.start or 0:g} seconds to "
            f"{'the end' if query.end is None else format(query.end, 'g')}; its last frame is at "
            f"{times[-1]:.3f}",
        )
    return indices, looked_at


def small_pictures(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return frames (F, H, W, 3) as (F, 32, 32) float32 from 0 to 1: their luma, averaged over
    areas.
    """
    side = (LOOK_SIDE, LOOK_SIDE)
    small = [
        Image.fromarray(frame).convert("L").resize(side, Image.Resampling.BOX) for frame in pixels
    ]
    return np.stack([np.asarray(picture, dtype=np.float32) / 255 for picture in small])


def _frames(
    pixels: NDArray[np.uint8],
    times: NDArray[np.float64],
    indices: list[int],
    query: FrameQuery,
    *,
    fps: float,
    **facts: Any,
) -> Frames:
    clip_range = window(times, query.start, query.end)
    where = extent(times, clip_range, query.start, query.end, fps=fps)
    return Frames(
        pixels=pixels,
        times=times[indices],
        indices=indices,
        total_frames=len(clip_range),
        first_index=clip_range.start,
        start_time=where.begin,
        duration=where.duration,
        fps=where.rate,
        **facts,
    )
