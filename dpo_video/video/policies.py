"""Which frames of a clip are read: a pure function of the frames' times and the recipe's `video`
section.

Under `scene` and `diff_prune` also of what the frames show. n frames in the clip, S of them looked
at.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpo_video.recipe import VideoSettings
from dpo_video.video.frames import evenly_spaced

CLOSE = 1e-6
"""Seconds by which a time may miss a frame's time and still mean it: float noise, far below any
frame's length.
"""
STEADY = 0.25
"""Share of a frame by which the frames of a steady rate may stand off it: timestamps rounded to
milliseconds do.
"""

FrameProbe = Callable[[list[int]], NDArray[np.float32]]
"""Returns small pictures of the frames at some positions, (S, h, w) from 0 to 1."""


class Extent(NamedTuple):
    """Where a clip lies in its file, in seconds."""

    begin: float
    """Where its first frame comes on screen; at a varying rate not before `start`."""
    last: float
    """The last moment that a frame is picked for."""
    duration: float
    rate: float
    """Its frames per second."""


def frame_indices(
    times: NDArray[np.float64],
    settings: VideoSettings,
    *,
    start: float | None = None,
    end: float | None = None,
    multiple_of: int = 1,
    look: FrameProbe | None = None,
) -> list[int]:
    """Return the positions in `times` of the frames to read; none where `start` and `end` hold no
    frame.

    The policies: `uniform` and `all` take frames by their position (`_by_position`), `fps` and
    `fit` by their time (`_by_time`), `scene` and `diff_prune` by what is in them (`_by_content`).

    Args:
        times: (n,) seconds of all frames of the file, ascending.
        settings: the recipe's `video` section.
        start: seconds where the clip begins; None is the file's start.
        end: seconds where the clip ends; None is the file's end.
        multiple_of: round the number of frames down to a multiple, where there are that many.
        look: shows the frames, for the policies that ask what is in them.
    """
    clip_range = window(times, start, end)
    if not clip_range:
        return []
    if settings.policy in ("uniform", "all"):
        return _by_position(clip_range, settings, multiple_of)
    where = extent(times, clip_range, start, end)
    if settings.policy in ("fps", "fit"):
        return _by_time(times, clip_range, where, settings, multiple_of)
    assert look is not None, f"the policy {settings.policy} looks at frames"
    scanned = _scanned(times, clip_range, where, settings)
    chosen = _by_content(look(scanned), settings, multiple_of)
    return [scanned[position] for position in chosen]


def _by_position(clip_range: range, settings: VideoSettings, multiple_of: int) -> list[int]:
    """Return frames spread evenly over the clip's positions, first and last included.

    `uniform`: `linspace(0, n - 1, num_frames).round()` over the clip's n frames. This is the rule
    of qwen-vl-utils; LLaVA-NeXT and LLaVA-Hound round down instead, and transformers takes
    `arange(N) * n // N`, which never shows the last frame. At most n frames.

    `all`: every frame; of more than `max_frames`, that many.
    """
    limit = settings.num_frames if settings.policy == "uniform" else settings.max_frames
    count = _whole(min(limit, len(clip_range)), multiple_of)
    return [clip_range[position] for position in evenly_spaced(len(clip_range), count)]


def _by_time(
    times: NDArray[np.float64],
    clip_range: range,
    where: Extent,
    settings: VideoSettings,
    multiple_of: int,
) -> list[int]:
    """Return duration x fps frames, rounded down, at least `min_frames`, at most `max_frames` and
    the clip's n.

    They are those nearest to as many moments evenly over the clip (see `extent`). At a constant
    rate that is `uniform` (and qwen-vl-utils) with that number. At a varying rate a long still
    frame is taken once for each of its moments, so that frames keep an even distance in time, which
    is what the model is told. (`fit` loses frames later, when the size of a frame in tokens is
    known.)
    """
    at_rate = int(where.duration * settings.fps + CLOSE)
    count = min(max(at_rate, settings.min_frames), settings.max_frames, len(clip_range))
    return _evenly(times, clip_range, where, _whole(count, multiple_of))


def _scanned(
    times: NDArray[np.float64], clip_range: range, where: Extent, settings: VideoSettings
) -> list[int]:
    """Return the frames that `scene` and `diff_prune` look at: those at `fps`, each once."""
    at_rate = int(where.duration * settings.fps + CLOSE)
    count = min(max(at_rate, 1), len(clip_range))
    return list(dict.fromkeys(_evenly(times, clip_range, where, count)))


def _by_content(
    pictures: NDArray[np.float32], settings: VideoSettings, multiple_of: int
) -> list[int]:
    """Return which of the frames looked at are taken, in order.

    `scene`: the middle one of each scene; a scene begins where neighbours differ by `change`.
    `diff_prune`: the first, and each that differs by `change` from the last one taken (the idea of
    VideoLLaMA 3, arXiv 2501.13106, which compares patches; here whole frames). Both: over
    `max_frames` the greatest changes stay; below `min_frames`, and to a multiple, frames farthest
    from those taken are added.
    """
    rank = scenes if settings.policy == "scene" else changes
    return _enough(rank(pictures, settings.change), len(pictures), settings, multiple_of)


def scenes(pictures: NDArray[np.float32], change: float) -> list[int]:
    """Return the middle position of each scene, those that begin with the greatest change first."""
    steps = np.abs(np.diff(pictures, axis=0)).mean(axis=(1, 2))
    begins = [0, *(int(position) + 1 for position in np.flatnonzero(steps >= change))]
    ends = [*begins[1:], len(pictures)]
    weight = {
        (begin + end - 1) // 2: math.inf if begin == 0 else float(steps[begin - 1])
        for begin, end in zip(begins, ends, strict=True)
    }
    return sorted(weight, key=lambda position: (-weight[position], position))


def changes(pictures: NDArray[np.float32], change: float) -> list[int]:
    """Return the first position and each that differs from the last one taken, the greatest changes
    first.
    """
    weight = {0: math.inf}
    last = 0
    for position in range(1, len(pictures)):
        step = float(np.abs(pictures[position] - pictures[last]).mean())
        if step >= change:
            weight[position] = step
            last = position
    return sorted(weight, key=lambda position: (-weight[position], position))


def window(times: NDArray[np.float64], start: float | None, end: float | None) -> range:
    """Return the positions of the frames on screen from `start` up to `end`; an end after the last
    frame is fine.
    """
    if (
        not len(times)
        or not (start is None or start >= 0)
        or not (end is None or end > (start or 0.0))
    ):
        return range(0)
    if start is not None and start >= times[-1] + _last_length(times) - CLOSE:
        return range(0)
    first = 0 if start is None else int(np.searchsorted(times, start + CLOSE, side="right")) - 1
    stop = len(times) if end is None else int(np.searchsorted(times, end - CLOSE, side="left"))
    return range(max(first, 0), stop)


def rate(times: NDArray[np.float64], *, default: float = 1.0) -> float:
    """Return frames per second, the mean where it varies; `default` for a single frame."""
    span = float(times[-1] - times[0])
    return (len(times) - 1) / span if span > 0 else default


def extent(
    times: NDArray[np.float64],
    clip_range: range,
    start: float | None,
    end: float | None,
    *,
    fps: float | None = None,
) -> Extent:
    """Return where the frames of a part, at least one, lie in their file of (n,) `times`.

    A part at a steady rate, and a whole file, lasts as many frames of the mean length as it has. At
    a varying rate a part lasts as long as its frames are on screen between `start` and `end`, and
    its last frame is picked for all the time that it stands.

    Args:
        fps: the file's mean rate where it is known better than from the times: of a single frame.
    """
    first, last = float(times[clip_range.start]), float(times[clip_range.stop - 1])
    if (start is None and end is None) or is_steady(times):
        mean = rate(times) if fps is None else fps
        return Extent(first, last, len(clip_range) / mean, mean)
    begin = max(first, start or 0.0)
    gone = (
        float(times[clip_range.stop])
        if clip_range.stop < len(times)
        else last + _last_length(times)
    )
    duration = (gone if end is None else min(gone, end)) - begin
    return Extent(
        begin,
        max(last, begin + duration - duration / len(clip_range)),
        duration,
        len(clip_range) / duration,
    )


def is_steady(times: NDArray[np.float64]) -> bool:
    """Return whether frames come at one rate, but for the rounding of their times."""
    grid = np.linspace(times[0], times[-1], len(times))
    return bool(np.abs(times - grid).max() * rate(times) <= STEADY)


def _last_length(times: NDArray[np.float64]) -> float:
    """Return the seconds of the last frame: at a varying rate, where no mean tells them, those of
    the one before.
    """
    return 1 / rate(times) if is_steady(times) else float(times[-1] - times[-2])


def _evenly(times: NDArray[np.float64], clip_range: range, where: Extent, count: int) -> list[int]:
    """Return the frames nearest to `count` moments, evenly over a part."""
    moments = np.linspace(where.begin, where.last, count)
    onsets = np.maximum(times[clip_range.start : clip_range.stop], where.begin)
    exact = np.interp(moments, onsets, np.arange(len(clip_range)))
    # 6 decimals: a moment halfway between two frames must round like the same halfway index,
    # whatever its float noise
    return [clip_range[int(position)] for position in exact.round(6).round()]


def _enough(
    ranked: list[int], scanned: int, settings: VideoSettings, multiple_of: int
) -> list[int]:
    """Return positions in order: the first of `ranked`, and, where these are too few, those
    farthest from them.
    """
    limit = _whole(min(settings.max_frames, scanned), multiple_of)
    target = min(max(len(ranked), settings.min_frames), limit)
    count = min(math.ceil(target / multiple_of) * multiple_of, limit)
    chosen = ranked[:count]
    apart = np.min(np.abs(np.subtract.outer(np.arange(scanned), chosen)), axis=1)
    while len(chosen) < count:
        farthest = int(apart.argmax())
        chosen.append(farthest)
        apart = np.minimum(apart, np.abs(np.arange(scanned) - farthest))
    return sorted(chosen)


def _whole(count: int, multiple_of: int) -> int:
    return count if count < multiple_of else count // multiple_of * multiple_of
