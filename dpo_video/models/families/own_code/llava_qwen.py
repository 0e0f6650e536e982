"""LLaVA-Video as its authors publish it (model type `llava_qwen`), on transformers' own SigLIP and
Qwen2.

Published code: LLaVA-VL/LLaVA-NeXT, llava/model/. Shapes: F frames, S patches on a frame's side, R
on it after pooling, D hidden size.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    LlavaOnevisionVideoProcessor,
    PretrainedConfig,
)
from transformers.core_model_loading import WeightRenaming
from transformers.models.llava_onevision.modeling_llava_onevision import (
    LlavaOnevisionMultiModalProjector,
)

from dpo_video.models.families.family import (
    Family,
    FrameSize,
    VideoProcessor,
    no_pixel_bounds,
    pack_tensor,
    square_size,
)
from dpo_video.models.families.own_code.flat_layout import (
    ClipProcessor,
    FlatConfig,
    clip_features,
    load_tokenizer,
    read_config,
    register_names,
    tower_patches,
)
from dpo_video.models.families.own_code.flat_model import FlatForCausalLM, FlatModel

STRIDE = 2
"""Patches on a side that pooling makes one of; LLaVA-NeXT's code has no other for a video."""
NEWLINES = ("grid", "frame", "one_token", "no_token")
NEWLINE = "one_token"
"""After the clip: the published code's for a config without the field."""
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for c in message['content'] %}"
    "{% if c['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The published conversation `qwen_1_5`, as LLaVA-Video's model card and lmms-eval use it."""
NEAREST = "the nearest family is 'llava_onevision' (llava-hf/llava-onevision-qwen2-7b-ov-hf)"


class LlavaQwenConfig(FlatConfig):
    model_type = "llava_qwen"

    @classmethod
    def used_tower(cls, tower: Mapping[str, Any]) -> dict[str, Any]:
        """The published code drops the tower's last layer and its head."""
        layers = tower["num_hidden_layers"] - 1
        return {**tower, "num_hidden_layers": layers, "vision_use_head": False}


class LlavaQwenModel(FlatModel):
    """Pooling and newlines as the config has them."""

    config_class = LlavaQwenConfig

    def add_projector(self, config: FlatConfig) -> None:
        """Set the projector and the newline."""
        self.multi_modal_projector = LlavaOnevisionMultiModalProjector(config)
        self.image_newline = nn.Parameter(torch.zeros(config.get_text_config().hidden_size))

    def encode(self, clips: Tensor) -> Tensor:
        """Return the rows (B, n, D) of clips (B, F, 3, H, W) of one length."""
        states = self.vision_tower(clips.flatten(0, 1), output_hidden_states=True)
        pooled = self.apply_pooling(self.multi_modal_projector(states.hidden_states[-1]))
        pooled = pooled.unflatten(0, clips.shape[:2])
        return torch.stack([self.with_newlines(clip) for clip in pooled])

    def apply_pooling(self, image_features: Tensor) -> Tensor:
        """Return patches (F, S x S, D) pooled to (F, R, R, D)."""
        side = math.isqrt(image_features.shape[1])
        grid = image_features.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        mode = self.config.field("mm_spatial_pool_mode")
        if mode == "bilinear":
            rows = pooled_side(self.config)
            grid = nn.functional.interpolate(grid, size=(rows, rows), mode="bilinear")
        else:
            pool = nn.functional.max_pool2d if mode == "max" else nn.functional.avg_pool2d
            grid = pool(grid, STRIDE)
        return grid.permute(0, 2, 3, 1)

    def with_newlines(self, clip: Tensor) -> Tensor:
        """Return the rows (n, D) of a clip (F, R, R, D): a newline after each row of patches, each
        frame, or all.
        """
        position = newline_position(self.config)
        newline = self.image_newline.to(clip)
        if position == "grid":
            ends = newline.expand(*clip.shape[:2], 1, -1)
            return torch.cat([clip, ends], dim=2).flatten(0, 2)
        if position == "frame":
            ends = newline.expand(len(clip), 1, -1)
            return torch.cat([clip.flatten(1, 2), ends], dim=1).flatten(0, 1)
        rows = clip.flatten(0, 2)
        return rows if position == "no_token" else torch.cat([rows, newline[None]])


class LlavaQwenForCausalLM(FlatForCausalLM):
    """Named as the published class, whose names of weights it loads and saves."""

    config_class = LlavaQwenConfig
    body = LlavaQwenModel


class LlavaQwenProcessor(ClipProcessor):
    """Writes a clip's newlines, and its times where the checkpoint was trained with them."""

    def __init__(
        self,
        video_processor: Any = None,
        tokenizer: Any = None,
        chat_template: Any = None,
        *,
        side: int,
        newline: str,
        add_time: bool,
    ) -> None:
        self.side = side
        self.newline = newline
        self.add_time = add_time
        super().__init__(video_processor, tokenizer, chat_template)

    def clip_tokens(self, num_frames: int) -> int:
        """Return the rows of features of a clip."""
        return num_clip_rows(num_frames, self.side, self.newline)

    def replace_video_token(self, video_inputs: Any, video_idx: int, **more: Any) -> str:
        """Return placeholders, and the time instruction on a line of its own."""
        marks = super().replace_video_token(video_inputs, video_idx)
        if not self.add_time:
            return marks
        return f"{marks}\n{time_instruction(video_inputs['video_metadata'][video_idx])}"


