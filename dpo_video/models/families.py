"""What differs between model families, one row each; everything else in this package is common to all.

Shapes: P prompt tokens, n video tokens of a clip, D hidden size, F frames.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize
from transformers.utils.generic import ModelOutput

from dpo_video.errors import UserError
from dpo_video.models.positions import install_mrope_rule, mrope_positions, plain_positions
from dpo_video.names import choose

Model = Any
"""A bare transformers model: PreTrainedModel types the submodules and methods that rows call as Tensor | Module."""
VideoProcessor = Any
"""A transformers video processor: the base class declares none of the sizes that rows read."""

LORA_TARGETS = (r".*(language_model|text_model)\.(model\.)?layers\.\d+\."
                r"(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down|gate_up)_proj|linear_attn\.(in_proj_\w+|out_proj))")
"""Matches every linear layer of the language model of all 15 known families, and no other module."""

# transformers >= 5 matches these by re.match from the start of a module's full name, and a list given replaces the
# default protection of lm_head (transformers/quantizers/base.py, get_modules_to_not_convert).
KEEP_UNQUANTIZED = (r".*visual", r".*_tower", r".*vision_model", r".*projector", r".*connector", r".*merger",
                    r".*qformer", r".*language_projection", r".*lm_head")


@dataclass(frozen=True, slots=True)
class ClipFeatures:
    """What the vision tower and projector made of one clip: rows of the language model's input."""

    embeddings: Tensor
    """(n, D), one row per placeholder token, in their order."""
    layers: tuple[Tensor, ...] = ()
    """(n, D) each: features added in early layers (Qwen3-VL's deepstack); empty elsewhere."""


@dataclass(frozen=True, slots=True)
class FrameSize:
    """Height and width that a frame has when it enters the tower, in pixels."""

    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Family:
    """A row of FAMILIES. Functions take the bare transformers model, never a PEFT wrapper."""

    name: str
    """The checkpoint's `model_type`."""
    title: str
    """What people call it, with its known checkpoints."""
    features: Callable[[Model, Mapping[str, Tensor]], ClipFeatures]
    """Tower and projector on one clip's processor outputs."""
    pack: Callable[[Sequence[ClipFeatures]], ModelOutput]
    """Features of several clips, of any frame counts, as the forward wants them."""
    modality: Literal["video", "image"] = "video"
    """Key of `mm_encoder_outputs`."""
    prompt_token: Callable[[Any], str] = field(default=lambda processor: str(processor.video_token))
    """What the chat template puts where the clip goes, from the processor, which expands it."""
    pixel_inputs: tuple[str, ...] = ("pixel_values_videos",)
    """Processor outputs that only the tower reads; they are dropped once a clip is encoded."""
    clip_inputs: tuple[str, ...] = ()
    """Other per-clip processor outputs, (1, ...) each: kept, and concatenated over the clips of a batch."""
    placeholder: Callable[[PretrainedConfig], int] = field(default=lambda config: int(config.video_token_id))
    """Token id that stands for one row of features: `prompt_token` in most families, not in all."""
    frames_per_step: int = 1
    """Frames that the tower takes at a time: a clip gets a multiple of it (FramePool's `multiple_of`)."""
    position_axes: Literal[1, 3] = 1
    """3 under M-RoPE: time, height, width."""
    positions: Callable[[Model, Tensor, Mapping[str, Tensor]], Tensor] = plain_positions
    """(axes, P) positions of one prompt from its ids (P,) and its other inputs."""
    install_positions: Callable[[Model, str], None] | None = None
    """Applies `model.positions`; None where there is only one rule."""
    end_of_turn: str | None = None
    """Token that ends an answer; None is the tokenizer's EOS."""
    lora_targets: str = LORA_TARGETS
    keep_unquantized: tuple[str, ...] = KEEP_UNQUANTIZED
    shared_prefix: bool = True
    """False where the language model is recurrent or otherwise ignores a 4-D mask."""
    context_length: Callable[[PretrainedConfig], int] = field(
        default=lambda config: int(config.get_text_config().max_position_embeddings))
    frame_size: Callable[[VideoProcessor, int, FrameSize, Mapping[str, Any]], FrameSize]
    """Size after resizing, from the processor, the number of frames, the size on disk and `videos_kwargs`."""
    video_tokens: Callable[[VideoProcessor, PretrainedConfig, int, FrameSize], int]
    """Placeholder tokens of a clip, from its number of frames and its size after resizing."""
    vision_patches: Callable[[VideoProcessor, PretrainedConfig, int, FrameSize], int]
    """Tokens that the tower itself sees, for the memory estimate."""
    pixel_kwargs: Callable[[VideoProcessor, int | None, int | None], dict[str, Any]]
    """`videos_kwargs` for `video.min_pixels` and `video.max_pixels`."""


