"""Decoding for a model: how many frames it takes at a time, and the size that it sees them at."""

from typing import TypedDict

from dpo_video.core.errors import UserError
from dpo_video.models.families import FrameSize
from dpo_video.models.hearing import hearing_of
from dpo_video.models.hub import ModelSpec
from dpo_video.models.tokens import frames_within, pixel_kwargs
from dpo_video.recipe import VideoSettings
from dpo_video.video import FramePool
from dpo_video.video.frames import SizeRule, SoundFormat

UNHEARD = (
    "a server is not asked to hear (generate.engine=openai), and in training and evaluation the "
    "model hears its clips: these answers rest on what is seen alone. Where sound matters, use "
    "generate.engine=local or ray; else set video.sound=false"
)
"""What is said of answers that a server gives for a model that hears."""


class ReadingArguments(TypedDict):
    """What of reading a clip depends on the model: arguments of `read_frames` and FramePool."""

    multiple_of: int
    size_rule: SizeRule | None
    sound: SoundFormat | None


def reading_for(spec: ModelSpec, settings: VideoSettings) -> ReadingArguments:
    """Return how clips are read for a model."""
    return ReadingArguments(
        multiple_of=spec.family.frames_per_step,
        size_rule=size_rule(spec, settings),
        sound=sound_format(spec, settings),
    )


def model_pool(spec: ModelSpec, settings: VideoSettings) -> FramePool:
    """Return the processes that decode clips for a model."""
    return FramePool(settings, **reading_for(spec, settings))


def frames_alone(settings: VideoSettings) -> VideoSettings:
    """Return settings for clips without their sound: what servers are sent."""
    return settings.model_copy(update={"sound": False})


def sound_format(spec: ModelSpec, settings: VideoSettings) -> SoundFormat | None:
    """Return how a model takes a clip's sound; None where it hears none."""
    hearing = hearing_of(spec.family, spec.config, settings)
    return None if hearing is None else hearing.form


def hearing_word(spec: ModelSpec, settings: VideoSettings) -> str | None:
    """Return what a model that can hear does with a clip's sound; None of one that cannot."""
    if spec.family.hearing(spec.config) is None:
        return None
    return "left out" if sound_format(spec, settings) is None else "heard"


def size_rule(spec: ModelSpec, settings: VideoSettings) -> SizeRule | None:
    """Return the size that `video.decode_size` has frames decoded at; None for their own.

    Frames are made smaller only: to make them larger is the processor's, as is to refuse them.
    Raises UserError for a family that does not say to what size its processor brings frames.
    """
    if settings.decode_size == "native":
        return None
    family, processor, resized = spec.family, spec.video_processor, spec.family.resized
    if resized is None:
        raise UserError(
            f"video.decode_size is 'model', and the family {family.name!r} does not state the "
            "size to which its processor brings frames before it crops or tiles them. Leave it at "
            "'native'; video.cache saves decoding a clip again"
        )

    def rule(num_frames: int, height: int, width: int, sound_samples: int) -> tuple[int, int]:
        try:
            seen = frames_within(
                spec,
                settings,
                num_frames=num_frames,
                height=height,
                width=width,
                sound_samples=sound_samples,
            )
            kwargs = pixel_kwargs(family, processor, settings, num_frames=seen)
            size = resized(processor, seen, FrameSize(height, width), kwargs)
        except (UserError, ValueError):  # what reads the clip meets the same, and tells it
            return height, width
        is_smaller = size.height * size.width < height * width
        return (size.height, size.width) if is_smaller else (height, width)

    return rule
