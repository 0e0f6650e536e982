"""Find out about a clip without reading all of it: length, size, brightness, motion.

F frames, H height, W width in pixels.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from dpo_video.recipe import VideoSettings
from dpo_video.store import RunStore, row_key
from dpo_video.video.cache import clip_identity
from dpo_video.video.clip_facts import ClipFacts, ClipProbe
from dpo_video.video.frames import ClipRequest, Frames, VideoError
from dpo_video.video.images import find_pictures, is_image
from dpo_video.video.policies import extent, window
from dpo_video.video.pool import FramePool
from dpo_video.video.probe import probe

KIND = "clip_facts"
"""Rows of the run store: the fields of ClipFacts."""


def probe_clips(
    settings: VideoSettings, *, frames: int | None, store: RunStore | None
) -> ClipProbe:
    """Return a function that yields the facts of clips in order, by `settings.workers` at a time.

    Args:
        frames: how many to decode of each clip, evenly spread; None decodes none and reads packets
            and headers only.
        store: keeps facts, by what identifies the clip's files; None keeps nothing.
    """
    few = settings.model_copy(update={"policy": "uniform", "num_frames": frames or 1})

    def look(
        requests: Iterable[ClipRequest],
    ) -> Iterator[tuple[ClipRequest, ClipFacts | VideoError]]:
        with FramePool(few) as pool:

            def find(request: ClipRequest) -> ClipFacts | VideoError:
                return (
                    _from_header(request, settings.timeout)
                    if frames is None
                    else _from_frames(pool.read(request))
                )

            if store is None:
                yield from pool.each(requests, find)
            else:
                yield from _stored(pool, requests, find, store, frames)

    return look


def _stored(
    pool: FramePool,
    requests: Iterable[ClipRequest],
    find: Callable[[ClipRequest], ClipFacts | VideoError],
    store: RunStore,
    frames: int | None,
) -> Iterator[tuple[ClipRequest, ClipFacts | VideoError]]:
    """Yield facts as the pool finds them; those of files that the store knows are taken from it."""
    keys: dict[ClipRequest, str | None] = {}
    facts_of: dict[ClipRequest, ClipFacts] = {}

    def looked_up() -> Iterator[ClipRequest]:  # runs in this thread, which alone uses the store
        for request in requests:
            identity = clip_identity(request)
            keys[request] = key = (
                None if identity is None else row_key(clip=identity, frames=frames)
            )
            row = store.get(KIND, [key]).get(key) if key is not None else None
            if row is not None:
                facts_of[request] = ClipFacts(**row)
            yield request

    for request, facts in pool.each(
        looked_up(), lambda request: facts_of.get(request) or find(request)
    ):
        key = keys[request]
        if key is not None and isinstance(facts, ClipFacts) and request not in facts_of:
            store.put(KIND, key, asdict(facts))
            facts_of[request] = facts
        yield request, facts


def _from_header(request: ClipRequest, timeout: float) -> ClipFacts | VideoError:
    try:
        if (
            isinstance(request.video, Path)
            and not os.path.isdir(request.video)
            and not is_image(request.video)
        ):
            times, fps, size = _video_header(request.video, timeout)
        else:
            video = request.video if isinstance(request.video, Path) else list(request.video)
            pictures = find_pictures(video)
            times, fps, size = pictures.times, pictures.fps, (pictures.width, pictures.height)
        clip_range = window(times, request.start, request.end)
        seconds = (
            extent(times, clip_range, request.start, request.end, fps=fps).duration
            if clip_range
            else 0.0
        )
        return ClipFacts(seconds=seconds, shorter=min(size), longer=max(size))
    except VideoError as error:
        return error


def _video_header(path: Path, timeout: float) -> tuple[np.ndarray, float, tuple[int, int]]:
    video = probe(path, deadline=time.monotonic() + timeout)
    return video.times, video.fps, (video.width, video.height)


def _from_frames(frames: Frames | VideoError) -> ClipFacts | VideoError:
    if isinstance(frames, VideoError):
        return frames
    pixels = frames.pixels.astype(np.float32)  # (F, H, W, 3)
    steps = np.abs(np.diff(pixels, axis=0)).mean(axis=(1, 2, 3))  # (F - 1,)
    height, width = frames.pixels.shape[1:3]
    return ClipFacts(
        seconds=frames.duration,
        shorter=min(height, width),
        longer=max(height, width),
        brightness=float(pixels.mean(axis=(1, 2, 3)).max()),
        motion=float(steps.max(initial=0.0)),
    )
