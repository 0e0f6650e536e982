"""What a check knows of the data: samples or given pairs and a few decoded clips, or what it
assumes in their place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from dpo_video.check.recipe import Findings
from dpo_video.core.errors import UserError
from dpo_video.core.names import shipped_names
from dpo_video.core.records import Pair, Sample
from dpo_video.data.removed import describe
from dpo_video.data.samples import load_pairs, load_samples, samples_of
from dpo_video.models.hub import ModelSpec
from dpo_video.recipe import Recipe
from dpo_video.recipe.file import load_recipe
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
NOMINAL_SAMPLE = Sample(
    id="nominal", video="nominal.mp4", prompt="x" * 80, caption="x" * 1000, answer="x" * 80
)
NOMINAL_QUESTIONS = {"samples": 1000, "heldout": 200}
"""Questions of a split where there is no data, one per clip."""
DECODED_CLIPS = 8
"""Clips decoded for a plan, evenly spread over the data."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip as read: its frames, their size on disk in pixels."""

    num_frames: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Data:
    """The samples of a split; `root` is None where they are assumed."""

    samples: Sequence[Sample]
    root: Path | None
    pairs: Sequence[Pair] = ()
    """Those of `data.pairs`, which the samples are the questions of."""

    @property
    def num_clips(self) -> int:
        """How many different clips; every assumed question has one of its own."""
        return (
            len(self.samples)
            if self.root is None
            else len({clip_key(sample) for sample in self.samples})
        )


def load_data(
    recipe: Recipe,
    split: Literal["samples", "heldout"],
    findings: Findings,
    *,
    heldout: Sequence[Sample] = (),
) -> Data:
    """Return what there is of a split, or what is assumed of it; what is wrong with it is added to
    the findings.
    """
    pairs_given = split == "samples" and recipe.data.pairs is not None
    name, source = (
        ("pairs", recipe.data.pairs)
        if pairs_given
        else (split, (recipe.data.samples if split == "samples" else recipe.data.heldout))
    )
    if source is None:
        return Data([], None)
    number = NOMINAL_QUESTIONS[split]
    assumed = f"{number:,} questions about as many clips"
    missing = not source.startswith("toy:") and not Path(source).expanduser().exists()
    try:
        if pairs_given:
            pairs, root = load_pairs(recipe)
            return Data(samples_of(pairs), root, pairs)
        samples, root, cleaned = load_samples(recipe, split, heldout=heldout)
        if cleaned:
            findings.warnings.append(f"cleaning: {describe(len(samples), cleaned)}")
        return Data(samples, root)
    except UserError as error:
        if missing and not pairs_given and source in _example_paths():
            assumed += (
                f" ({source!r} is the example path of the shipped recipes: put your own samples "
                f"there)"
            )
        else:
            findings.problems.append(str(error))
    findings.assumptions.append(f"data.{name}: {assumed}")
    return Data([NOMINAL_SAMPLE] * number, None)


def _example_paths() -> set[str | None]:
    shipped = [load_recipe(name).data for name in shipped_names("recipes")]
    return {path for data in shipped for path in (data.samples, data.heldout)}


def read_clips(recipe: Recipe, plan: ModelSpec, data: Data, findings: Findings) -> list[Clip]:
    """Return a few clips of the data as read, or the nominal one; what cannot be read is found and
    counted.
    """
    if data.root is None:
        findings.assumptions.append(
            f"questions of {len(NOMINAL_SAMPLE.prompt)} and captions of "
            f"{len(NOMINAL_SAMPLE.caption)} characters"
        )
        return [_nominal_clip(recipe, plan, findings)]
    requests = _requests(recipe, data, data.root, findings)
    step = max(1, len(requests) // DECODED_CLIPS)
    clips, errors = [], []
    with FramePool(recipe.video, multiple_of=plan.family.frames_per_step) as pool:
        for _, frames in pool.map(requests[::step][:DECODED_CLIPS]):
            if isinstance(frames, VideoError):
                errors.append(str(frames))
            else:
                clips.append(Clip(*frames.pixels.shape[:3]))
    if errors:
        findings.warnings.append(
            f"{len(errors)} of {len(errors) + len(clips)} clips that were tried cannot be read; "
            f"first: {errors[0]}"
        )
    if not clips:
        findings.problems.append("no clip could be decoded")
    return clips or [_nominal_clip(recipe, plan, findings)]


def _nominal_clip(recipe: Recipe, plan: ModelSpec, findings: Findings) -> Clip:
    """Return the clip to plan with where none is read; what is taken for granted of it stands among
    the findings.
    """
    width, height, seconds, rate = NOMINAL_CLIP
    findings.assumptions.append(
        f"clips of {width}x{height} pixels, {seconds:g} s at {rate:g} frames per second"
    )
    video = recipe.video
    if video.policy in ("scene", "diff_prune"):
        findings.assumptions.append(
            f"video.policy {video.policy} keeps every frame that it looks at, {video.fps:g} a "
            "second: the most it can; what it keeps depends on what the frames show"
        )
        video = video.model_copy(update={"policy": "fps"})
    times = np.arange(round(seconds * rate)) / rate
    return Clip(
        len(frame_indices(times, video, multiple_of=plan.family.frames_per_step)), height, width
    )


def _requests(recipe: Recipe, data: Data, root: Path, findings: Findings) -> list[ClipRequest]:
    """Return one request per clip whose files exist; a pair's rejected answer may have a clip of
    its own.
    """
    requests, missing = [], []
    wanted: dict[str, Callable[[], ClipRequest]] = {
        clip_key(sample): partial(clip_request, sample, root) for sample in data.samples
    }
    for pair in data.pairs:
        wanted[clip_key(pair)] = partial(clip_request, pair, root)
        if rejected_part(pair) != (pair.video, pair.start, pair.end):
            wanted[rejected_clip_key(pair)] = partial(rejected_clip_request, pair, root)
    for make in wanted.values():
        try:
            request = make()
        except VideoError as error:
            missing.append(str(error))
            continue
        files = request.video if isinstance(request.video, tuple) else (request.video,)
        lost = [path for path in files if not path.exists()]
        missing += [f"no file at {str(lost[0])!r}"] if lost else []
        if not lost:
            requests.append(request)
    total = len(requests) + len(missing)
    if missing:
        stops = len(missing) > recipe.data.max_bad_fraction * total
        where = findings.problems if stops else findings.warnings
        where.append(f"{len(missing)} of {total} clips are missing; first: {missing[0]}")
    return requests
