"""Read the frames of a clip: one file, one folder of frames, or one list of frame files."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpo_video.recipe import VideoSettings
from dpo_video.video.decode import decode_decord, decode_pyav
from dpo_video.video.frames import Frames, VideoError
from dpo_video.video.images import FRAMES_PER_SECOND, decode_images, find_frames, frame_times, is_image
from dpo_video.video.policies import plan_indices, window
from dpo_video.video.probe import probe


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """Which frames of a clip are wanted: the policy, and the part of the file."""

    settings: VideoSettings
    start: float | None = None
    end: float | None = None
    multiple_of: int = 1


def read_frames(video: Path | Sequence[Path], settings: VideoSettings, *, start: float | None = None,
                end: float | None = None, multiple_of: int = 1) -> Frames:
    """Return the frames of a clip that the policy in `settings` picks; raise VideoError with the one reason why not.

    Args:
        video: a video file, a folder of image files (in natural order), an image file, or image files in order.
            Frame files are taken to be half a second apart.
        settings: the recipe's `video` section; of it policy, num_frames, fps, min_frames, max_frames, backend, timeout.
        start: seconds into the file where the clip begins: the frame on screen then is the first.
        end: seconds into the file where the clip ends; past the file's end is fine.
        multiple_of: round the number of frames down to a multiple of this, where there are that many.
    """
    pick = Pick(settings=settings, start=start, end=end, multiple_of=multiple_of)
    if isinstance(video, Path) and not os.path.isdir(video) and not is_image(video):
        return _read_file(video, pick)
    return _read_images([video] if isinstance(video, Path) and is_image(video) else video, pick)


def _read_file(path: Path, pick: Pick) -> Frames:
    deadline = time.monotonic() + pick.settings.timeout
    info = probe(path, deadline=deadline)
    indices = _plan(path, info.times, pick)
    if pick.settings.backend == "decord":
        result = decode_decord(info, indices)
        if not isinstance(result, str):
            return _frames(result, info.times, indices, pick, fps=info.fps, backend="decord")
        note = f"decord not used: {result}"
    else:
        note = None
    pixels = decode_pyav(info, indices, deadline=deadline)
    return _frames(pixels, info.times, indices, pick, fps=info.fps, backend="pyav", note=note)


def _read_images(video: Path | Sequence[Path], pick: Pick) -> Frames:
    files, note = find_frames(video)
    times = frame_times(len(files))
    indices = _plan(files[0].parent, times, pick)
    pixels = decode_images([files[index] for index in indices])
    return _frames(pixels, times, indices, pick, fps=FRAMES_PER_SECOND, backend="images", note=note)


def _plan(path: Path, times: NDArray[np.float64], pick: Pick) -> list[int]:
    indices = plan_indices(times, pick.settings, start=pick.start, end=pick.end, multiple_of=pick.multiple_of)
    if not indices:
        raise VideoError("too_few_frames", path, f"no frame between start={pick.start} and end={pick.end} seconds; "
                                                 f"its last frame is at {times[-1]:.3f}")
    return indices


def _frames(pixels: NDArray[np.uint8], times: NDArray[np.float64], indices: list[int], pick: Pick,
            **facts: Any) -> Frames:
    part = window(times, pick.start, pick.end)
    duration = len(part) / facts["fps"]
    return Frames(pixels=pixels, times=times[indices], indices=indices, total_frames=len(part), first_index=part.start,
                  start_time=float(times[part.start]), duration=duration, **facts)
