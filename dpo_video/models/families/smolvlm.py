"""SmolVLM2: frames and their times spelt out in the prompt."""

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
    whole_patches,
)


def _features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    """Return the features of all frames, those of value 0 included.

    get_image_features takes a frame that is 0 everywhere for padding and drops it, and its tokens
    stay without features. One value of the smallest normal number keeps it; what the tower makes of
    it is the same.
    """
    pixels = inputs["pixel_values"].clone()  # (1, F, 3, H, W)
    empty = (pixels == 0).flatten(2).all(2)  # (1, F)
    pixels[..., 0, 0, 0][empty] = torch.finfo(model.dtype).tiny
    output = model.get_image_features(pixels, inputs["pixel_attention_mask"], return_dict=True)
    return ClipFeatures(torch.cat(list(output.pooler_output)))


def _size(
    processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]
) -> FrameSize:
    """As SmolVLMVideoProcessor.resize: whatever comes between, frames end as squares of
    `max_image_size`.
    """
    edge = processor.max_image_size["longest_edge"]
    return FrameSize(edge, edge)


def _tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    """As the connector: a square of scale_factor x scale_factor patches becomes one token."""
    return num_frames * (
        whole_patches(size, config.vision_config.patch_size) // config.scale_factor**2
    )


def _patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return num_frames * whole_patches(size, config.vision_config.patch_size)


SMOLVLM = Family(
    name="smolvlm",
    title="SmolVLM2 (HuggingFaceTB/SmolVLM2-256M-Video-Instruct, -500M-Video-Instruct, "
    "-2.2B-Instruct)",
    features=_features,
    pack=pack_list,
    modality="image",
    placeholder=lambda config: int(config.image_token_id),
    pixel_inputs=("pixel_values", "pixel_attention_mask"),
    frame_size=_size,
    video_tokens=_tokens,
    vision_patches=_patches,
    pixel_kwargs=no_pixel_bounds,
    formula="F x (H/P/S)^2, patches of P pixels, S x S of them a token, and a time stamp a frame",
    quirks="Its processor needs the package num2words (extra `families`): the prompt says in words "
    "how many frames "
    "there are, the clip's length, and each frame's minute and second. A frame takes 81 tokens in "
    "the 2.2B "
    "model and 64 in the smaller ones. In a batch the stock processor counts padded frames too; "
    "here clips are "
    "processed one by one, so a prompt never depends on its neighbours.",
)
