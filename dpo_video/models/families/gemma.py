"""Gemma 4: frames of their own shape in a budget of tokens each, a time stamp a frame."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.gemma4.video_processing_gemma4 import get_aspect_ratio_preserving_size

from dpo_video.models.families.family import (
    EXPERTS,
    FUSED_EXPERTS,
    KEEP_UNQUANTIZED,
    LINEAR_PATH,
    SLIDING,
    ClipFeatures,
    Family,
    FrameSize,
    Model,
    VideoProcessor,
    is_router,
    no_pixel_bounds,
    pack_list,
    whole_patches,
)


def _features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    output = model.model.get_video_features(
        inputs["pixel_values_videos"],
        inputs["video_position_ids"],
        num_frames_per_video=inputs["num_frames_per_video"],
        return_dict=True,
    )
    return ClipFeatures(torch.cat(list(output.pooler_output)))


def _size(
    processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]
) -> FrameSize:
    """As Gemma4VideoProcessor (transformers 5.24): the largest frame of its shape in the budget."""
    height, width = get_aspect_ratio_preserving_size(
        size.height,
        size.width,
        processor.patch_size,
        processor.max_soft_tokens * processor.pooling_kernel_size**2,
        processor.pooling_kernel_size,
    )
    return FrameSize(height, width)


def _patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return num_frames * whole_patches(size, processor.patch_size)


def _tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return _patches(processor, config, num_frames, size) // processor.pooling_kernel_size**2


def _is_untuned(name: str) -> bool:
    """Return whether a layer mixes in the embeddings that each layer has of its own, or is a
    router.
    """
    return "per_layer" in name or is_router(name)


def _refuses(config: PretrainedConfig) -> str | None:
    if config.vision_config is None:
        return (
            "it has no vision tower. The nearest is a 'gemma4' that takes images, such as "
            "google/gemma-4-E4B-it"
        )
    return None


GEMMA4 = Family(
    name="gemma4",
    title="Gemma 4 (google/gemma-4-E2B-it, -E4B-it and -31B-it)",
    features=_features,
    pack=pack_list,
    pixel_inputs=("pixel_values_videos", "video_position_ids", "num_frames_per_video"),
    end_of_turn="<turn|>",
    lora_targets=LINEAR_PATH + r"(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)",
    untuned=_is_untuned,
    keep_unquantized=(*KEEP_UNQUANTIZED, r".*per_layer_\w+", r".*embed_vision", r".*embed_audio"),
    shared_prefix=False,
    why_not_shared=SLIDING,
    refuses=_refuses,
    frame_size=_size,
    video_tokens=_tokens,
    vision_patches=_patches,
    pixel_kwargs=no_pixel_bounds,
    formula="F x (H/48) x (W/48), at most 70 a frame, and a time stamp a frame",
    quirks="A frame takes at most 70 tokens, in whatever shape it has. Sound is not read. Five of "
    "six layers see a window of the last tokens. In the 31B tokens of a frame see each other. LoRA "
    "leaves out the layers' own embeddings.",
)
GEMMA4_MOE = replace(
    GEMMA4,
    name="gemma4_moe",
    title="Gemma 4 of experts (google/gemma-4-26B-A4B-it)",
    expert_parameters=EXPERTS,
    no_4_bit=FUSED_EXPERTS,
    quirks="Its checkpoint is of model type `gemma4`, and its experts, beside a dense part in each "
    "layer, pick this row. As Gemma 4. LoRA tunes attention and the dense part, and the experts "
    "under `train.lora.experts`.",
)