def time_instruction(metadata: Any) -> str:
    """Return what LLaVA-Video is told of a clip's times, as its training and lmms-eval write it."""
    times = ",".join(f"{seconds:.2f}s" for seconds in metadata.timestamps)
    return (
        f"The video lasts for {metadata.duration:.2f} seconds, and {len(metadata.timestamps)} "
        f"frames are uniformly sampled from it. These frames are located at {times}.Please answer "
        "the following questions related to this video."
    )


def newline_position(config: PretrainedConfig) -> str:
    """Return where newlines go."""
    return str(config.field("mm_newline_position", NEWLINE))


def pooled_side(config: PretrainedConfig) -> int:
    """Return the patches on a frame's side after pooling: bilinear keeps the odd one."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    return -(-side // STRIDE) if config.field("mm_spatial_pool_mode") == "bilinear" else side // 2


def num_clip_rows(num_frames: int, side: int, newline: str) -> int:
    """Return the rows of features of a clip.

    >>> [num_clip_rows(2, 3, newline) for newline in ("grid", "frame", "one_token", "no_token")]
    [24, 20, 19, 18]
    """
    ends = {"grid": num_frames * side, "frame": num_frames, "one_token": 1, "no_token": 0}
    return num_frames * side * side + ends[newline]


def _tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return num_clip_rows(num_frames, pooled_side(config), newline_position(config))


def _refuses(config: PretrainedConfig) -> str | None:
    """Return why the published code's own settings of a checkpoint have no counterpart here."""
    can_be: dict[str, tuple[Any, ...]] = {
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_resampler_type": (None,),
        "mm_spatial_pool_mode": ("average", "max", "bilinear"),
        "mm_spatial_pool_stride": (None, STRIDE),
        "add_faster_video": (None, False),
    }
    for name, values in can_be.items():
        if config.field(name) not in values:
            wanted = " or ".join("absent" if value is None else repr(value) for value in values)
            return f"its {name} is {config.field(name)!r}, and must be {wanted}; {NEAREST}"
    newline = config.field("mm_newline_position", NEWLINE)
    if newline not in NEWLINES:
        wanted = " or ".join(["absent", *map(repr, NEWLINES)])
        return f"its mm_newline_position is {newline!r}, and must be {wanted}; {NEAREST}"
    merge = str(config.field("mm_patch_merge_type", "flat"))
    if not (merge.startswith("spatial") and "unpad" in merge):
        return f"its mm_patch_merge_type is {merge!r}, which has no newline; {NEAREST}"
    if config.vision_config.model_type != "siglip_vision_model":
        return f"its tower, {config.field('mm_vision_tower')!r}, is no SigLIP; {NEAREST}"
    return None


def _processor(name: str, source: Mapping[str, Any]) -> LlavaQwenProcessor:
    config = AutoConfig.from_pretrained(name, **source)
    config = read_config(config, name, source)
    side = config.vision_config.image_size
    half = [0.5, 0.5, 0.5]
    return LlavaQwenProcessor(
        LlavaOnevisionVideoProcessor(
            size={"height": side, "width": side}, image_mean=half, image_std=half
        ),
        load_tokenizer(name, source),
        TEMPLATE,
        side=pooled_side(config),
        newline=newline_position(config),
        add_time=bool(config.field("add_time_instruction")),
    )


register_names(
    "LlavaQwenForCausalLM",
    WeightRenaming(r"^model\.mm_projector\.0", r"^model.multi_modal_projector.linear_1"),
    WeightRenaming(r"^model\.mm_projector\.2", r"^model.multi_modal_projector.linear_2"),
)
AutoConfig.register("llava_qwen", LlavaQwenConfig, exist_ok=True)
AutoModelForImageTextToText.register(LlavaQwenConfig, LlavaQwenForCausalLM, exist_ok=True)

ROW = Family(
    name="llava_qwen",
    title="LLaVA-Video (lmms-lab/LLaVA-Video-7B-Qwen2, -7B-Qwen2-Video-Only, -72B-Qwen2)",
    features=clip_features,
    pack=pack_tensor,
    load_processor=_processor,
    read_config=read_config,
    refuses=_refuses,
    end_of_turn="<|im_end|>",
    own_names=lambda config: True,
    frame_size=square_size,
    video_tokens=_tokens,
    vision_patches=tower_patches,
    pixel_kwargs=no_pixel_bounds,
    formula="F x R x (R + 1), R = (H/14) / 2",
    quirks="Every frame is squeezed to a square. The prompt says how long the clip is and when its "
    "frames are, where the checkpoint was trained with that.",
)
