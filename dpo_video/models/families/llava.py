"""LLaVA-NeXT-Video and its relatives: frames of a fixed size, a fixed number of tokens each."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PretrainedConfig
from transformers.image_transforms import get_resize_output_image_size
from transformers.image_utils import ChannelDimension

from dpo_video.core.errors import UserError
from dpo_video.models.families.family import (
    ClipFeatures,
    Family,
    FrameSize,
    Model,
    VideoProcessor,
    pack_list,
)


def _llava_features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    output = model.get_video_features(inputs["pixel_values_videos"], return_dict=True)
    return ClipFeatures(output.pooler_output[0])


def _llava_size(
    processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]
) -> FrameSize:
    crop = processor.crop_size
    return FrameSize(crop["height"], crop["width"])


def _llava_resized(
    processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]
) -> FrameSize:
    """As BaseVideoProcessor.resize (transformers 5.23): the shorter side; the crop comes behind."""
    shape = np.broadcast_to(np.uint8(0), (3, size.height, size.width))
    height, width = get_resize_output_image_size(
        shape,
        size=processor.size["shortest_edge"],
        default_to_square=False,
        input_data_format=ChannelDimension.FIRST,
    )
    return FrameSize(height, width)


def _llava_tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    """As LlavaNextVideoProcessor.replace_video_token: stride-2 pooling leaves a quarter of the
    patches.
    """
    patch = config.vision_config.patch_size
    return num_frames * ((size.height // patch) * (size.width // patch) // 4)


def _llava_patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    patch = config.vision_config.patch_size
    return num_frames * ((size.height // patch) * (size.width // patch) + 1)


def _fixed_pixels(
    processor: VideoProcessor, min_pixels: int | None, max_pixels: int | None
) -> dict[str, Any]:
    if min_pixels is not None or max_pixels is not None:
        crop = processor.crop_size
        raise UserError(
            f"this model family resizes every frame to {crop['height']}x{crop['width']} pixels: "
            f"leave out "
            "video.min_pixels and video.max_pixels, and use video.num_frames to save tokens"
        )
    return {}


LLAVA_NEXT_VIDEO = Family(
    name="llava_next_video",
    title="LLaVA-NeXT-Video (llava-hf/LLaVA-NeXT-Video-7B-hf, -7B-DPO-hf, -34B-hf)",
    features=_llava_features,
    pack=pack_list,
    frame_size=_llava_size,
    resized=_llava_resized,
    video_tokens=_llava_tokens,
    vision_patches=_llava_patches,
    pixel_kwargs=_fixed_pixels,
    formula="F x ((H/14) x (W/14) / 4)",
    quirks="Every frame is cropped to a square.",
)
