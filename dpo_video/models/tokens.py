"""How many tokens a clip costs, and how many of its frames fit a budget: from a checkpoint's config alone."""

from typing import Any, Literal

from dpo_video.errors import UserError
from dpo_video.models.checkpoints import Blueprint
from dpo_video.models.families import Family, FrameSize, VideoProcessor
from dpo_video.recipe import VideoSettings
from dpo_video.video.frames import Frames, thin


def frame_size(blueprint: Blueprint, settings: VideoSettings, *, num_frames: int, height: int,
               width: int) -> FrameSize:
    """Return the size that the processor gives to a clip's frames, in pixels."""
    family, processor = blueprint.family, blueprint.video_processor
    kwargs = clip_pixel_kwargs(family, processor, settings, num_frames)
    try:
        return family.frame_size(processor, num_frames, FrameSize(height, width), kwargs)
    except ValueError as error:
        raise UserError(f"the processor refuses {num_frames} frames of {width}x{height} pixels: {error}") from error


def clip_pixel_kwargs(family: Family, processor: VideoProcessor, settings: VideoSettings,
                      num_frames: int) -> dict[str, Any]:
    """Return the processor's keyword arguments for a clip: bounds on pixels in the unit that it holds them in."""
    def bound(name: Literal["min", "max"], value: int | None) -> int | None:
        return value if value is None or name not in family.per_clip_bounds else value * num_frames

    return family.pixel_kwargs(processor, bound("min", settings.min_pixels), bound("max", settings.max_pixels))


def video_tokens(blueprint: Blueprint, settings: VideoSettings, *, num_frames: int, height: int, width: int) -> int:
    """Return the placeholder tokens of a clip with frames of height x width pixels on disk."""
    size = frame_size(blueprint, settings, num_frames=num_frames, height=height, width=width)
    return blueprint.family.video_tokens(blueprint.video_processor, blueprint.config, num_frames, size)


def vision_patches(blueprint: Blueprint, settings: VideoSettings, *, num_frames: int, height: int, width: int) -> int:
    """Return the tokens that the vision tower itself sees for such a clip."""
    size = frame_size(blueprint, settings, num_frames=num_frames, height=height, width=width)
    return blueprint.family.vision_patches(blueprint.video_processor, blueprint.config, num_frames, size)


def frames_within(blueprint: Blueprint, settings: VideoSettings, *, num_frames: int, height: int, width: int) -> int:
    """Return how many of `num_frames` frames fit `video.max_tokens`; all where no budget is set.

    Fewer than all are a multiple of what the tower takes at a time. Raises UserError when not even one step fits.
    """
    if settings.max_tokens is None:
        return num_frames
    step = blueprint.family.frames_per_step
    fewer = range(num_frames - num_frames % step or num_frames, 0, -step)
    for count in (num_frames, *fewer):
        if video_tokens(blueprint, settings, num_frames=count, height=height, width=width) <= settings.max_tokens:
            return count
    least = video_tokens(blueprint, settings, num_frames=min(step, num_frames), height=height, width=width)
    raise UserError(f"video.max_tokens is {settings.max_tokens}, and the least that a {width}x{height} clip takes is "
                    f"{least}. Raise it, or lower video.max_pixels")


def fit_frames(blueprint: Blueprint, settings: VideoSettings, frames: Frames) -> Frames:
    """Return the frames that fit `video.max_tokens`, spread evenly; the caller counts those lost."""
    num_frames, height, width = frames.pixels.shape[:3]
    return thin(frames, frames_within(blueprint, settings, num_frames=num_frames, height=height, width=width))
