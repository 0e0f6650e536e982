"""A few clips of the data as a model will read them, or the nominal clip in their place."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dpo_video.check.data import NOMINAL_SAMPLE, SplitData
from dpo_video.check.findings import Findings, problem, warn
from dpo_video.models.hub import ModelSpec
from dpo_video.recipe import Recipe
from dpo_video.video import (
    ClipRequest,
    FramePool,
    VideoError,
    clip_key,
    clip_request,
    frame_indices,
    rejected_clip_key,
    rejected_clip_request,
    rejected_part,
)

NOMINAL_CLIP = (1280, 720, 30.0, 30.0)
"""Width and height in pixels, seconds, frames per second: of a clip where there is no data."""
DECODED_CLIPS = 8
"""Clips decoded for a plan, evenly spread over the data."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip as read: its frames, their size on disk in pixels."""

    num_frames: int
    height: int
    width: int


def read_clips(
    recipe: Recipe, spec: ModelSpec, data: SplitData
) -> tuple[list[Clip], int, Findings]:
    """Return a few clips of the data as read, or the nominal one; how many were decoded; and what
    cannot be read.
    """
    if data.root is None:
        findings = Findings(
            assumptions=(
                f"questions of {len(NOMINAL_SAMPLE.prompt)} and captions of "
                f"{len(NOMINAL_SAMPLE.caption or '')} characters",
            )
        )
        nominal, assumed = _nominal_clip(recipe, spec)
        return [nominal], 0, findings + assumed
    requests, findings = _requests(recipe, data, data.root)
    step = max(1, len(requests) // DECODED_CLIPS)
    clips, errors = [], []
    with FramePool(recipe.video, multiple_of=spec.family.frames_per_step) as pool:
        for _, frames in pool.map(requests[::step][:DECODED_CLIPS]):
            if isinstance(frames, VideoError):
                errors.append(str(frames))
            else:
                clips.append(Clip(*frames.pixels.shape[:3]))
    if errors:
        findings += warn(
            f"{len(errors)} of {len(errors) + len(clips)} clips that were tried cannot be read; "
            f"first: {errors[0]}"
        )
    if clips:
        return clips, len(clips), findings
    nominal, assumed = _nominal_clip(recipe, spec)
    return [nominal], 0, findings + problem("no clip could be decoded") + assumed


def _nominal_clip(recipe: Recipe, spec: ModelSpec) -> tuple[Clip, Findings]:
    """Return the clip to plan with where none is read, and what is taken for granted of it."""
    width, height, seconds, rate = NOMINAL_CLIP
    assumptions = [f"clips of {width}x{height} pixels, {seconds:g} s at {rate:g} frames per second"]
    video = recipe.video
    if video.policy in ("scene", "diff_prune"):
        assumptions.append(
            f"video.policy {video.policy} keeps every frame that it looks at, {video.fps:g} a "
            "second: the most it can; what it keeps depends on what the frames show"
        )
        video = video.model_copy(update={"policy": "fps"})
    times = np.arange(round(seconds * rate)) / rate
    indices = frame_indices(times, video, multiple_of=spec.family.frames_per_step)
    return Clip(len(indices), height, width), Findings(assumptions=tuple(assumptions))


def _requests(recipe: Recipe, data: SplitData, root: Path) -> tuple[list[ClipRequest], Findings]:
    """Return one request per clip whose files exist, and how many are missing; a pair's rejected
    answer may have a clip of its own.
    """
    requests, missing = [], []
    requests_of: dict[str, Callable[[], ClipRequest]] = {
        clip_key(sample): partial(clip_request, sample, root) for sample in data.samples
    }
    for pair in data.pairs:
        requests_of[clip_key(pair)] = partial(clip_request, pair, root)
        if rejected_part(pair) != (pair.video, pair.start, pair.end):
            requests_of[rejected_clip_key(pair)] = partial(rejected_clip_request, pair, root)
    for make in requests_of.values():
        try:
            request = make()
        except VideoError as error:
            missing.append(str(error))
            continue
        files = request.video if isinstance(request.video, tuple) else (request.video,)
        lost = [path for path in files if not path.exists()]
        if lost:
            missing.append(f"no file at {str(lost[0])!r}")
        else:
            requests.append(request)
    if not missing:
        return requests, Findings()
    total = len(requests) + len(missing)
    sentence = f"{len(missing)} of {total} clips are missing; first: {missing[0]}"
    stops = len(missing) > recipe.data.max_bad_fraction * total
    return requests, problem(sentence) if stops else warn(sentence)
