"""Which frames of a clip are read: a pure function of the frames' times and the recipe's `video` section."""

import numpy as np
from numpy.typing import NDArray

from dpo_video.recipe import VideoSettings
from dpo_video.video.frames import spread

CLOSE = 1e-6
"""Seconds by which a time may miss a frame's time and still mean it: float noise, far below any frame's length."""


def plan_indices(times: NDArray[np.float64], settings: VideoSettings, *, start: float | None = None,
                 end: float | None = None, multiple_of: int = 1) -> list[int]:
    """Return the positions in `times` of the frames to read; none where `start` and `end` hold no frame.

    `uniform`: `linspace(0, n - 1, num_frames).round()` over the clip's n frames, first and last included. This is the
    rule of qwen-vl-utils; LLaVA-NeXT and LLaVA-Hound round down instead, and transformers takes
    `arange(N) * n // N`, which never shows the last frame. At most n frames.

    `fps`: duration x fps frames, rounded down, at least `min_frames`, at most `max_frames` and n; then as many moments
    evenly from the first to the last frame, and the frame nearest to each. At a constant rate that is `uniform` (and
    qwen-vl-utils) with that number. At a varying rate a long still frame is taken once for each of its moments, so
    that frames keep an even distance in time, which is what the model is told.

    Args:
        times: (n,) seconds of all frames of the file, ascending.
        settings: the recipe's `video` section.
        start: seconds where the clip begins; None is the file's start.
        end: seconds where the clip ends; None is the file's end.
        multiple_of: round the number of frames down to a multiple, where there are that many.
    """
    part = window(times, start, end)
    if not part:
        return []
    if settings.policy == "uniform":
        count = _whole(min(settings.num_frames, len(part)), multiple_of)
        return [part[position] for position in spread(len(part), count)]
    wanted = int(len(part) / rate(times) * settings.fps + CLOSE)
    count = min(max(wanted, settings.min_frames), settings.max_frames, len(part))
    moments = np.linspace(times[part[0]], times[part[-1]], _whole(count, multiple_of))
    exact = np.interp(moments, times[part.start:part.stop], np.arange(len(part)))
    # 6 decimals: a moment halfway between two frames must round like the same halfway index, whatever its float noise
    return [part[int(position)] for position in exact.round(6).round()]


def window(times: NDArray[np.float64], start: float | None, end: float | None) -> range:
    """Return the positions of the frames on screen from `start` up to `end`; an end after the last frame is fine."""
    if not len(times) or not (start is None or start >= 0) or not (end is None or end > (start or 0.0)):
        return range(0)
    if start is not None and start >= times[-1] + 1 / rate(times) - CLOSE:
        return range(0)
    first = 0 if start is None else int(np.searchsorted(times, start + CLOSE, side="right")) - 1
    stop = len(times) if end is None else int(np.searchsorted(times, end - CLOSE, side="left"))
    return range(max(first, 0), stop)


def rate(times: NDArray[np.float64], *, default: float = 1.0) -> float:
    """Return frames per second, the mean where it varies; `default` for a single frame."""
    span = float(times[-1] - times[0])
    return (len(times) - 1) / span if span > 0 else default


def _whole(count: int, multiple_of: int) -> int:
    return count if count < multiple_of else count // multiple_of * multiple_of
