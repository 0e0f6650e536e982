"""What a run keeps of its clips on disk, so that none is decoded twice, and how large that is."""

from typing import Literal

from dpo_video.models.dtypes import DTYPES
from dpo_video.models.families import Family
from dpo_video.models.hub import ModelSpec
from dpo_video.models.lora import LANGUAGE_ONLY
from dpo_video.models.tokens import sound_tokens, video_tokens
from dpo_video.recipe import Recipe

Kept = Literal["none", "frames", "features"]


def kept_of_clips(recipe: Recipe, family: Family) -> Kept:
    """Return what a recipe's runs keep of each clip.

    Under `video.cache: auto` that is what all stages can read: features, and frames where features
    depend on the question or training changes what makes them.
    """
    if recipe.video.cache != "auto":
        return recipe.video.cache
    tunes_tower = set(recipe.train.tune) != set(LANGUAGE_ONLY)
    return "frames" if family.encode == "in_forward" or tunes_tower else "features"


def kept_bytes(
    recipe: Recipe,
    spec: ModelSpec,
    *,
    frames_taken: int,
    frames_seen: int,
    height: int,
    width: int,
    sound_samples: int = 0,
) -> int:
    """Return the bytes that a clip of height x width pixels takes on disk, headers left out.

    Args:
        frames_taken: by `video.policy`: those that are decoded.
        frames_seen: by the model, after `video.max_tokens`.
        sound_samples: that are read with them.
    """
    kept = kept_of_clips(recipe, spec.family)
    if kept == "none":
        return 0
    if kept == "frames":
        return 3 * frames_taken * height * width + 4 * sound_samples
    tokens = video_tokens(spec, recipe.video, num_frames=frames_seen, height=height, width=width)
    of_sound = sound_tokens(spec, recipe.video, sound_samples)
    number_bytes = 2 if recipe.model.dtype == "auto" else DTYPES[recipe.model.dtype].itemsize
    rows = tokens * (1 + spec.family.deep_layers(spec.config)) + of_sound
    return int(rows * spec.config.get_text_config().hidden_size * number_bytes)
