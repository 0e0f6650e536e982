"""A few clips of the data as a model will read them, or the nominal clip in their place."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dpo_video.check.data import NOMINAL_SAMPLE, SplitData
from dpo_video.check.findings import Findings, warn
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import try_rows
from dpo_video.core.records import Pair, Sample
from dpo_video.data.lines import MAX_SHOWN
from dpo_video.models.decoding import sound_format
from dpo_video.models.hub import ModelSpec
from dpo_video.recipe import Recipe, VideoSettings
from dpo_video.video import (
    ClipRequest,
    FramePool,
    Frames,
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
    num_asked: int
    """Frames that `video.policy` asks for, before its limits and those of the clip."""
    num_there: int
    """Frames of the file."""
    sound_samples: int = 0
    """Of the sound that is read with it; 0 where it has none, or the model hears none."""


def read_clips(
    recipe: Recipe, spec: ModelSpec, data: SplitData
) -> tuple[list[Clip], int, Findings]:
    """Return a few clips of the data as read, or the nominal one where there are no data; how many
    were decoded; and what cannot be read. UserError where none can.
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
    pool = FramePool(  # at the frames' own size, whatever the model sees
        recipe.video,
        multiple_of=spec.family.frames_per_step,
        sound=sound_format(spec, recipe.video),
    )
    with pool:
        for _, frames in pool.map(requests[::step][:DECODED_CLIPS]):
            if isinstance(frames, VideoError):
                errors.append(str(frames))
            else:
                clips.append(_clip(frames, recipe.video))
    if errors:
        findings += warn(
            f"{len(errors)} of {len(errors) + len(clips)} clips that were tried cannot be read; "
            f"first: {errors[0]}"
        )
    if clips:
        return clips, len(clips), findings
    raise UserError("\n".join((*findings.problems, *findings.warnings, "no clip could be decoded")))


def _clip(frames: Frames, video: VideoSettings) -> Clip:
    num_frames, height, width = frames.pixels.shape[:3]
    num_asked = _asked(
        video, seconds=frames.duration, num_there=frames.total_frames, looked_at=frames.looked_at
    )
    return Clip(num_frames, height, width, num_asked, frames.total_frames, frames.sound_samples)


def _asked(video: VideoSettings, *, seconds: float, num_there: int, looked_at: int) -> int:
    """Return how many frames the policy asks for."""
    if video.policy == "uniform":
        return video.num_frames
    if video.policy in ("fps", "fit"):
        return max(int(seconds * video.fps), video.min_frames)
    return num_there if video.policy == "all" else looked_at


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
    num_asked = _asked(video, seconds=seconds, num_there=len(times), looked_at=len(indices))
    sound_samples = 0
    form = sound_format(spec, recipe.video)
    if form is not None:
        heard = seconds if form.max_seconds is None else min(seconds, form.max_seconds)
        sound_samples = round(heard * form.rate)
        assumptions.append("clips with sound all along")
    clip = Clip(len(indices), height, width, num_asked, len(times), sound_samples)
    return clip, Findings(assumptions=tuple(assumptions))


def _requests(recipe: Recipe, data: SplitData, root: Path) -> tuple[list[ClipRequest], Findings]:
    """Return one request per clip whose files exist, and how many are missing; a pair's rejected
    answer may have a clip of its own.
    """
    requests: list[ClipRequest] = []
    missing: list[tuple[str | tuple[str, ...], str]] = []
    requests_of: dict[str, tuple[str | list[str], Callable[[], ClipRequest]]] = {}
    records: list[Sample | Pair] = [*data.samples, *data.pairs]
    for record in records:
        requests_of[clip_key(record)] = (record.video, partial(clip_request, record, root))
    for pair in data.pairs:
        if rejected_part(pair) != (pair.video, pair.start, pair.end):
            requests_of[rejected_clip_key(pair)] = (
                pair.rejected_video or pair.video,
                partial(rejected_clip_request, pair, root),
            )
    for video, make in requests_of.values():
        name = video if isinstance(video, str) else tuple(video)
        try:
            request = make()
        except VideoError as error:
            missing.append((name, str(error)))
            continue
        files = request.video if isinstance(request.video, tuple) else (request.video,)
        lost = [path for path in files if not path.exists()]
        if lost:
            missing.append((name, f"no file at {str(lost[0])!r}"))
        else:
            requests.append(request)
    if not missing:
        return requests, Findings()
    total = len(requests) + len(missing)
    lines = _lines_of(data.file)
    told = [f"{lines[name]}: {why}" if name in lines else why for name, why in missing[:MAX_SHOWN]]
    if len(missing) > MAX_SHOWN:
        told.append(f"and {len(missing) - MAX_SHOWN} more clips")
    sentence = f"{len(missing)} of {total} clips are missing: {told[0]}"
    found = (sentence, *told[1:])
    stops = len(missing) > recipe.data.max_bad_fraction * total
    return requests, Findings(problems=found) if stops else Findings(warnings=found)


def _lines_of(file: Path | None) -> dict[str | tuple[str, ...], str]:
    """Return the first line (file:line) of a data file that names each video."""
    lines: dict[str | tuple[str, ...], str] = {}
    for number, row in () if file is None else try_rows(file, "records"):
        if isinstance(row, UserError):
            continue
        for name in ("video", "rejected_video"):
            video = row.get(name)
            if isinstance(video, str):
                lines.setdefault(video, f"{file}:{number}")
            elif isinstance(video, list):
                lines.setdefault(tuple(video), f"{file}:{number}")
    return lines
