"""What differs between model families, one row each; everything else in this package is common to
all.

Shapes: P prompt tokens, n video tokens of a clip, D hidden size, F frames.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from dpo_video.core.errors import UserError
from dpo_video.models.positions import plain_positions
from dpo_video.video import Frames
from dpo_video.video.frames import SoundFormat

Model = Any
"""A bare transformers model: PreTrainedModel types the submodules and methods that rows call as
Tensor | Module.
"""
VideoProcessor = Any
"""What resizes frames: a transformers video processor, or image processor; their base classes
declare no sizes.
"""

LINEAR_PATH = r".*(language_model|text_model)\.(model\.)?layers\.\d+\."
"""Where a layer of the language model stands, as a regular expression."""
LORA_TARGETS = LINEAR_PATH + (
    r"(self_attn\.(q|k|v|o)_proj|mlp\.(shared_experts?\.)?(gate|up|down|gate_up)_proj|"
    r"linear_attn\.(in_proj_\w+|out_proj))"
)
"""Matches every linear layer of the language model of most families, and no other module; of a
mixture of experts those that every token runs through.
"""
ROUTER = re.compile(r".*\.(mlp\.gate|router\.proj|shared_expert_gate)$")
"""Names of what decides between experts: never tuned."""
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")
"""The weights of experts in mixtures of transformers 5."""
FUSED_EXPERTS = (
    "the experts' weights are fused in tensors that bitsandbytes cannot put in 4 bit, and they are "
    "most of the model"
)
"""Why nf4 is refused for a mixture of experts."""
NAMES_OF_EXPERTS = (
    "PEFT (0.21) takes the names of layers in its tower and projector for those of its experts"
)
"""Why tower and projector are not tuned in some mixtures of experts."""

# transformers >= 5 matches these by re.match from the start of a module's full name, and a list
# given replaces the default protection of lm_head (transformers/quantizers/base.py,
# get_modules_to_not_convert).
KEEP_UNQUANTIZED = (
    r".*visual",
    r".*_tower",
    r".*vision_model",
    r".*projector",
    r".*connector",
    r".*merger",
    r".*qformer",
    r".*language_projection",
    r".*lm_head",
)


RECURRENT = (
    "recurrent layers of its language model read one token after another, whatever a mask says"
)
"""Why a prefix cannot be shared in most families where it cannot."""
SLIDING = "layers of its language model see a window of the last tokens only, not the whole prefix"
"""The same, for a mask that trees do not follow."""


@dataclass(frozen=True, slots=True)
class ClipFeatures:
    """What the vision tower and projector made of one clip: rows of the language model's input."""

    embeddings: Tensor
    """(n, D), one row per placeholder token, in their order."""
    layers: tuple[Tensor, ...] = ()
    """(n, D) each: features added in early layers (Qwen3-VL's deepstack); empty elsewhere."""
    sound: Tensor | None = None
    """(m, D), one row per placeholder token of the sound, where that has a token of its own
    (`Hearing.placeholder`); None of a clip without sound.
    """

    def __len__(self) -> int:
        """Return how many tokens of a prompt they stand for."""
        return len(self.embeddings) + (0 if self.sound is None else len(self.sound))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """How a checkpoint takes a clip's sound; `process` finds it in `Frames.sound`."""

    form: SoundFormat
    tokens: Callable[[int], int]
    """Rows of features of so many samples of sound, 0.1 s or more."""
    inputs: tuple[str, ...]
    """Processor outputs that only the audio encoder reads; they are not there for a clip without
    sound, and are dropped once a clip is encoded.
    """
    width: int
    """Of the audio encoder's residual stream."""
    inner: int
    """Of its MLP."""
    positions: Callable[[int], float]
    """Positions of the encoder for so many samples of sound, for the memory estimate."""
    most_tokens: int | None = None
    """Rows of features that no sound exceeds; None where a longer one has more."""
    seconds: Callable[[float], float] = lambda seconds: seconds
    """Seconds that are heard of so many, fewer where pieces of a sound are read."""
    placeholder: int | None = None
    """Token id that stands for one row of the sound's features; None where these follow those of
    the frames in `ClipFeatures.embeddings`, under the same token.
    """


