"""Frames and tokens of the clips that were looked at, with the data's questions and answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from dpo_video.check.clips import Clip
from dpo_video.check.data import SplitData
from dpo_video.check.findings import Findings, warn
from dpo_video.check.plan import FrameClass, Spread, estimate_tokens
from dpo_video.core.errors import UserError
from dpo_video.core.turns import num_turns, whole_question
from dpo_video.models.decoding import sound_format
from dpo_video.models.hub import ModelSpec
from dpo_video.models.kept_clips import kept_bytes
from dpo_video.models.memory import PeakLoad
from dpo_video.models.tokens import (
    clip_tokens,
    frames_within,
    sound_tokens,
    token_budget,
    vision_patches,
)
from dpo_video.recipe import Recipe

TEMPLATE_TOKENS = 32
"""Chat template around a question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLengths:
    """Frames and tokens of the clips that were looked at, with the data's questions and answers."""

    frames: Spread
    frames_taken: Spread
    video_tokens: Spread
    """Those of sound among them."""
    sound_tokens: Spread | None
    """None for a model that hears nothing."""
    clips_with_sound: int
    sequence: Spread
    patches: Spread
    """Tokens inside the vision tower."""
    kept_bytes: Spread
    """Of a clip on disk."""
    question_tokens: Spread
    """With the chat template."""
    answer_tokens: tuple[float, float]
    """Means of a chosen and a rejected answer; of candidates the most there may be."""
    classes: tuple[FrameClass, ...]
    peak: PeakLoad
    """The longest sequence there can be."""
    findings: Findings