def family_of(config: PretrainedConfig, name: str | None = None) -> Family:
    """Return the row for a checkpoint's config, or the row called `name`."""
    if name is not None:
        return choose(FAMILIES, name, "model.family")
    return choose(FAMILIES, config.model_type, "model type")


def pack_list(clips: Sequence[ClipFeatures]) -> ModelOutput:
    """Return features as a list with one tensor per clip, which most models concatenate themselves."""
    embeddings: Any = [clip.embeddings for clip in clips]  # declared as one tensor, read as a list
    return BaseModelOutputWithPooling(pooler_output=embeddings)


def _qwen_features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    out = model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True)
    return ClipFeatures(torch.cat(list(out.pooler_output)))


def _qwen_size(processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]) -> FrameSize:
    """As Qwen2VLVideoProcessor.resize (transformers 5.23), with its cap over the whole video where that is on."""
    factor = processor.patch_size * processor.merge_size
    edges = {**dict(processor.size), **kwargs.get("size", {})}
    least, most = edges["shortest_edge"], edges["longest_edge"]
    if kwargs["cap_pixels_per_frame"]:
        total = int(processor.max_video_tokens * factor * factor * 0.9)
        most = max(min(most, total * processor.temporal_patch_size // num_frames), int(least * 1.05))
    height, width = smart_resize(size.height, size.width, factor, min_pixels=least, max_pixels=most)
    return FrameSize(height, width)


def _qwen_tokens(processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize) -> int:
    patches = _qwen_patches(processor, config, num_frames, size)
    return patches // processor.merge_size**2


def _qwen_patches(processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize) -> int:
    groups = math.ceil(num_frames / processor.temporal_patch_size)
    return groups * (size.height // processor.patch_size) * (size.width // processor.patch_size)


def _qwen_pixels(processor: VideoProcessor, least: int | None, most: int | None) -> dict[str, Any]:
    # An unset cap_pixels_per_frame warns once a process that its default will change; our cap is video.max_tokens.
    kwargs: dict[str, Any] = {"cap_pixels_per_frame": bool(processor.cap_pixels_per_frame)}
    if least is None and most is None:
        return kwargs
    size = {"shortest_edge": least or processor.size["shortest_edge"],
            "longest_edge": most or processor.size["longest_edge"]}
    if size["shortest_edge"] > size["longest_edge"]:
        raise UserError(f"video.min_pixels is {size['shortest_edge']} and video.max_pixels {size['longest_edge']} "
                        "(an unset one is the checkpoint's): the least must not be above the most. Set both")
    return {**kwargs, "size": size}


def _llava_features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    out = model.get_video_features(inputs["pixel_values_videos"], return_dict=True)
    return ClipFeatures(out.pooler_output[0])


def _llava_size(processor: VideoProcessor, num_frames: int, size: FrameSize,
                kwargs: Mapping[str, Any]) -> FrameSize:
    crop = processor.crop_size
    return FrameSize(crop["height"], crop["width"])


def _llava_tokens(processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize) -> int:
    """As LlavaNextVideoProcessor.replace_video_token: stride-2 pooling leaves a quarter of the patches."""
    patch = config.vision_config.patch_size
    return num_frames * ((size.height // patch) * (size.width // patch) // 4)


def _llava_patches(processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize) -> int:
    patch = config.vision_config.patch_size
    return num_frames * ((size.height // patch) * (size.width // patch) + 1)


def _fixed_pixels(processor: VideoProcessor, least: int | None, most: int | None) -> dict[str, Any]:
    if least is not None or most is not None:
        crop = processor.crop_size
        raise UserError(f"this model family resizes every frame to {crop['height']}x{crop['width']} pixels: leave out "
                        "video.min_pixels and video.max_pixels, and use video.num_frames to save tokens")
    return {}


FAMILIES: dict[str, Family] = {
    "qwen2_5_vl": Family(
        name="qwen2_5_vl",
        title="Qwen2.5-VL (Qwen/Qwen2.5-VL-3B-Instruct, -7B-, -32B-, -72B-)",
        features=_qwen_features,
        pack=pack_list,
        clip_inputs=("video_grid_thw", "second_per_grid_ts"),
        frames_per_step=2,
        position_axes=3,
        positions=mrope_positions,
        install_positions=install_mrope_rule,
        frame_size=_qwen_size,
        video_tokens=_qwen_tokens,
        vision_patches=_qwen_patches,
        pixel_kwargs=_qwen_pixels,
    ),
    "llava_next_video": Family(
        name="llava_next_video",
        title="LLaVA-NeXT-Video (llava-hf/LLaVA-NeXT-Video-7B-hf, -7B-DPO-hf, -34B-hf)",
        features=_llava_features,
        pack=pack_list,
        frame_size=_llava_size,
        video_tokens=_llava_tokens,
        vision_patches=_llava_patches,
        pixel_kwargs=_fixed_pixels,
    ),
}
