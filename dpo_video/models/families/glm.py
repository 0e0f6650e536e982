"""GLM-4.1V, 4.5V and 4.6V: a grid of patches of any size, M-RoPE positions, a time stamp
a pair of frames.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers.models.glm4v.video_processing_glm4v import smart_resize

from dpo_video.models.families.family import (
    EXPERTS,
    FUSED_EXPERTS,
    LINEAR_PATH,
    NAMES_OF_EXPERTS,
    Family,
    FrameSize,
    VideoProcessor,
    is_router,
    pack_list,
)
from dpo_video.models.families.qwen import grid_features, grid_patches, grid_tokens, pixel_bounds
from dpo_video.models.positions import mrope_positions


def _size(
    processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]
) -> FrameSize:
    """As Glm4vVideoProcessor.resize (transformers 5.23): `size` bounds the whole video's pixels,
    not a frame's.
    """
    edges = {**dict(processor.size), **kwargs.get("size", {})}
    height, width = smart_resize(
        num_frames,
        size.height,
        size.width,
        temporal_factor=processor.temporal_patch_size,
        factor=processor.patch_size * processor.merge_size,
        min_pixels=edges["shortest_edge"],
        max_pixels=edges["longest_edge"],
    )
    return FrameSize(height, width)


GLM4V = Family(
    name="glm4v",
    title="GLM-4.1V and GLM-4.6V-Flash (zai-org/GLM-4.1V-9B-Thinking, zai-org/GLM-4.6V-Flash)",
    features=grid_features,
    pack=pack_list,
    placeholder=lambda config: int(config.image_token_id),
    clip_inputs=("video_grid_thw",),
    frames_per_step=2,
    position_axes=3,
    positions=mrope_positions,
    # The template opens the next turn with it; the EOS, <|endoftext|>, ends no turn. Checkpoints
    # stop at either and at <|observation|>: their configs list 151329, 151336 and 151338, and
    # GLM-4.1V's 151348 too (copies of them stand in hlky/dinoml_v2).
    end_of_turn="<|user|>",
    frame_size=_size,
    video_tokens=grid_tokens,
    vision_patches=grid_patches,
    pixel_kwargs=pixel_bounds,
    per_clip_bounds=frozenset({"min", "max"}),
    formula="ceil(F/2) x (H/28) x (W/28), and a time stamp a pair of frames",
    quirks="A clip's placeholders are the image token, `<|image|>`. Time stamps are cut to whole "
    "seconds, and to tenths by the processor of GLM-4.6V-Flash, whose checkpoint is of this model "
    "type. An answer ends with `<|user|>`, not with the tokenizer's EOS. -Thinking writes its "
    "reasoning before the answer: all of it is judged, and `generate.max_new_tokens` (256) cuts "
    "it. -9B-Base is no chat model.",
)
GLM46V = replace(
    GLM4V,
    name="glm46v",
    title="GLM-4.6V of model type `glm46v`",
    quirks="As GLM-4.1V, with time stamps in tenths of a second. No published checkpoint is of "
    "this model type: GLM-4.6V-Flash is of `glm4v`, and GLM-4.6V, of experts, of `glm4v_moe`.",
)
GLM4V_MOE = replace(
    GLM4V,
    name="glm4v_moe",
    title="GLM-4.5V and GLM-4.6V, of experts (zai-org/GLM-4.5V, zai-org/GLM-4.6V)",
    lora_targets=LINEAR_PATH + r"self_attn\.(q|k|v|o)_proj",
    untuned=lambda name: is_router(name) or ".mlp." in name,
    expert_parameters=EXPERTS,
    no_4_bit=FUSED_EXPERTS,
    no_tower_lora=NAMES_OF_EXPERTS,
    quirks="As GLM-4.1V; GLM-4.6V's time stamps are in tenths of a second. LoRA tunes attention, "
    "and the experts under `train.lora.experts`, but no dense layer and no shared expert: PEFT "
    "(0.21) takes one of this model type, named as a target, for its fused experts; so "
    "`train.tune` takes the language model alone.",
)
