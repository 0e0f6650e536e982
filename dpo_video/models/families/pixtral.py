"""Pixtral and Mistral 3: a clip is a list of images, each of its own shape."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.image_processing_utils import get_size_dict

from dpo_video.core.errors import UserError
from dpo_video.models.families.family import (
    ClipFeatures,
    Family,
    FrameSize,
    Model,
    VideoProcessor,
    pack_list,
)
from dpo_video.models.families.llava_images import image_id, image_token


def _features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    """Return the features of all frames, a frame at a time.

    The tower packs all images into one sequence under a dense mask of (patches x patches), which
    keeps them apart: that of 8 frames of 1024 pixels takes 4 GiB in float32.
    """
    embeddings: list[Tensor] = []
    for pixels, size in zip(inputs["pixel_values"], inputs["image_sizes"], strict=True):
        output = model.get_image_features(pixels[None], image_sizes=size[None], return_dict=True)
        embeddings.extend(output.pooler_output)
    return ClipFeatures(torch.cat(embeddings))


def _size(
    processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]
) -> FrameSize:
    """As get_resize_output_image_size up to its last step: there, sides are rounded up to whole
    tokens.

    How large a token is, the image processor does not know: see `_tokens`.
    """
    edge = kwargs.get("size", processor.size)["longest_edge"]
    ratio = max(size.height / edge, size.width / edge)
    if ratio <= 1:
        return size
    return FrameSize(math.floor(size.height / ratio), math.floor(size.width / ratio))


def _merge(config: PretrainedConfig) -> int:
    """Return the patches per token and axis: Mistral 3 merges 2 x 2, Pixtral none."""
    return int(config.spatial_merge_size) if config.model_type == "mistral3" else 1


def _tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    side = config.vision_config.patch_size * _merge(config)
    return num_frames * math.ceil(size.height / side) * math.ceil(size.width / side)


def _patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return _tokens(processor, config, num_frames, size) * _merge(config) ** 2


def _pixels(
    processor: VideoProcessor, min_pixels: int | None, max_pixels: int | None
) -> dict[str, Any]:
    """Return a longest edge under which no frame has more than `most` pixels, whatever its
    shape.
    """
    if min_pixels is not None:
        raise UserError("this model family never enlarges a frame: leave out video.min_pixels")
    if max_pixels is None:
        return {}
    # Sides are rounded up to whole tokens, of 2 x 2 patches at most: an edge of whole tokens leaves
    # nothing to round.
    token = 2 * get_size_dict(processor.patch_size)["height"]
    edge = math.isqrt(max_pixels) // token * token
    if edge == 0:
        raise UserError(
            f"video.max_pixels is {max_pixels}, and a square of one token takes {token * token}. "
            f"Raise it"
        )
    return {"size": {"longest_edge": min(edge, processor.size["longest_edge"])}}


PIXTRAL = Family(
    name="pixtral",
    title="Pixtral (mistral-community/pixtral-12b)",
    features=_features,
    pack=pack_list,
    modality="image",
    frames_as="images",
    prompt_token=image_token,
    placeholder=image_id,
    pixel_inputs=("pixel_values", "image_sizes"),
    frame_size=_size,
    video_tokens=_tokens,
    vision_patches=_patches,
    pixel_kwargs=_pixels,
    formula="F x ceil(H/16) x ceil(W/16), and a break a row",
    quirks="Its checkpoints are of model type `llava` with a tower of type `pixtral`, and that "
    "picks this row. Frames "
    "are images of their own shape, without times, a token per 16 x 16 pixels and one more at the "
    "end of each "
    "row: a frame of 1024 x 576 takes 2,304 tokens and 36 ends, so set video.max_pixels. It bounds "
    "the longer "
    "side by its square root.",
)
MISTRAL3 = replace(
    PIXTRAL,
    name="mistral3",
    title="Mistral Small 3.1 and 3.2, Ministral 3 (mistralai/Mistral-Small-3.1-24B-Instruct-2503, "
    "mistralai/Ministral-3-8B-Instruct-2512)",
    formula="F x ceil(H/28) x ceil(W/28), and a break a row",
    quirks="As Pixtral, with a token per 28 x 28 pixels: a frame of 1540 x 868 takes 1,705. Set "
    "video.max_pixels.",
)
