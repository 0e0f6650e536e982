"""What reading a clip gives: its frames, or a VideoError with one reason.

F frames, H height, W width in pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dpo_video.core.errors import UserError

ErrorCode = Literal[
    "not_found",
    "remote",
    "empty",
    "not_a_video",
    "no_video_stream",
    "truncated",
    "corrupt",
    "unsupported_codec",
    "too_few_frames",
    "too_large",
    "rotated",
    "outside_root",
    "io_error",
    "timeout",
    "crashed",
    "unchanged",
]
PASSING = ("not_found", "io_error", "timeout", "crashed")
"""Codes of what may be otherwise at the next try, though the file stays as it is."""


class VideoError(UserError):
    """Why a clip cannot be read: `code` to count by, `path`, and the reason in words."""

    def __init__(self, code: ErrorCode, path: Path | str, reason: str) -> None:
        super().__init__(f"cannot read {str(path)!r}: {reason} [{code}]")
        self.code = code
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the error travel between processes."""
        return VideoError, (self.code, self.path, self.reason)


SizeRule = Callable[[int, int, int, int], tuple[int, int]]
"""Returns the height and width that frames are decoded at, from their number, the height and
width that they have upright, and the samples of the clip's sound that is read with them.
"""


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """How a model takes a clip's sound: mono, from -1 to 1."""

    rate: int
    """Samples a second."""
    max_seconds: float | None = None
    """What comes later in a clip is left out; None takes all of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frames:
    """The frames picked from a clip, with the facts that a processor needs to place them in time.

    The clip is the whole file, or the part of it between `start` and `end`.
    """

    pixels: NDArray[np.uint8]
    """(F, H, W, 3) RGB 0-255, upright (the file's rotation is applied)."""
    times: NDArray[np.float64]
    """(F,) seconds; 0 is the first frame of the file, whatever `start` is."""
    indices: list[int]
    """(F,) positions in the file's frames, counted from 0 in display order."""
    fps: float
    """Frames per second: of the file, the mean rate where it varies; of a part at a varying rate,
    that of the part.
    """
    total_frames: int
    """Frames in the clip."""
    first_index: int = 0
    """Position in the file of the clip's first frame."""
    start_time: float = 0.0
    """Seconds from the file's first frame to where the clip begins: where its first frame comes on
    screen, or at a varying rate `start`, where that is later."""
    duration: float
    """Seconds that the clip lasts."""
    backend: str
    """What read it: `pyav`, `decord` or `images`."""
    looked_at: int = 0
    """Frames that were looked at to choose these, under `scene` and `diff_prune`."""
    note: str | None = None
    """What a reader should know: why another backend was used, what was ignored."""
    own_size: tuple[int, int] | None = None
    """Height and width before a SizeRule made them smaller; None where they are as they were."""
    sound: NDArray[np.float32] | None = None
    """(S,) samples from -1 to 1 of the clip's sound, the first at `start_time`; None where it has
    none, or none was asked for.
    """
    sound_rate: int = 0
    """Samples a second; 0 where no sound was asked for."""

    @property
    def sound_samples(self) -> int:
        """How many samples of sound there are."""
        return 0 if self.sound is None else len(self.sound)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRequest:
    """One clip to read; equal requests are the same clip."""

    key: str
    video: Path | tuple[Path, ...]
    """A video file, a folder of frames, or frame files in order."""
    start: float | None = None
    """Seconds into the file where the clip begins."""
    end: float | None = None
    """Seconds into the file where the clip ends."""
    corruption: str | None = None
    """What is done to the frames before the model sees them (see corrupt.py); a ClipSource does it,
    no FramePool.
    """


def video_metadata(frames: Frames) -> dict[str, Any]:
    """Return the `video_metadata` of a Hugging Face processor, to pass with
    `do_sample_frames=False`.

    Processors know constant rates only: they take index / fps as a frame's time, and frames / total
    * fps as the sampled rate. So the clip is described as a video of its own, and `frames_indices`
      are the frames' times in
    units of 1 / fps; at a constant rate these are the positions in the clip.
    """
    since_start = np.maximum(
        frames.times - frames.start_time, 0
    )  # its first frame may stand since before it begins
    nominal = np.rint(since_start * frames.fps).astype(int)
    return {
        "total_num_frames": frames.total_frames,
        "fps": frames.fps,
        "duration": frames.duration,
        "frames_indices": nominal.tolist(),
        "width": frames.pixels.shape[2],
        "height": frames.pixels.shape[1],
        "video_backend": frames.backend,
    }


def subsample(frames: Frames, count: int) -> Frames:
    """Return `count` of the frames, spread evenly from the first to the last; fewer frames than
    that stay.
    """
    keep = evenly_spaced(len(frames.indices), count)
    if len(keep) == len(frames.indices):
        return frames
    return replace(
        frames,
        pixels=frames.pixels[keep],
        times=frames.times[keep],
        indices=[frames.indices[position] for position in keep],
    )


def evenly_spaced(available: int, count: int) -> list[int]:
    """Return `min(count, available)` positions spread evenly over `range(available)`, both ends
    included.
    """
    positions: list[int] = (
        np.linspace(0, available - 1, min(count, available)).round().astype(int).tolist()
    )
    return positions