@dataclass(frozen=True, slots=True)
class FrameSize:
    """Height and width that a frame has when it enters the tower, in pixels."""

    height: int
    width: int
    slices: int | None = None
    """The most slices that it is cut into, where a recipe says so: below 2 it enters as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """Sizes of a vision tower."""

    width: int
    """Of the residual stream."""
    inner: int
    """Of the MLP."""
    patch: int
    """Pixels on a patch's side."""


def is_router(name: str) -> bool:
    """Return whether a linear layer decides between experts."""
    return ROUTER.fullmatch(name) is not None


def vision_tower(config: PretrainedConfig) -> Tower:
    """Return the sizes that most vision configs state."""
    vision = config.vision_config
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    return Tower(width=vision.hidden_size, inner=vision.intermediate_size, patch=patch)


def hears_nothing(config: PretrainedConfig) -> None:
    """Return that no checkpoint of a family hears its clips: most read frames alone."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A row of FAMILIES. Functions take the bare transformers model, never a PEFT wrapper."""

    name: str
    """The checkpoint's `model_type`."""
    title: str
    """What people call it, with its known checkpoints."""
    also: tuple[str, ...] = ()
    """Other model types that the row is for."""
    config_part: str | None = None
    """The section of a whole checkpoint's config that is trained, its weights named by it: that of
    `thinker_config` are `thinker.*`.
    """
    features: Callable[[Model, Mapping[str, Tensor]], ClipFeatures]
    """Tower and projector on one clip's processor outputs."""
    pack: Callable[[Sequence[ClipFeatures]], ModelOutput]
    """Features of several clips, of any frame counts, as the forward wants them."""
    modality: Literal["video", "image"] = "video"
    """Key of `mm_encoder_outputs`."""
    frames_as: Literal["video", "images"] = "video"
    """What frames are to chat template and processor: one video, or an image each, one after
    another.
    """
    prompt_token: Callable[[Any], str] = field(default=lambda processor: str(processor.video_token))
    """What the chat template puts where the clip goes, or each of its frames as images; the
    processor expands it.
    """
    chat_template: str | None = None
    """Used where a checkpoint comes without one."""
    process: Callable[[Any, str, Frames, Mapping[str, Any]], Mapping[str, Any]] | None = None
    """Calls the processor on a prompt's text, frames and `videos_kwargs` in the family's own way.

    It returns the processor's outputs, `text_replacement_offsets` among them; None is
    `process_frames` in prompts.py.
    """
    encode: Literal["once", "in_forward"] = "once"
    """`in_forward` where features depend on the question: no two questions share them, and each
    forward makes its rows' own.
    """
    prompt_inputs: Callable[[Any, str], Mapping[str, Tensor]] | None = None
    """What `features` reads of the question, from the processor and its text: only under
    `encode="in_forward"`.
    """
    language: Callable[[Model], Model] | None = None
    """The language model with its head, where the model's own forward takes pixels only.

    Features are then put in the place of the placeholders' embeddings here, and it runs on these.
    None where the forward takes `mm_encoder_outputs`.
    """
    auto_model: Any = AutoModelForImageTextToText
    """The transformers class by which a checkpoint is loaded."""
    load_processor: Callable[[str, Mapping[str, Any]], Any] | None = None
    """Makes the processor from a folder or hub id and `from_pretrained`'s keywords; None is
    AutoProcessor.
    """
    read_config: Callable[[PretrainedConfig, str, Mapping[str, Any]], PretrainedConfig] | None = (
        None
    )
    """Completes a config, from the folder or hub id and `from_pretrained`'s keywords, where a
    repository's own says less than the others.
    """
    refuses: Callable[[PretrainedConfig], str | None] = field(default=lambda config: None)
    """Why a checkpoint of this model type cannot be trained here; None where it can."""
    hearing: Callable[[PretrainedConfig], Hearing | None] = field(default=hears_nothing)
    """How a checkpoint hears, from its config; None where it does not."""
    pixel_inputs: tuple[str, ...] = ("pixel_values_videos",)
    """Processor outputs that only the tower reads; they are dropped once a clip is encoded."""
    clip_inputs: tuple[str, ...] = ()
    """Other per-clip processor outputs, (1, ...) each: kept, and concatenated over the clips of a
    batch.
    """
    placeholder: Callable[[PretrainedConfig], int] = field(
        default=lambda config: int(config.video_token_id)
    )
    """Token id that stands for one row of features: `prompt_token` in most families, not in all."""
    frames_per_step: int = 1
    """Frames that the tower takes at a time: a clip gets a multiple of it (FramePool's
    `multiple_of`).
    """
    position_axes: Literal[1, 3] = 1
    """3 under M-RoPE: time, height, width."""
    positions: Callable[[Model, Tensor, Mapping[str, Tensor]], Tensor] = plain_positions
    """(axes, P) positions of one prompt from its ids (P,) and its other inputs."""
    install_positions: Callable[[Model, str], None] | None = None
    """Applies `model.positions`; None where there is only one rule."""
    end_of_turn: str | tuple[str, ...] | None = None
    """Token that ends an answer, or several of which the first that the tokenizer has does; where
    it has none of them, and for None, it is the tokenizer's EOS.
    """
    open_prompt: bool = False
    """Whether an answer follows the prompt's text without a mark: the ids of both are joined, as
    the text of both might be read as other words.
    """
    stock_logits: Callable[[Model, Mapping[str, Tensor]], Tensor] = field(
        default=lambda model, inputs: model(**inputs, use_cache=False).logits
    )
    """(1, T, V) logits of the model's own call on the processor's outputs: what features are held
    against.
    """
    lora_targets: str = LORA_TARGETS
    lora_excludes: str | None = None
    """What LoRA leaves alone, by full name: a tower that no clip goes through. PEFT is told so too:
    for some models of experts PEFT (0.21) turns a pattern into bare names (`q_proj`), which stand
    in a tower as well.
    """
    no_tower_lora: str | None = None
    """Why `train.tune` refuses projector and tower; None where it does not."""
    own_names: Callable[[PretrainedConfig], bool] = field(default=lambda config: False)
    """Whether the language model's layers have other names here than in the code that a checkpoint
    was published with, so that an adapter fits no other program.
    """
    expert_parameters: tuple[str, ...] = ()
    """How the names of the experts' fused weights end, (E, out, in) each, which LoRA tunes under
    `train.lora.experts`; none for a model without experts.
    """
    untuned: Callable[[str], bool] = field(default=lambda name: False)
    """Whether a linear layer of the text decoder, by its name there, is left out of `lora_targets`
    on purpose, such as a router of experts.
    """
    no_4_bit: str | None = None
    """Why `model.quantize=nf4` is refused; None where it is not."""
    keep_unquantized: tuple[str, ...] = KEEP_UNQUANTIZED
    shared_prefix: bool = True
    """False where answers cannot share their prompt's computation."""
    why_not_shared: str = ""
    """The reason then: what follows "because"."""
    block_type: int | None = None
    """Value of `mm_token_type_ids` whose tokens see each other, later ones too; None: all attention
    is causal.
    """
    context_length: Callable[[PretrainedConfig], int] = field(
        default=lambda config: int(config.get_text_config().max_position_embeddings)
    )
    frame_size: Callable[[VideoProcessor, int, FrameSize, Mapping[str, Any]], FrameSize]
    """Size after resizing, from the processor, the number of frames, the size on disk and
    `videos_kwargs`.
    """
    resized: Callable[[VideoProcessor, int, FrameSize, Mapping[str, Any]], FrameSize] | None = None
    """Size to which the processor resizes whole frames, before it crops any; arguments as
    `frame_size`. The processor leaves frames of that size as they are. None where it is not stated.
    """
    video_tokens: Callable[[VideoProcessor, PretrainedConfig, int, FrameSize], int]
    """Placeholder tokens of a clip, from its number of frames and its size after resizing."""
    deep_layers: Callable[[PretrainedConfig], int] = field(default=lambda config: 0)
    """How many early layers of the language model take features of their own:
    `ClipFeatures.layers`.
    """
    vision_patches: Callable[[VideoProcessor, PretrainedConfig, int, FrameSize], int]
    """Tokens that the tower itself sees, for the memory estimate."""
    pixel_kwargs: Callable[[VideoProcessor, int | None, int | None], dict[str, Any]]
    """The processor's `videos_kwargs` (`images_kwargs`) for `video.min_pixels` and
    `video.max_pixels`.
    """
    formula: str
    """Placeholder tokens of a clip in words: F frames of H x W pixels after resizing."""
    per_clip_bounds: frozenset[Literal["min", "max"]] = frozenset()
    """Bounds on pixels that the processor holds against all frames of a clip together; recipes give
    them per frame.
    """
    tower: Callable[[PretrainedConfig], Tower] = field(default=lambda config: vision_tower(config))
    """Sizes of the vision tower, for the memory estimate."""
    finish_prompt: Callable[[Any, str], str] = field(default=lambda processor, text: text)
    """What the processor does to a prompt's text before it tokenizes it."""
    tokenize: Callable[[Any, str], list[int]] | None = None
    """Ids of a prompt's text, from the processor; None is the tokenizer's own call."""
    compresses: bool = False
    """Whether near-duplicate tokens are dropped by content: `video_tokens` is then the most that a
    clip takes.
    """
    quirks: str = ""
    """What a user of this family should know, for docs/families.md."""


