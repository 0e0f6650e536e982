"""Molmo 2: square frames pooled by three on each side; all tokens of a clip's frames see each
other.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from dpo_video.models.families.family import (
    ClipFeatures,
    Family,
    FrameSize,
    Model,
    VideoProcessor,
    no_pixel_bounds,
    pack_list,
    square_size,
)
from dpo_video.models.positions import IMAGE


def _features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    output = model.get_video_features(
        inputs["pixel_values_videos"],
        inputs["video_token_pooling"],
        inputs["video_grids"],
        return_dict=True,
    )
    return ClipFeatures(torch.cat(list(output.pooler_output)))


def _tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    """As Molmo2VideoProcessor: windows of `pooling_size` patches, the last ones filled up."""
    rows, columns = (
        math.ceil(side // processor.patch_size / pool)
        for side, pool in zip((size.height, size.width), processor.pooling_size, strict=True)
    )
    return num_frames * rows * columns


def _patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return num_frames * (size.height // processor.patch_size) * (size.width // processor.patch_size)


def _with_bos(processor: Any, text: str) -> str:
    """As Molmo2Processor.__call__ (transformers 5.23), whose templates write no beginning-of-text
    token.
    """
    bos = processor.tokenizer.bos_token or processor.tokenizer.eos_token
    return text if text.startswith(bos) else bos + text


MOLMO2 = Family(
    name="molmo2",
    title="Molmo 2 (allenai/Molmo2-4B, Molmo2-8B, Molmo2-O-7B)",
    features=_features,
    pack=pack_list,
    pixel_inputs=("pixel_values_videos", "video_token_pooling", "video_grids"),
    placeholder=lambda config: int(config.image_patch_id),
    finish_prompt=_with_bos,
    block_type=IMAGE,
    frame_size=square_size,
    video_tokens=_tokens,
    vision_patches=_patches,
    pixel_kwargs=no_pixel_bounds,
    formula="F x ceil((H/14) / 3)^2, and a time stamp and two marks a frame",
    quirks="All tokens of a clip's frames see each other, later ones too. Features are added to "
    "the placeholders' "
    "embeddings.",
)
