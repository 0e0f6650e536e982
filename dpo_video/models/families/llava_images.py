"""Families that read a clip as a list of images: LLaVA, LLaVA-NeXT, Pixtral and Mistral 3."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.image_processing_utils import get_size_dict, select_best_resolution

from dpo_video.errors import UserError
from dpo_video.models.families.family import ClipFeatures, Family, FrameSize, Model, VideoProcessor, pack_list
from dpo_video.models.families.square import patches, square_pixels, square_size


def _image_token(processor: Any) -> str:
    return str(processor.image_token)


def _image_id(config: PretrainedConfig) -> int:
    return int(config.image_token_id)


def _class_tokens(config: PretrainedConfig) -> int:
    """Return the tokens that the tower puts before the patches: CLIP has a class token, SigLIP has none."""
    return int(config.vision_config.model_type == "clip_vision_model")


def _kept_per_tile(config: PretrainedConfig, size: FrameSize) -> int:
    """Return the tokens of one square: `default` leaves out the first of the tower's, `full` keeps all."""
    dropped = int(config.vision_feature_select_strategy == "default")
    return patches(size, config.vision_config.patch_size) + _class_tokens(config) - dropped


def _llava_features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    out = model.get_image_features(inputs["pixel_values"], return_dict=True)
    return ClipFeatures(torch.cat(list(out.pooler_output)))


def _llava_tokens(processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize) -> int:
    return num_frames * _kept_per_tile(config, size)


def _llava_patches(processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize) -> int:
    return num_frames * (patches(size, config.vision_config.patch_size) + _class_tokens(config))


LLAVA = Family(
    name="llava",
    title="LLaVA-1.5 and LLaVA-NeXT-Interleave (llava-hf/llava-1.5-7b-hf, -13b-hf, "
          "llava-hf/llava-interleave-qwen-0.5b-hf, -7b-hf, -7b-dpo-hf)",
    features=_llava_features,
    pack=pack_list,
    modality="image",
    frames_as="images",
    prompt_token=_image_token,
    placeholder=_image_id,
    pixel_inputs=("pixel_values",),
    frame_size=square_size,
    video_tokens=_llava_tokens,
    vision_patches=_llava_patches,
    pixel_kwargs=square_pixels,
    quirks="Frames are images, one after another, without times. LLaVA-1.5 takes 576 tokens a frame in a context of "
           "4,096 and was trained on single images: use few frames. LLaVA-NeXT-Interleave takes 729 a frame in 32,768 "
           "and was trained on frames.",
)


def _next_features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    out = model.get_image_features(inputs["pixel_values"], inputs["image_sizes"], return_dict=True)
    return ClipFeatures(torch.cat(list(out.pooler_output)))


def _next_size(processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]) -> FrameSize:
    """Return the size on disk: tiles are cut from it, and its shape decides how many tokens stay."""
    return size


def _tile_grid(processor: VideoProcessor, size: FrameSize) -> tuple[FrameSize, int, int]:
    """Return the size of a tile, and the rows and columns of tiles that fit a frame best."""
    tile = square_size(processor, 1, size, {})
    height, width = select_best_resolution((size.height, size.width), processor.image_grid_pinpoints)
    return tile, height // tile.height, width // tile.width


def _next_tokens(processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize) -> int:
    """As LlavaNextProcessor._get_number_of_features: the whole frame, and its tiles without what pads them.

    Every row of patches in the tiled picture ends with a newline token.
    """
    tile, rows, columns = _tile_grid(processor, size)
    patch = config.vision_config.patch_size
    high, wide = tile.height // patch * rows, tile.width // patch * columns  # patches of the tiled picture
    if size.width / size.height > wide / high:
        high -= (high - int(round(size.height * (wide / size.width), 7))) // 2 * 2
    else:
        wide -= (wide - int(round(size.width * (high / size.height), 7))) // 2 * 2
    return num_frames * (_kept_per_tile(config, tile) + high * wide + high)


def _next_patches(processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize) -> int:
    tile, rows, columns = _tile_grid(processor, size)
    return num_frames * (rows * columns + 1) * (patches(tile, config.vision_config.patch_size) + _class_tokens(config))


