"""LLaVA-OneVision: frames of a fixed size, pooled by two on each side, one newline after a clip."""

import math
from collections.abc import Mapping

from torch import Tensor
from transformers import PretrainedConfig

from dpo_video.models.families.family import (
    ClipFeatures,
    Family,
    FrameSize,
    Model,
    VideoProcessor,
    no_pixel_bounds,
    pack_tensor,
    square_size,
)


def _features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    output = model.get_video_features(inputs["pixel_values_videos"], return_dict=True)
    return ClipFeatures(output.pooler_output[0])


def _tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    """As LlavaOnevisionProcessor.replace_video_token, its `num_image_tokens` taken from the tower's
    grid.
    """
    side = math.ceil(config.vision_config.image_size // config.vision_config.patch_size / 2)
    return num_frames * side * side + 1


def _patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    patch = config.vision_config.patch_size
    return num_frames * (size.height // patch) * (size.width // patch)


LLAVA_ONEVISION = Family(
    name="llava_onevision",
    title="LLaVA-OneVision (llava-hf/llava-onevision-qwen2-0.5b-ov-hf, -7b-ov-hf, -7b-ov-chat-hf, "
    "-72b-ov-hf)",
    features=_features,
    pack=pack_tensor,
    frame_size=square_size,
    resized=square_size,
    video_tokens=_tokens,
    vision_patches=_patches,
    pixel_kwargs=no_pixel_bounds,
    formula="F x ceil((H/14) / 2)^2 + 1",
    quirks="Every frame is squeezed to a square.",
)
