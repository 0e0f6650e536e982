"""What differs between model families, one row each; everything else in `models` is common to
all.
"""

from transformers import PretrainedConfig

from dpo_video.core.errors import UserError
from dpo_video.core.names import choose
from dpo_video.models.families.ernie import ERNIE4_5_VL_MOE
from dpo_video.models.families.exaone import EXAONE4_5, LFM3_VL
from dpo_video.models.families.family import (
    KEEP_UNQUANTIZED,
    LORA_TARGETS,
    ClipFeatures,
    Family,
    FrameSize,
    Hearing,
    Model,
    VideoProcessor,
    hears_nothing,
    no_pixel_bounds,
    pack_list,
    pack_tensor,
    square_size,
    whole_patches,
)
from dpo_video.models.families.gemma import GEMMA4, GEMMA4_MOE
from dpo_video.models.families.glm import GLM4V, GLM4V_MOE, GLM46V
from dpo_video.models.families.instructblip import INSTRUCTBLIPVIDEO
from dpo_video.models.families.internvl import INTERNVL
from dpo_video.models.families.kimi import KIMI_K25
from dpo_video.models.families.llava import LLAVA_NEXT_VIDEO
from dpo_video.models.families.llava_images import LLAVA, LLAVA_NEXT
from dpo_video.models.families.minicpm import MINICPMV4_6, MINICPMV4_7
from dpo_video.models.families.molmo import MOLMO2
from dpo_video.models.families.omni import QWEN2_5_OMNI, QWEN3_OMNI_MOE
from dpo_video.models.families.onevision import LLAVA_ONEVISION
from dpo_video.models.families.perception import PERCEPTION_LM
from dpo_video.models.families.pixtral import MISTRAL3, PIXTRAL
from dpo_video.models.families.qwen import (
    QWEN2_5_VL,
    QWEN2_VL,
    QWEN3_5,
    QWEN3_5_MOE,
    QWEN3_VL,
    QWEN3_VL_MOE,
)
from dpo_video.models.families.smolvlm import SMOLVLM
from dpo_video.models.families.video_llama import VIDEO_LLAMA_3
from dpo_video.models.families.video_llava import VIDEO_LLAVA

__all__ = [
    "FAMILIES",
    "KEEP_UNQUANTIZED",
    "LORA_TARGETS",
    "ClipFeatures",
    "Family",
    "FrameSize",
    "Hearing",
    "Model",
    "VideoProcessor",
    "family_of",
    "hears_nothing",
    "no_pixel_bounds",
    "pack_list",
    "pack_tensor",
    "row_name",
    "square_size",
    "whole_patches",
]


def family_of(config: PretrainedConfig, name: str | None = None) -> Family:
    """Return the row for a checkpoint's config, or the row called `name`."""
    kind = row_name(str(config.model_type))
    if kind == "llava" and config.vision_config.model_type == "pixtral":
        kind = PIXTRAL.name  # published as `llava` with another tower and another processor
    if kind == GEMMA4.name and config.get_text_config().enable_moe_block:
        kind = GEMMA4_MOE.name
    if name is None:
        return choose(FAMILIES, kind, "model type")
    family = choose(FAMILIES, name, "model.family")
    if kind in FAMILIES and kind != name:
        raise UserError(
            f"model.family is {name!r}, but the checkpoint is of the family {kind!r}: leave "
            "model.family out"
        )
    return family


def row_name(model_type: str) -> str:
    """Return the name of the row for a model type, or the type where there is none."""
    return ALSO.get(model_type, model_type)


FAMILIES: dict[str, Family] = {
    row.name: row
    for row in (
        QWEN2_VL,
        QWEN2_5_VL,
        QWEN3_VL,
        QWEN3_VL_MOE,
        QWEN3_5,
        QWEN3_5_MOE,
        QWEN2_5_OMNI,
        QWEN3_OMNI_MOE,
        LLAVA_NEXT_VIDEO,
        LLAVA_ONEVISION,
        VIDEO_LLAMA_3,
        GLM4V,
        GLM46V,
        GLM4V_MOE,
        EXAONE4_5,
        LFM3_VL,
        MOLMO2,
        PERCEPTION_LM,
        VIDEO_LLAVA,
        INTERNVL,
        LLAVA,
        LLAVA_NEXT,
        SMOLVLM,
        PIXTRAL,
        MISTRAL3,
        MINICPMV4_6,
        MINICPMV4_7,
        GEMMA4,
        GEMMA4_MOE,
        KIMI_K25,
        ERNIE4_5_VL_MOE,
        INSTRUCTBLIPVIDEO,
    )
}
ALSO: dict[str, str] = {kind: name for name, row in FAMILIES.items() for kind in row.also}
"""Rows by their further model types."""