def no_pixel_bounds(
    processor: VideoProcessor, min_pixels: int | None, max_pixels: int | None
) -> dict[str, Any]:
    """Return {} for families that give every frame the checkpoint's size; raise UserError where a
    recipe bounds it.
    """
    if min_pixels is None and max_pixels is None:
        return {}
    raise UserError(
        "this model family gives every frame the size that its checkpoint names: leave out "
        "video.min_pixels and video.max_pixels, and use video.num_frames to save tokens"
    )


def bounded_slices(
    min_pixels: int | None, max_pixels: int | None, *, square: int, most: int
) -> int | None:
    """Return as many slices of `square` pixels as `video.max_pixels` has room for, at most the
    checkpoint's; None where it is left out.
    """
    if min_pixels is not None:
        raise UserError(
            "this model family enlarges small frames itself: leave out video.min_pixels"
        )
    if max_pixels is None:
        return None
    if max_pixels < square:
        raise UserError(
            f"video.max_pixels is {max_pixels}, and this model family reads no frame at less than "
            f"{square}: set it to {square}, which leaves out slices, or leave it out"
        )
    return min(max_pixels // square, most)


def square_size(
    processor: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]
) -> FrameSize:
    """Return the one size that all frames are brought to: that of the crop where the processor
    crops.
    """
    chosen = processor.crop_size if processor.do_center_crop else processor.size
    return FrameSize(chosen["height"], chosen["width"])


def whole_patches(size: FrameSize, patch: int | Sequence[int]) -> int:
    """Return the whole patches of one frame; `patch` is their side, or height and width."""
    height, width = (patch, patch) if isinstance(patch, int) else patch
    return (size.height // height) * (size.width // width)


def pack_tensor(clips: Sequence[ClipFeatures]) -> ModelOutput:
    """Return features of all clips as one tensor (n, D), in order, for models that do not take a
    list.
    """
    return BaseModelOutputWithPooling(pooler_output=torch.cat([clip.embeddings for clip in clips]))


def pack_list(clips: Sequence[ClipFeatures]) -> ModelOutput:
    """Return features as a list with one tensor per clip, which most models concatenate
    themselves.
    """
    embeddings: Any = [clip.embeddings for clip in clips]  # declared as one tensor, read as a list
    return BaseModelOutputWithPooling(pooler_output=embeddings)
