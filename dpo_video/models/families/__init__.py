"""What differs between model families, one row each; everything else in `models` is common to all."""

from transformers import PretrainedConfig

from dpo_video.models.families.family import (
    KEEP_UNQUANTIZED,
    LORA_TARGETS,
    ClipFeatures,
    Family,
    FrameSize,
    Model,
    VideoProcessor,
    pack_list,
)
from dpo_video.models.families.llava import LLAVA_NEXT_VIDEO
from dpo_video.models.families.llava_images import LLAVA, LLAVA_NEXT, MISTRAL3, PIXTRAL
from dpo_video.models.families.minicpm import MINICPMV4_6
from dpo_video.models.families.qwen import QWEN2_5_VL
from dpo_video.models.families.square import INTERNVL, SMOLVLM, VIDEO_LLAVA
from dpo_video.names import choose

__all__ = ["FAMILIES", "KEEP_UNQUANTIZED", "LORA_TARGETS", "ClipFeatures", "Family", "FrameSize", "Model",
           "VideoProcessor", "family_of", "pack_list"]


def family_of(config: PretrainedConfig, name: str | None = None) -> Family:
    """Return the row for a checkpoint's config, or the row called `name`."""
    if name is not None:
        return choose(FAMILIES, name, "model.family")
    if config.model_type == "llava" and config.vision_config.model_type == "pixtral":
        return PIXTRAL  # published as `llava` with another tower and another processor
    return choose(FAMILIES, config.model_type, "model type")


FAMILIES: dict[str, Family] = {row.name: row for row in (
    QWEN2_5_VL, LLAVA_NEXT_VIDEO,
    VIDEO_LLAVA, INTERNVL, LLAVA, LLAVA_NEXT, SMOLVLM, PIXTRAL, MISTRAL3, MINICPMV4_6)}
