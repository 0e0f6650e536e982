"""ERNIE 4.5 VL: frames with their times drawn into them, M-RoPE positions, and experts of their own
for the tokens of a clip.
"""

from collections.abc import Mapping
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.models.ernie4_5_vl_moe.image_processing_ernie4_5_vl_moe import smart_resize

from dpo_video.models.families.family import (
    EXPERTS,
    FUSED_EXPERTS,
    Family,
    FrameSize,
    Model,
    VideoProcessor,
    is_router,
    pack_list,
)
from dpo_video.models.families.qwen import grid_features, pixel_bounds
from dpo_video.models.positions import checkpoint_rope_index, mrope_positions


def _size(
    processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]
) -> FrameSize:
    """As Ernie4_5_VLMoeVideoProcessor (transformers 5.24)."""
    edges = {**dict(processor.size), **kwargs.get("size", {})}
    height, width = smart_resize(
        size.height,
        size.width,
        factor=processor.patch_size * processor.merge_size,
        min_pixels=edges["shortest_edge"],
        max_pixels=edges["longest_edge"],
    )
    return FrameSize(height, width)


def _patches(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    """Return the patches of all frames, the last of an odd number twice."""
    patch = processor.patch_size
    return (num_frames + num_frames % 2) * (size.height // patch) * (size.width // patch)


def _tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return _patches(processor, config, num_frames, size) // (2 * processor.merge_size**2)


def published_rope_index(
    self: Any,
    input_ids: Tensor,
    mm_token_type_ids: Tensor,
    image_grid_thw: Tensor | None = None,
    video_grid_thw: Tensor | None = None,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Return positions (3, B, T) and deltas (B, 1) by the rule of ERNIE's own processing: text
    after a clip starts above the clip's largest position on any axis.

    Its authors' code counts so (PaddlePaddle/FastDeploy, `_add_video` of ernie4_5_vl_processor:
    `cur_position = np.max(pos_ids) + 1`); transformers 5.24 starts above the larger spatial side.
    """
    if video_grid_thw is not None:
        video_grid_thw = video_grid_thw.clone()
        video_grid_thw[:, 0] //= self.config.vision_config.temporal_merge_size
    return checkpoint_rope_index(
        self,
        input_ids,
        mm_token_type_ids,
        image_grid_thw=image_grid_thw,
        video_grid_thw=video_grid_thw,
        attention_mask=attention_mask,
    )


def _tell_experts(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Send a clip's tokens and the marks around it to the experts of vision, as the processor's
    `moe_mm_token_type_ids` does, in whatever rows or trees they stand.
    """
    if kwargs.get("input_ids") is None:
        return None
    config: Any = module.config
    marks = [
        *(config.image_token_id, config.image_start_token_id, config.image_end_token_id),
        *(config.video_token_id, config.video_start_token_id, config.video_end_token_id),
    ]
    ids = kwargs["input_ids"]
    vision = torch.isin(ids, torch.tensor(marks, device=ids.device))
    return args, {**kwargs, "moe_mm_token_type_ids": vision.int()}


def _install(model: Model, rule: str) -> None:
    if rule == "checkpoint":
        model.model.get_rope_index = MethodType(published_rope_index, model.model)
    model.model.register_forward_pre_hook(_tell_experts, with_kwargs=True)


ERNIE4_5_VL_MOE = Family(
    name="ernie4_5_vl_moe",
    title="ERNIE 4.5 VL (baidu/ERNIE-4.5-VL-28B-A3B-PT, -424B-A47B-PT)",
    features=grid_features,
    pack=pack_list,
    clip_inputs=("video_grid_thw",),
    frames_per_step=2,
    position_axes=3,
    positions=mrope_positions,
    install_positions=_install,
    untuned=is_router,
    expert_parameters=EXPERTS,
    no_4_bit=FUSED_EXPERTS,
    frame_size=_size,
    video_tokens=_tokens,
    vision_patches=_patches,
    pixel_kwargs=pixel_bounds,
    formula="ceil(F/2) x (H/28) x (W/28)",
    quirks="transformers reads -28B-A3B-PT from `model.revision: refs/pr/11`; its main branch has "
    "the config of its authors' own code. A frame's time is drawn into it. The tokens of a clip "
    "and its marks have experts of their own. Text after a clip stands above its last time step "
    "(`model.positions: checkpoint`), as the authors' code counts; transformers 5.24 puts it among "
    "the steps of a long clip. LoRA tunes attention and the experts that all tokens share, and the "
    "others under `train.lora.experts`.",
)
