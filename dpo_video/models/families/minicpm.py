"""MiniCPM-V 4.6 and 4.7: frames cut into slices, and a language model with recurrent layers."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from dpo_video.models.families.family import (
    RECURRENT,
    ClipFeatures,
    Family,
    FrameSize,
    Model,
    VideoProcessor,
    bounded_slices,
    pack_list,
    whole_patches,
)

SLICES = "max_slice_nums"
"""Argument of the processor."""


def _features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    output = model.get_video_features(
        inputs["pixel_values_videos"], inputs["target_sizes_videos"], return_dict=True
    )
    return ClipFeatures(torch.cat(list(output.pooler_output)))


def _common(processor: VideoProcessor) -> dict[str, Any]:
    return {
        "scale_resolution": processor.scale_resolution,
        "patch_size": processor.patch_size,
        "downsample_mode": processor.downsample_mode,
    }


def _refuses(config: PretrainedConfig) -> str | None:
    if "num_experts" in config.get_text_config().to_dict():
        return (
            "its language model is of experts, with which MiniCPM-V has no row. The nearest is "
            "'qwen3_5_moe' (Qwen/Qwen3.6-35B-A3B)"
        )
    return None


def _size(
    processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]
) -> FrameSize:
    """Return the size on disk, from which whole and slices are made; that of the whole where there
    are to be no slices.
    """
    slices = kwargs.get(SLICES)
    if slices != 1:
        return replace(size, slices=slices)
    height, width = processor.find_best_resize(
        (size.height, size.width), allow_upscale=True, **_common(processor)
    )
    return FrameSize(height, width, slices=1)


def _parts(processor: VideoProcessor, size: FrameSize) -> Iterator[FrameSize]:
    """Yield the sizes of what a frame becomes: the whole of it, then its slices.

    As MiniCPMV4_6VideoProcessor.resize_and_split_patches (transformers 5.23), by the processor's
    own arithmetic.
    """
    if size.slices == 1:
        yield size
        return
    frame, resolution = (size.height, size.width), processor.scale_resolution
    slices = size.slices or processor.max_slice_nums
    grid = processor.get_sliced_grid(frame, slices, resolution) if processor.slice_mode else None
    common = _common(processor)
    yield FrameSize(*processor.find_best_resize(frame, allow_upscale=grid is None, **common))
    if grid is not None:
        height, width = processor.get_refine_size(frame, grid, allow_upscale=True, **common)
        rows, columns = grid
        for _ in range(rows * columns):
            yield FrameSize(height // rows, width // columns)


def _tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    merged = 4 if processor.downsample_mode == "4x" else 16
    return num_frames * sum(
        whole_patches(piece, processor.patch_size) // merged for piece in _parts(processor, size)
    )


def _patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return num_frames * sum(
        whole_patches(piece, processor.patch_size) for piece in _parts(processor, size)
    )


def _pixels(
    processor: VideoProcessor, min_pixels: int | None, max_pixels: int | None
) -> dict[str, Any]:
    """Return as many slices as `video.max_pixels` has room for; the checkpoint's where it is left
    out.
    """
    square, most = processor.scale_resolution**2, processor.max_slice_nums
    slices = bounded_slices(min_pixels, max_pixels, square=square, most=most)
    # With stacking on, the processor takes the last frames of a clip for extra ones between the
    # others, and tiles them.
    return {"stack_frames": 1} if slices is None else {"stack_frames": 1, SLICES: slices}


MINICPMV4_6 = Family(
    name="minicpmv4_6",
    title="MiniCPM-V 4.6 (openbmb/MiniCPM-V-4.6)",
    features=_features,
    pack=pack_list,
    pixel_inputs=("pixel_values_videos", "target_sizes_videos"),
    shared_prefix=False,
    why_not_shared=RECURRENT,
    refuses=_refuses,
    frame_size=_size,
    video_tokens=_tokens,
    vision_patches=_patches,
    pixel_kwargs=_pixels,
    formula="F x (H/56) x (W/56), of the frame at 448 x 448 or so and of each of its slices",
    quirks="Three of four layers of its language model are recurrent and read one token after "
    "another, whatever an "
    "attention mask says: a shared prefix would leak the chosen answer into the rejected one, so "
    "every answer "
    "runs with its own copy of the clip. Large frames are cut into up to 9 slices of 448 x 448 or "
    "so: one of "
    "1280 x 720 takes 444 tokens, one of 320 x 240 takes 63. `video.max_pixels: 200704` leaves the "
    "slices out, as the model card does for videos: 66 tokens then. Frames carry no times.",
)


def _canvas_positions(model: Model, input_ids: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return (3, P) positions: a frame's slices stand where they are on its canvas."""
    positions: Tensor = model.model.get_rope_index(
        input_ids[None],
        inputs["mm_token_type_ids"][None],
        target_sizes_videos=inputs["target_sizes_videos"],
        attention_mask=torch.ones_like(input_ids)[None],
    )[0][:, 0]
    return positions


MINICPMV4_7 = replace(
    MINICPMV4_6,
    name="minicpmv4_7",
    title="MiniCPM-V 4.7 (openbmb/MiniCPM-V-4.7-1B)",
    pixel_inputs=("pixel_values_videos",),
    clip_inputs=("target_sizes_videos",),
    position_axes=3,
    positions=_canvas_positions,
    quirks="As MiniCPM-V 4.6, but tokens of a frame and its slices have positions on one canvas.",
)
