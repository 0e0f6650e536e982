"""Kimi K2.5: frames of any shape in chunks of four, a time stamp a chunk, and a language model of
experts with compressed keys.
"""

import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from packaging.version import Version
from transformers import PretrainedConfig
from transformers.models.kimi_k25.video_processing_kimi_k25 import navit_resize

from dpo_video.core.errors import UserError
from dpo_video.models.families.family import (
    EXPERTS,
    FUSED_EXPERTS,
    LINEAR_PATH,
    Family,
    FrameSize,
    Tower,
    VideoProcessor,
    is_router,
    pack_list,
)
from dpo_video.models.families.qwen import grid_features


def _size(
    processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]
) -> FrameSize:
    """As Kimi_K25VideoProcessor (transformers 5.24): made smaller, never larger, then filled up to
    whole tokens.
    """
    _, (height, width) = navit_resize(
        size.height,
        size.width,
        patch_size=processor.patch_size,
        merge_kernel_size=processor.merge_size,
        max_patches=kwargs.get("max_patches", processor.max_patches),
        max_size_per_side=dict(processor.size)["max_height"],
    )
    return FrameSize(height, width)


def _patches_of_frame(processor: VideoProcessor, size: FrameSize) -> int:
    return (size.height // processor.patch_size) * (size.width // processor.patch_size)


def _tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    chunks = math.ceil(num_frames / processor.temporal_patch_size)
    return chunks * _patches_of_frame(processor, size) // processor.merge_size**2


def _patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return num_frames * _patches_of_frame(processor, size)


def _pixels(
    processor: VideoProcessor, min_pixels: int | None, max_pixels: int | None
) -> dict[str, Any]:
    if min_pixels is not None:
        raise UserError(
            "this model family makes no frame larger: leave out video.min_pixels, and use "
            "video.max_pixels to save tokens"
        )
    return {} if max_pixels is None else {"max_patches": max_pixels // processor.patch_size**2}


def _tower(config: PretrainedConfig) -> Tower:
    vision = config.vision_config
    return Tower(width=vision.hidden_size, inner=vision.intermediate_size, patch=vision.patch_size)


def refuses_before(earliest: str, installed: str) -> str | None:
    """Return why an installed transformers cannot run this family, whose tower reads clips of
    several chunks wrongly before `earliest`; None where it can.
    """
    if Version(installed) >= Version(earliest):
        return None
    return (
        f"transformers {installed} splits its clips wrongly. Install transformers {earliest} or "
        "later, or use the nearest family, 'qwen3_vl_moe' (Qwen/Qwen3-VL-30B-A3B-Instruct)"
    )


KIMI_K25 = Family(
    name="kimi_k25",
    title="Kimi K2.5 and K2.6 (moonshotai/Kimi-K2.5, Kimi-K2.6)",
    features=grid_features,
    pack=pack_list,
    refuses=lambda config: refuses_before("5.24", version("transformers")),
    pixel_inputs=("pixel_values_videos", "video_grid_thw"),
    frames_per_step=4,
    lora_targets=LINEAR_PATH + r"self_attn\.\w+_proj(_with_mqa)?",
    untuned=lambda name: is_router(name) or ".mlp." in name,
    expert_parameters=EXPERTS,
    no_4_bit=FUSED_EXPERTS,
    frame_size=_size,
    video_tokens=_tokens,
    vision_patches=_patches,
    pixel_kwargs=_pixels,
    tower=_tower,
    formula="ceil(F/4) x (H/28) x (W/28), and a time stamp four frames",
    quirks="LoRA tunes attention, and the experts under `train.lora.experts`. A "
    "trillion parameters: for nodes of many GPUs. Its experts are published in 4 bits "
    "(compressed-tensors), which were not loaded here: plans count them in 16.",
)
