"""LLaVA and LLaVA-NeXT: a clip is a list of images, in squares or in tiles."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.image_processing_utils import select_best_resolution

from dpo_video.models.families.family import (
    ClipFeatures,
    Family,
    FrameSize,
    Model,
    VideoProcessor,
    no_pixel_bounds,
    pack_list,
    square_size,
    whole_patches,
)


def image_token(processor: Any) -> str:
    """Return what a chat template puts where an image goes."""
    return str(processor.image_token)


def image_id(config: PretrainedConfig) -> int:
    """Return the id that stands for one row of an image's features."""
    return int(config.image_token_id)


def _class_tokens(config: PretrainedConfig) -> int:
    """Return the tokens that the tower puts before the patches: CLIP has a class token, SigLIP has
    none.
    """
    return int(config.vision_config.model_type == "clip_vision_model")


def _kept_per_tile(config: PretrainedConfig, size: FrameSize) -> int:
    """Return the tokens of one square: `default` leaves out the first of the tower's, `full` keeps
    all.
    """
    dropped = int(config.vision_feature_select_strategy == "default")
    return whole_patches(size, config.vision_config.patch_size) + _class_tokens(config) - dropped


def _llava_features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    output = model.get_image_features(inputs["pixel_values"], return_dict=True)
    return ClipFeatures(torch.cat(list(output.pooler_output)))


def _llava_tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return num_frames * _kept_per_tile(config, size)


def _llava_patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return num_frames * (
        whole_patches(size, config.vision_config.patch_size) + _class_tokens(config)
    )


LLAVA = Family(
    name="llava",
    title="LLaVA-1.5 and LLaVA-NeXT-Interleave (llava-hf/llava-1.5-7b-hf, -13b-hf, "
    "llava-hf/llava-interleave-qwen-0.5b-hf, -7b-hf, -7b-dpo-hf)",
    features=_llava_features,
    pack=pack_list,
    modality="image",
    frames_as="images",
    prompt_token=image_token,
    placeholder=image_id,
    pixel_inputs=("pixel_values",),
    frame_size=square_size,
    video_tokens=_llava_tokens,
    vision_patches=_llava_patches,
    pixel_kwargs=no_pixel_bounds,
    formula="F x (H/14) x (W/14)",
    quirks="Frames are images, one after another, without times. LLaVA-1.5 takes 576 tokens a "
    "frame in a context of "
    "4,096 and was trained on single images: use few frames. LLaVA-NeXT-Interleave takes 729 a "
    "frame in 32,768 "
    "and was trained on frames.",
)


def _next_features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    output = model.get_image_features(
        inputs["pixel_values"], inputs["image_sizes"], return_dict=True
    )
    return ClipFeatures(torch.cat(list(output.pooler_output)))


def size_on_disk(
    processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]
) -> FrameSize:
    """Return the size on disk: tiles or slices are cut from it, and its shape decides which."""
    return size


def _tile_grid(processor: VideoProcessor, size: FrameSize) -> tuple[FrameSize, int, int]:
    """Return the size of a tile, and the rows and columns of tiles that fit a frame best."""
    tile = square_size(processor, 1, size, {})
    height, width = select_best_resolution(
        (size.height, size.width), processor.image_grid_pinpoints
    )
    return tile, height // tile.height, width // tile.width


def _next_tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    """As LlavaNextProcessor._get_number_of_features: the whole frame, and its tiles without what
    pads them.

    Every row of patches in the tiled picture ends with a newline token.
    """
    tile, rows, columns = _tile_grid(processor, size)
    patch = config.vision_config.patch_size
    high, wide = (
        tile.height // patch * rows,
        tile.width // patch * columns,
    )  # patches of the tiled picture
    if size.width / size.height > wide / high:
        high -= (high - int(round(size.height * (wide / size.width), 7))) // 2 * 2
    else:
        wide -= (wide - int(round(size.width * (high / size.height), 7))) // 2 * 2
    return num_frames * (_kept_per_tile(config, tile) + high * wide + high)


def _next_patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    tile, rows, columns = _tile_grid(processor, size)
    return _llava_patches(processor, config, num_frames * (rows * columns + 1), tile)


LLAVA_NEXT = Family(
    name="llava_next",
    title="LLaVA-NeXT / 1.6 (llava-hf/llava-v1.6-mistral-7b-hf, -vicuna-7b-hf, -vicuna-13b-hf, "
    "-34b-hf, "
    "llava-hf/llama3-llava-next-8b-hf, llava-hf/llava-next-72b-hf)",
    features=_next_features,
    pack=pack_list,
    modality="image",
    frames_as="images",
    prompt_token=image_token,
    placeholder=image_id,
    pixel_inputs=("pixel_values", "image_sizes"),
    frame_size=size_on_disk,
    video_tokens=_next_tokens,
    vision_patches=_next_patches,
    pixel_kwargs=no_pixel_bounds,
    formula="F x (576 + those of the tiles that hold the frame, 24 x 24 a tile + 1 a row of "
    "patches, without padding)",
    quirks="Frames are images, one after another, without times, and each is cut into tiles: 1,948 "
    "tokens for one of "
    "1280 x 720 and up to 2,928, so that a context of 4,096 (vicuna) holds one or two. For video "
    "use "
    "LLaVA-NeXT-Video, or the Mistral checkpoint with its 32,768.",
)