LLAVA_NEXT = Family(
    name="llava_next",
    title="LLaVA-NeXT / 1.6 (llava-hf/llava-v1.6-mistral-7b-hf, -vicuna-7b-hf, -vicuna-13b-hf, -34b-hf, "
          "llava-hf/llama3-llava-next-8b-hf, llava-hf/llava-next-72b-hf)",
    features=_next_features,
    pack=pack_list,
    modality="image",
    frames_as="images",
    prompt_token=_image_token,
    placeholder=_image_id,
    pixel_inputs=("pixel_values", "image_sizes"),
    frame_size=_next_size,
    video_tokens=_next_tokens,
    vision_patches=_next_patches,
    pixel_kwargs=square_pixels,
    quirks="Frames are images, one after another, without times, and each is cut into tiles: 1,948 tokens for one of "
           "1280 x 720 and up to 2,928, so that a context of 4,096 (vicuna) holds one or two. For video use "
           "LLaVA-NeXT-Video, or the Mistral checkpoint with its 32,768.",
)


def _pixtral_features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    """Return the features of all frames, a frame at a time.

    The tower packs all images into one sequence under a dense mask of (patches x patches), which keeps them apart:
    that of 8 frames of 1024 pixels takes 4 GiB in float32.
    """
    made = [torch.cat(list(model.get_image_features(pixels[None], image_sizes=size[None], return_dict=True)
                           .pooler_output))
            for pixels, size in zip(inputs["pixel_values"], inputs["image_sizes"], strict=True)]
    return ClipFeatures(torch.cat(made))


def _pixtral_size(processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]) -> FrameSize:
    """As get_resize_output_image_size up to its last step: there, sides are rounded up to whole tokens.

    How large a token is, the image processor does not know: see `_pixtral_grid`.
    """
    edge = kwargs.get("size", processor.size)["longest_edge"]
    ratio = max(size.height / edge, size.width / edge)
    if ratio <= 1:
        return size
    return FrameSize(math.floor(size.height / ratio), math.floor(size.width / ratio))


def _merge(config: PretrainedConfig) -> int:
    """Return the patches per token and axis: Mistral 3 merges 2 x 2, Pixtral none."""
    return int(config.spatial_merge_size) if config.model_type == "mistral3" else 1


def _pixtral_tokens(processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize) -> int:
    side = config.vision_config.patch_size * _merge(config)
    return num_frames * math.ceil(size.height / side) * math.ceil(size.width / side)


def _pixtral_patches(processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize) -> int:
    return _pixtral_tokens(processor, config, num_frames, size) * _merge(config) ** 2


def _pixtral_pixels(processor: VideoProcessor, least: int | None, most: int | None) -> dict[str, Any]:
    """Return a longest edge under which no frame has more than `most` pixels, whatever its shape."""
    if least is not None:
        raise UserError("this model family never enlarges a frame: leave out video.min_pixels")
    if most is None:
        return {}
    # Sides are rounded up to whole tokens, of 2 x 2 patches at most: an edge of whole tokens leaves nothing to round.
    token = 2 * get_size_dict(processor.patch_size)["height"]
    edge = math.isqrt(most) // token * token
    if edge == 0:
        raise UserError(f"video.max_pixels is {most}, and a square of one token takes {token * token}. Raise it")
    return {"size": {"longest_edge": min(edge, processor.size["longest_edge"])}}


PIXTRAL = Family(
    name="pixtral",
    title="Pixtral (mistral-community/pixtral-12b)",
    features=_pixtral_features,
    pack=pack_list,
    modality="image",
    frames_as="images",
    prompt_token=_image_token,
    placeholder=_image_id,
    pixel_inputs=("pixel_values", "image_sizes"),
    frame_size=_pixtral_size,
    video_tokens=_pixtral_tokens,
    vision_patches=_pixtral_patches,
    pixel_kwargs=_pixtral_pixels,
    quirks="Its checkpoints are of model type `llava` with a tower of type `pixtral`, and that picks this row. Frames "
           "are images of their own shape, without times, a token per 16 x 16 pixels and one more at the end of each "
           "row: a frame of 1024 x 576 takes 2,304 tokens and 36 ends, so set video.max_pixels. It bounds the longer "
           "side by its square root.",
)
MISTRAL3 = replace(
    PIXTRAL,
    name="mistral3",
    title="Mistral Small 3.1 and 3.2, Ministral 3 (mistralai/Mistral-Small-3.1-24B-Instruct-2503, "
          "mistralai/Ministral-3-8B-Instruct-2512)",
    quirks="As Pixtral, with a token per 28 x 28 pixels: a frame of 1540 x 868 takes 1,705. Set video.max_pixels.",
)
