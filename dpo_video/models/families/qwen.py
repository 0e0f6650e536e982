"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: a grid of patches of any size, M-RoPE positions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as smart_resize_3d
from transformers.utils.generic import ModelOutput

from dpo_video.core.errors import UserError
from dpo_video.models.families.family import (
    EXPERTS,
    FUSED_EXPERTS,
    RECURRENT,
    ClipFeatures,
    Family,
    FrameSize,
    Model,
    Tower,
    VideoProcessor,
    is_router,
    pack_list,
)
from dpo_video.models.positions import install_mrope_rule, mrope_positions


def grid_features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    """Return the features of a clip whose patches come with the size of their grid."""
    output = model.get_video_features(
        inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True
    )
    return ClipFeatures(torch.cat(list(output.pooler_output)))


def _qwen_size(
    processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]
) -> FrameSize:
    """As Qwen2VLVideoProcessor.resize (transformers 5.23), with its cap over the whole video where
    that is on.
    """
    factor = processor.patch_size * processor.merge_size
    edges = {**dict(processor.size), **kwargs.get("size", {})}
    min_pixels, max_pixels = edges["shortest_edge"], edges["longest_edge"]
    if kwargs["cap_pixels_per_frame"]:
        total = int(processor.max_video_tokens * factor * factor * 0.9)
        max_pixels = max(
            min(max_pixels, total * processor.temporal_patch_size // num_frames),
            int(min_pixels * 1.05),
        )
    height, width = smart_resize(
        size.height, size.width, factor, min_pixels=min_pixels, max_pixels=max_pixels
    )
    return FrameSize(height, width)


def grid_tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    """Return the tokens of a grid: its patches, merged by `merge_size` on each side."""
    patches = grid_patches(processor, config, num_frames, size)
    return patches // processor.merge_size**2


def grid_patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    """Return the patches of a grid; the last frame is repeated where the tower takes several at a
    time.
    """
    groups = math.ceil(num_frames / processor.temporal_patch_size)
    return groups * (size.height // processor.patch_size) * (size.width // processor.patch_size)


def pixel_bounds(
    processor: VideoProcessor, min_pixels: int | None, max_pixels: int | None
) -> dict[str, Any]:
    """Return the processor's `size` for bounds on pixels, in the processor's own unit."""
    if min_pixels is None and max_pixels is None:
        return {}
    size = {
        "shortest_edge": min_pixels or processor.size["shortest_edge"],
        "longest_edge": max_pixels or processor.size["longest_edge"],
    }
    if size["shortest_edge"] > size["longest_edge"]:
        raise UserError(
            f"video.min_pixels is {size['shortest_edge']} and video.max_pixels "
            f"{size['longest_edge']} "
            "(an unset one is the checkpoint's): the least must not be above the most. Set both"
        )
    return {"size": size}


def _capped_bounds(
    processor: VideoProcessor, min_pixels: int | None, max_pixels: int | None
) -> dict[str, Any]:
    # An unset cap_pixels_per_frame warns once a process that its default will change; our cap is
    # video.max_tokens.
    return {
        "cap_pixels_per_frame": bool(processor.cap_pixels_per_frame),
        **pixel_bounds(processor, min_pixels, max_pixels),
    }


def _qwen3_features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    output = model.get_video_features(
        inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True
    )
    return ClipFeatures(
        torch.cat(list(output.pooler_output)),
        tuple(torch.cat(list(layer)) for layer in output.deepstack_features),
    )


def _qwen3_pack(clips: Sequence[ClipFeatures]) -> ModelOutput:
    """Return features as lists with one tensor per clip, those of deeper layers too: without these
    logits are wrong.
    """
    layers_by_clip = [clip.layers for clip in clips]
    deepstack: Any = [list(layer) for layer in zip(*layers_by_clip, strict=True)]
    return BaseModelOutputWithDeepstackFeatures(**pack_list(clips), deepstack_features=deepstack)


def _qwen3_size(
    processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]
) -> FrameSize:
    """As Qwen3VLVideoProcessor.resize (transformers 5.23): `size` bounds the whole video's pixels,
    not a frame's.
    """
    factor = processor.patch_size * processor.merge_size
    edges = {**dict(processor.size), **kwargs.get("size", {})}
    min_pixels, max_pixels = edges["shortest_edge"], edges["longest_edge"]
    if kwargs["cap_pixels_per_frame"]:
        frame = max(
            min(processor.max_video_tokens * factor * factor, max_pixels // num_frames),
            int(min_pixels * 1.05),
        )
        max_pixels = frame * num_frames
    height, width = smart_resize_3d(
        num_frames,
        size.height,
        size.width,
        temporal_factor=processor.temporal_patch_size,
        factor=factor,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
    )
    return FrameSize(height, width)


def _qwen2_tower(config: PretrainedConfig) -> Tower:
    vision = config.vision_config
    return Tower(
        width=vision.embed_dim, inner=vision.mlp_ratio * vision.embed_dim, patch=vision.patch_size
    )


QWEN2_5_VL = Family(
    name="qwen2_5_vl",
    title="Qwen2.5-VL (Qwen/Qwen2.5-VL-3B-Instruct, -7B-, -32B-, -72B-)",
    features=grid_features,
    pack=pack_list,
    clip_inputs=("video_grid_thw", "second_per_grid_ts"),
    frames_per_step=2,
    position_axes=3,
    positions=mrope_positions,
    install_positions=install_mrope_rule,
    frame_size=_qwen_size,
    resized=_qwen_size,
    video_tokens=grid_tokens,
    vision_patches=grid_patches,
    pixel_kwargs=_capped_bounds,
    formula="ceil(F/2) x (H/28) x (W/28)",
    quirks="Text after a clip stands above its last time step (`model.positions: checkpoint`); "
    "transformers >= 5.3 "
    "puts it among the steps of a long clip.",
)
QWEN2_VL = replace(
    QWEN2_5_VL,
    name="qwen2_vl",
    title="Qwen2-VL (Qwen/Qwen2-VL-2B-Instruct, -7B-, -72B-)",
    clip_inputs=("video_grid_thw",),
    tower=_qwen2_tower,
    quirks="Positions as Qwen2.5-VL's, but time is counted in pairs of frames: the model is not "
    "told how far apart "
    "frames are.",
)
QWEN3_VL = replace(
    QWEN2_5_VL,
    name="qwen3_vl",
    title="Qwen3-VL (Qwen/Qwen3-VL-2B-Instruct, -4B-, -8B-, -32B-)",
    features=_qwen3_features,
    pack=_qwen3_pack,
    deep_layers=lambda config: len(config.vision_config.deepstack_visual_indexes),
    clip_inputs=("video_grid_thw",),
    install_positions=None,
    frame_size=_qwen3_size,
    resized=_qwen3_size,
    per_clip_bounds=frozenset({"min", "max"}),
    formula="ceil(F/2) x (H/32) x (W/32), and a time stamp a pair of frames",
    quirks="The checkpoint's own bounds on pixels hold for all of a clip's frames together: more "
    "frames are smaller. "
    "Features also enter early layers of the language model. The prompt keeps an outer pair of "
    "vision marks, as "
    "transformers >= 5.10 and vLLM with it have them; at release there was none.",
)
QWEN3_VL_MOE = replace(
    QWEN3_VL,
    name="qwen3_vl_moe",
    title="Qwen3-VL of experts (Qwen/Qwen3-VL-30B-A3B-Instruct, -235B-A22B-)",
    untuned=is_router,
    expert_parameters=EXPERTS,
    no_4_bit=FUSED_EXPERTS,
    quirks="As Qwen3-VL. LoRA tunes attention, and the experts under `train.lora.experts`.",
)
QWEN3_5 = replace(
    QWEN3_VL,
    name="qwen3_5",
    title="Qwen3.5 (Qwen/Qwen3.5-27B and the dense others)",
    features=grid_features,
    pack=pack_list,
    deep_layers=lambda config: 0,
    shared_prefix=False,
    why_not_shared=RECURRENT,
    quirks="Frames, time stamps and bounds as Qwen3-VL's. Three of four layers are recurrent.",
)
QWEN3_5_MOE = replace(
    QWEN3_5,
    name="qwen3_5_moe",
    title="Qwen3.5 and 3.6 of experts (Qwen/Qwen3.5-35B-A3B, Qwen3.6-35B-A3B, larger ones)",
    untuned=is_router,
    expert_parameters=EXPERTS,
    no_4_bit=FUSED_EXPERTS,
    quirks="As Qwen3.5. LoRA tunes attention, the recurrent layers and the expert that all tokens "
    "share, and the others under `train.lora.experts`.",
)
