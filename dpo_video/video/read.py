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
from dpo_video.video.decode import decode_decord, decode_pyav, scaled, too_large
from dpo_video.video.frames import Frames, SizeRule, SoundFormat, VideoError
from dpo_video.video.images import decode_pictures, find_pictures, is_image
from dpo_video.video.policies import Extent, extent, frame_indices, window
from dpo_video.video.probe import VideoIndex, probe
from dpo_video.video.sound import ClipSound, read_sound

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
    size_rule: SizeRule | None = None
    sound: SoundFormat | None = None

    @property
    def max_bytes(self) -> int:
        """Most bytes of pixels."""
        return int(self.settings.max_clip_gb * (1 << 30))


def read_frames(
    video: Path | Sequence[Path],
    settings: VideoSettings,
    *,
    start: float | None = None,
    end: float | None = None,
    multiple_of: int = 1,
    size_rule: SizeRule | None = None,
    sound: SoundFormat | None = None,
) -> Frames:
    """Return the frames of a clip that the policy in `settings` picks; raise VideoError with the
    one reason why not.

    Args:
        video: a video file, a folder of image files (in natural order), an image file, or image
            files in order. Frame files are taken to be half a second apart; an animated GIF, PNG or
            WebP file has times of its own.
        settings: the recipe's `video` section; of it policy, num_frames, fps, min_frames,
            max_frames, change, backend, timeout, max_clip_gb.
        start: seconds into the file where the clip begins: the frame on screen then is the first.
        end: seconds into the file where the clip ends; past the file's end is fine.
        multiple_of: round the number of frames down to a multiple of this, where there are that
            many.
        size_rule: gives the size that frames are decoded at; None is their own.
        sound: how the clip's sound is read beside its frames; None leaves it. Pictures have none.
    """
    query = FrameQuery(
        settings=settings,
        start=start,
        end=end,
        multiple_of=multiple_of,
        size_rule=size_rule,
        sound=sound,
    )
    if isinstance(video, Path) and not os.path.isdir(video) and not is_image(video):
        return _read_file(video, query)
    return _read_images(video, query)


def _read_file(path: Path, query: FrameQuery) -> Frames:
    deadline = time.monotonic() + query.settings.timeout
    video = probe(path, deadline=deadline)
    decode = partial(decode_pyav, video, deadline=deadline, max_bytes=query.max_bytes)
    frame_bytes = 3 * video.width * video.height
    indices, looked_at = _plan(path, video.times, query, decode, frame_bytes)
    sound = _sound(
        video, query, deadline=deadline, max_bytes=query.max_bytes - frame_bytes * len(indices)
    )
    notes, backend, pixels = [video.note, sound.note], "pyav", None
    sizes = _Sizes(query.size_rule, len(indices), len(sound.samples))
    if query.settings.backend == "decord":
        result = (
            decode_decord(video, indices)
            if query.size_rule is None
            else "video.decode_size is model, which FFmpeg's scaler does while it decodes"
        )
        if isinstance(result, str):
            notes.insert(0, f"decord not used: {result}")
        else:
            backend, pixels = "decord", result
    return _frames(
        decode(indices, size_of=sizes.of) if pixels is None else pixels,
        video.times,
        indices,
        query,
        fps=video.fps,
        backend=backend,
        note="; ".join(filter(None, notes)) or None,
        looked_at=looked_at,
        own_size=sizes.own,
        sound=sound.samples if len(sound.samples) else None,
    )


def _sound(video: VideoIndex, query: FrameQuery, *, deadline: float, max_bytes: int) -> ClipSound:
    """Return the sound of the part of a file that the clip is."""
    if query.sound is None:
        return ClipSound()
    where = _extent(video.times, query, fps=video.fps)
    return read_sound(
        video,
        query.sound,
        begin=where.begin,
        seconds=where.duration,
        deadline=deadline,
        max_bytes=max_bytes,
    )


def _read_images(video: Path | Sequence[Path], query: FrameQuery) -> Frames:
    pictures = find_pictures(video)
    decode = partial(decode_pictures, pictures)
    frame_bytes = 3 * pictures.width * pictures.height
    indices, looked_at = _plan(pictures.path, pictures.times, query, decode, frame_bytes)
    sizes = _Sizes(query.size_rule, len(indices), 0)
    return _frames(
        scaled(decode(indices), sizes.of),
        pictures.times,
        indices,
        query,
        fps=pictures.fps,
        backend="images",
        note=pictures.note,
        looked_at=looked_at,
        own_size=sizes.own,
    )


class _Sizes:
    """The size that the frames of a clip are decoded at: the rule is asked once for each that they
    have.
    """

    def __init__(self, rule: SizeRule | None, num_frames: int, sound_samples: int) -> None:
        self._rule = rule
        self._num_frames = num_frames
        self._sound_samples = sound_samples
        self._decoded_at: dict[tuple[int, int], tuple[int, int]] = {}

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width to decode at, for frames of some height and width."""
        if self._rule is None:
            return height, width
        if (height, width) not in self._decoded_at:
            self._decoded_at[height, width] = self._rule(
                self._num_frames, height, width, self._sound_samples
            )
        return self._decoded_at[height, width]

    @property
    def own(self) -> tuple[int, int] | None:
        """The size that the frames had, where they are decoded at another."""
        changed = [size for size, decoded in self._decoded_at.items() if decoded != size]
        return changed[0] if changed else None


def _plan(
    path: Path, times: NDArray[np.float64], query: FrameQuery, decode: Decode, frame_bytes: int
) -> tuple[list[int], int]:
    """Return the positions of the frames to read, and how many were looked at to choose them;
    raise VideoError where they take more than `video.max_clip_gb`.
    """
    looked_at = 0

    def look(positions: list[int]) -> NDArray[np.float32]:
        nonlocal looked_at
        looked_at += len(positions)
        step = min(LOOK_FRAMES, query.max_bytes // max(frame_bytes, 1))
        if not step:
            raise too_large(path, frame_bytes, query.max_bytes)
        chunks = (positions[begin : begin + step] for begin in range(0, len(positions), step))
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
    if frame_bytes * len(indices) > query.max_bytes:
        raise too_large(path, frame_bytes * len(indices), query.max_bytes)
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
    where = _extent(times, query, fps=fps)
    return Frames(
        pixels=pixels,
        times=times[indices],
        indices=indices,
        total_frames=len(clip_range),
        first_index=clip_range.start,
        start_time=where.begin,
        duration=where.duration,
        fps=where.rate,
        sound_rate=0 if query.sound is None else query.sound.rate,
        **facts,
    )


def _extent(times: NDArray[np.float64], query: FrameQuery, *, fps: float) -> Extent:
    """Return where the clip lies in its file."""
    return extent(times, window(times, query.start, query.end), query.start, query.end, fps=fps)