def lengths_of(
    recipe: Recipe, spec: ModelSpec, train: SplitData, clips: Sequence[Clip]
) -> ClipLengths:
    """Return the frames and tokens of the clips that were looked at; UserError where the model's
    processor takes none of them.
    """
    sizes, findings = _sizes(recipe, spec, clips)
    losing = [(size.num_taken, size.num_frames) for size in sizes if size.num_lost]
    if losing:
        num_taken, num_seen = max(losing)
        findings += warn(
            f"{len(losing)} of {len(clips)} clips looked at are over their budget of tokens and "
            f"lose frames, evenly: of {num_taken} frames the model sees {num_seen}. Lower "
            "video.max_pixels to show it more of them"
        )
    tokens = [size.tokens for size in sizes]
    questions = [
        estimate_tokens(whole_question(record)) + TEMPLATE_TOKENS * num_turns(record)
        for record in train.pairs or train.samples
    ]
    answers = [
        max(estimate_tokens(pair.chosen), estimate_tokens(pair.rejected)) for pair in train.pairs
    ] or [recipe.generate.max_new_tokens]
    return ClipLengths(
        frames=Spread.of([size.num_frames for size in sizes]),
        frames_taken=Spread.of([size.num_taken for size in sizes]),
        video_tokens=Spread.of(tokens),
        sound_tokens=Spread.of([size.sound_tokens for size in sizes])
        if sound_format(spec, recipe.video)
        else None,
        clips_with_sound=sum(size.sound_tokens > 0 for size in sizes),
        sequence=_added(tokens, questions, answers),
        patches=Spread.of([size.patches for size in sizes]),
        kept_bytes=Spread.of([size.kept_bytes for size in sizes]),
        question_tokens=Spread.of(questions),
        answer_tokens=_answer_tokens(recipe, train),
        classes=_classes(recipe, spec, sizes),
        peak=PeakLoad(
            sequences=1,
            prompt_tokens=max(tokens) + max(questions),
            answer_tokens=max(answers),
            patches=max(size.patches for size in sizes),
            sound_samples=max(size.clip.sound_samples for size in sizes),
        ),
        findings=findings,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSize:
    """What a clip costs after `video.max_tokens`."""

    clip: Clip
    num_taken: int
    """Frames that the policy takes."""
    num_frames: int
    """Frames that are left within the budget of tokens."""
    tokens: int
    """Those of its sound among them."""
    sound_tokens: int
    patches: int
    kept_bytes: int

    @property
    def num_lost(self) -> int:
        """Frames that the budget has no room for."""
        return self.num_taken - self.num_frames


def _answer_tokens(recipe: Recipe, train: SplitData) -> tuple[float, float]:
    if not train.pairs:
        return float(recipe.generate.max_new_tokens), float(recipe.generate.max_new_tokens)
    chosen = sum(estimate_tokens(pair.chosen) for pair in train.pairs)
    rejected = sum(estimate_tokens(pair.rejected) for pair in train.pairs)
    return chosen / len(train.pairs), rejected / len(train.pairs)


def _classes(recipe: Recipe, spec: ModelSpec, sizes: Sequence[ClipSize]) -> tuple[FrameClass, ...]:
    """Return, for each size of frames on disk, how many frames are asked for and kept, and why not
    all of them.
    """
    groups: dict[tuple[int, int], list[ClipSize]] = {}
    for size in sizes:
        groups.setdefault((size.clip.width, size.clip.height), []).append(size)
    return tuple(
        FrameClass(
            width=width,
            height=height,
            clips=len(group),
            asked=Spread.of([size.clip.num_asked for size in group]),
            kept=Spread.of([size.num_frames for size in group]),
            why=_why_fewer(recipe, spec, group),
        )
        for (width, height), group in groups.items()
    )


def _why_fewer(recipe: Recipe, spec: ModelSpec, group: Sequence[ClipSize]) -> tuple[str, ...]:
    video, reasons = recipe.video, dict[str, None]()
    for size in group:
        if size.num_lost:
            reasons[f"{token_budget(spec, video):,} tokens have room for no more"] = None
        if size.num_taken >= size.clip.num_asked:
            continue
        if size.clip.num_there < size.clip.num_asked:
            reasons["the clip has no more"] = None
        elif video.policy != "uniform" and size.clip.num_asked > video.max_frames:
            reasons[f"video.max_frames is {video.max_frames}"] = None
        elif video.policy in ("scene", "diff_prune"):
            reasons[f"video.policy {video.policy} leaves out frames that show nothing new"] = None
        else:
            reasons[f"the model takes {spec.family.frames_per_step} frames at a time"] = None
    return tuple(reasons)


def _sizes(
    recipe: Recipe, spec: ModelSpec, clips: Sequence[Clip]
) -> tuple[list[ClipSize], Findings]:
    """Return the sizes of the clips that the model's processor takes; UserError where it takes
    none.
    """
    sizes, refusals = [], []
    for clip in clips:
        try:
            sizes.append(_size(recipe, spec, clip))
        except UserError as error:
            refusals.append(error)
    if not sizes:
        raise refusals[0]
    if not refusals:
        return sizes, Findings()
    return sizes, warn(
        f"{len(refusals)} of {len(clips)} clips looked at will be set aside; first: {refusals[0]}"
    )


def _size(recipe: Recipe, spec: ModelSpec, clip: Clip) -> ClipSize:
    shape = {"height": clip.height, "width": clip.width}
    sound = {"sound_samples": clip.sound_samples}
    num_frames = frames_within(spec, recipe.video, num_frames=clip.num_frames, **shape, **sound)
    return ClipSize(
        clip=clip,
        num_taken=clip.num_frames,
        num_frames=num_frames,
        tokens=clip_tokens(spec, recipe.video, num_frames=num_frames, **shape, **sound),
        sound_tokens=sound_tokens(spec, recipe.video, clip.sound_samples),
        patches=vision_patches(spec, recipe.video, num_frames=num_frames, **shape),
        kept_bytes=kept_bytes(
            recipe, spec, frames_taken=clip.num_frames, frames_seen=num_frames, **shape, **sound
        ),
    )


def _added(*parts: Sequence[int]) -> Spread:
    """Return the spread of sums of one value of each part."""
    return Spread(
        sum(map(min, parts)), sum(sum(part) / len(part) for part in parts), sum(map(max, parts))
    )
