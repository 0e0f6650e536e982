"""How many tokens a clip costs, and how many of its frames fit a budget: from a checkpoint's config
alone.
"""

from typing import Any, Literal

from dpo_video.core.errors import UserError
from dpo_video.models.families import Family, FrameSize, VideoProcessor
from dpo_video.models.hearing import hearing_of
from dpo_video.models.hub import ModelSpec
from dpo_video.recipe import VideoSettings
from dpo_video.recipe.affects import Affects, settings_that_affect
from dpo_video.video.frames import Frames, subsample


def frame_size(
    spec: ModelSpec, settings: VideoSettings, *, num_frames: int, height: int, width: int
) -> FrameSize:
    """Return the size that the processor gives to a clip's frames, in pixels."""
    family, processor = spec.family, spec.video_processor
    kwargs = pixel_kwargs(family, processor, settings, num_frames=num_frames)
    try:
        return family.frame_size(processor, num_frames, FrameSize(height, width), kwargs)
    except ValueError as error:
        raise UserError(
            f"the processor refuses {num_frames} frames of {width}x{height} pixels: {error}"
        ) from error


def pixel_kwargs(
    family: Family, processor: VideoProcessor, settings: VideoSettings, *, num_frames: int
) -> dict[str, Any]:
    """Return the processor's keyword arguments for a recipe's pixel settings, for a clip of
    `num_frames` frames.

    Bounds are per frame in a recipe, and in the unit of the processor in the result.
    """

    def bound(name: Literal["min", "max"], value: int | None) -> int | None:
        return value if value is None or name not in family.per_clip_bounds else value * num_frames

    kwargs = family.pixel_kwargs(
        processor, bound("min", settings.min_pixels), bound("max", settings.max_pixels)
    )
    if settings.cap_pixels is None:
        return kwargs
    if "cap_pixels_per_frame" not in kwargs:
        raise UserError(
            f"video.cap_pixels: the processor of family {family.name!r} knows no total of pixels. "
            f"Leave it "
            "out, and use video.max_tokens or video.policy=fit to bound a clip"
        )
    return {**kwargs, "cap_pixels_per_frame": settings.cap_pixels}


def size_identity(settings: VideoSettings) -> list[int | bool | None]:
    """Return the settings that determine how large and how many the frames are that enter the
    tower.
    """
    return [*settings_that_affect(settings, Affects.SIZE).values()]


def video_tokens(
    spec: ModelSpec, settings: VideoSettings, *, num_frames: int, height: int, width: int
) -> int:
    """Return the placeholder tokens of a clip's frames, of height x width pixels on disk."""
    size = frame_size(spec, settings, num_frames=num_frames, height=height, width=width)
    return spec.family.video_tokens(spec.video_processor, spec.config, num_frames, size)


def sound_tokens(spec: ModelSpec, settings: VideoSettings, sound_samples: int) -> int:
    """Return the placeholder tokens of a clip's sound."""
    hearing = hearing_of(spec.family, spec.config, settings)
    return 0 if hearing is None or not sound_samples else hearing.tokens(sound_samples)


def clip_tokens(
    spec: ModelSpec,
    settings: VideoSettings,
    *,
    num_frames: int,
    height: int,
    width: int,
    sound_samples: int,
) -> int:
    """Return the placeholder tokens of a clip, of its frames and its sound."""
    of_frames = video_tokens(spec, settings, num_frames=num_frames, height=height, width=width)
    return of_frames + sound_tokens(spec, settings, sound_samples)


def vision_patches(
    spec: ModelSpec, settings: VideoSettings, *, num_frames: int, height: int, width: int
) -> int:
    """Return the tokens that the vision tower itself sees for such a clip."""
    size = frame_size(spec, settings, num_frames=num_frames, height=height, width=width)
    return spec.family.vision_patches(spec.video_processor, spec.config, num_frames, size)


def token_budget(spec: ModelSpec, settings: VideoSettings) -> int | None:
    """Return the most tokens of a clip, its sound among them: `video.max_tokens`, and under `fit`
    what the context leaves; or None.
    """
    if settings.policy != "fit":
        return settings.max_tokens
    context = spec.family.context_length(spec.config)
    budget = context - settings.reserve_tokens
    if budget <= 0:
        raise UserError(
            f"video.reserve_tokens is {settings.reserve_tokens}, and the model's context is "
            f"{context} "
            "tokens: nothing is left for the clip. Lower it"
        )
    return budget if settings.max_tokens is None else min(budget, settings.max_tokens)


def frames_within(
    spec: ModelSpec,
    settings: VideoSettings,
    *,
    num_frames: int,
    height: int,
    width: int,
    sound_samples: int = 0,
) -> int:
    """Return how many of `num_frames` frames fit what the clip's sound leaves of its budget of
    tokens; all where there is none.

    Fewer than all are a multiple of what the tower takes at a time. Raises UserError when not even
    one step fits.
    """
    budget = token_budget(spec, settings)
    if budget is None:
        return num_frames
    of_sound = sound_tokens(spec, settings, sound_samples)
    budget -= of_sound
    step = spec.family.frames_per_step
    fewer = range(num_frames - num_frames % step or num_frames, 0, -step)
    for count in (num_frames, *fewer):
        if video_tokens(spec, settings, num_frames=count, height=height, width=width) <= budget:
            return count
    fewest = video_tokens(
        spec, settings, num_frames=min(step, num_frames), height=height, width=width
    )
    beside = f" beside the {of_sound} of its sound" if of_sound else ""
    silent = ", or set video.sound to false" if of_sound else ""
    raise UserError(
        f"a clip may take {budget + of_sound} video tokens ({_budget_from(settings)}), and the "
        f"least that a {width}x{height} clip takes{beside} is {fewest}. Raise the limit, or lower "
        f"video.max_pixels{silent}"
    )


def _budget_from(settings: VideoSettings) -> str:
    parts = [] if settings.max_tokens is None else [f"video.max_tokens {settings.max_tokens}"]
    if settings.policy == "fit":
        parts.append(f"the context less video.reserve_tokens {settings.reserve_tokens}")
    return " and ".join(parts)


def fit_frames(spec: ModelSpec, settings: VideoSettings, frames: Frames) -> Frames:
    """Return the frames that fit the clip's budget of tokens, spread evenly; the caller counts
    those lost.
    """
    num_frames = len(frames.pixels)
    height, width = frames.own_size or frames.pixels.shape[1:3]
    return subsample(
        frames,
        frames_within(
            spec,
            settings,
            num_frames=num_frames,
            height=height,
            width=width,
            sound_samples=frames.sound_samples,
        ),
    )
