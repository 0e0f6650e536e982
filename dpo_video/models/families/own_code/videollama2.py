"""VideoLLaMA 2 and 2.1 as their authors publish them (model types `videollama2_mistral` and
`videollama2_qwen2`), on transformers' own CLIP or SigLIP and Mistral or Qwen2.

Published code: DAMO-NLP-SG/VideoLLaMA2, videollama2/. Shapes: B clips, F frames, S patches on a
frame's side, C width of the tower, D hidden size.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    LlavaOnevisionVideoProcessor,
    PretrainedConfig,
)
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import BaseModelOutputWithPooling

from dpo_video.core.errors import UserError
from dpo_video.models.families.family import (
    KEEP_UNQUANTIZED,
    Family,
    FrameSize,
    VideoProcessor,
    no_pixel_bounds,
    pack_tensor,
    square_size,
)
from dpo_video.models.families.own_code.beats import Beats, fill_tables
from dpo_video.models.families.own_code.flat_layout import (
    PLACEHOLDER,
    ClipProcessor,
    FlatConfig,
    clip_features,
    load_tokenizer,
    read_config,
    register_names,
    tower_patches,
)
from dpo_video.models.families.own_code.flat_model import FlatForCausalLM, FlatModel
from dpo_video.models.families.own_code.videollama2_audio import (
    audio_hearing,
    audio_inputs,
    audio_projector,
    audio_rows,
    audio_sizes,
    has_audio_branch,
    refused_audio,
)
from dpo_video.video import Frames

PADDING = {"stc_connector": 1, "stc_connector_v35": 0, "stp_connector": 0}
"""Connectors by what is put around a clip, in time and space, before every two steps become one."""
BLOCKS = 4
"""Convolutional blocks before that step, and after it."""
LAYER = -2
"""Of the tower, as every published training script has it."""
SYSTEM = (
    "<<SYS>>\nYou are a helpful, respectful and honest assistant. Always answer as helpfully as "
    "possible, while being safe.  Your answers should not include any harmful, unethical, racist, "
    "sexist, toxic, dangerous, or illegal content. Please ensure that your responses are socially "
    "unbiased and positive in nature.\nIf a question does not make any sense, or is not factually "
    "coherent, explain why instead of answering something not correct. If you don't know the "
    "answer to a question, please don't share false information.\n<</SYS>>"
)
"""What the published code puts before the turns on Mistral: Llama 2's own system message."""
NEAREST = "the nearest family is 'video_llama_3' (VideoLLaMA 3)"


class Videollama2MistralConfig(FlatConfig):
    model_type = "videollama2_mistral"
    text_type: ClassVar[str] = "mistral"


class Videollama2Qwen2Config(FlatConfig):
    model_type = "videollama2_qwen2"


class Connector(nn.Module):
    """The spatial-temporal convolution connector (VideoLLaMA 2, arXiv:2406.07476, sec. 2.2): RegNet
    blocks on each frame, a step over two frames and two by two patches, blocks again, two linear
    layers. Parts are named as published.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        width, hidden = config.vision_config.hidden_size, config.get_text_config().hidden_size
        kind = str(config.field("mm_projector_type"))
        self.s1 = _blocks(width, hidden)
        step = (
            nn.AvgPool3d(2)
            if kind == "stp_connector"
            else nn.Conv3d(hidden, hidden, 2, stride=2, padding=PADDING[kind])
        )
        self.sampler = nn.Sequential(step, nn.SiLU())
        self.s2 = _blocks(hidden, hidden)
        self.readout = nn.Sequential(
            nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """Return patches (B, F, S, S, C) as rows (B, n, D), a step in time after another."""
        clips = len(patches)
        frames = self.s1(patches.flatten(0, 1).permute(0, 3, 1, 2))
        steps = self.sampler(frames.unflatten(0, (clips, -1)).transpose(1, 2)).transpose(1, 2)
        merged = self.s2(steps.flatten(0, 1)).unflatten(0, (clips, -1))
        rows: Tensor = self.readout(merged.permute(0, 1, 3, 4, 2).flatten(1, 3))
        return rows


def _blocks(width: int, hidden: int) -> nn.Module:
    """Return timm's RegNet stage, whose names and arithmetic the published weights have."""
    from timm.layers.norm import LayerNorm2d  # here: an extra, which few families need
    from timm.models.regnet import RegStage

    return RegStage(
        depth=BLOCKS,
        in_chs=width,
        out_chs=hidden,
        stride=1,
        dilation=1,
        act_layer=nn.SiLU,
        norm_layer=LayerNorm2d,
    )


class Videollama2Model(FlatModel):
    """Tower, connector and language model without its head, with the audio branch of one that has
    it.
    """

    read = ("pixel_values_videos", "input_features")

    def add_projector(self, config: FlatConfig) -> None:
        """Set the connector, and the audio branch."""
        self.multi_modal_projector = Connector(config)
        if has_audio_branch(config):
            self.audio_tower = Beats(audio_sizes(config))
            self.mm_projector_a = audio_projector(config)

    def get_video_features(
        self, pixel_values_videos: Tensor, input_features: Tensor | None = None, **more: Any
    ) -> Any:
        """Return the rows of clips as `pooler_output`, those of their sounds (B, T, M) behind."""
        rows = self.encode(pixel_values_videos)
        if input_features is not None:
            heard = self.mm_projector_a(self.audio_tower(input_features))
            rows = torch.cat([rows, heard], dim=1)
        return BaseModelOutputWithPooling(pooler_output=rows)

    def encode(self, clips: Tensor) -> Tensor:
        """Return the rows (B, n, D) of clips (B, F, 3, H, W) of one length."""
        tower = self.vision_tower(clips.flatten(0, 1), output_hidden_states=True)
        patches = tower.hidden_states[LAYER]
        side = _side(self.config)
        patches = patches[:, -side * side :]  # CLIP's class token stands before them
        return self.multi_modal_projector(
            patches.unflatten(1, (side, side)).unflatten(0, clips.shape[:2])
        )


class Videollama2ForCausalLM(FlatForCausalLM):
    """A Videollama2Model with its head."""

    body = Videollama2Model
    _keys_to_ignore_on_load_missing: Any = (
        r"vision_tower\.(vision_model\.)?(head|post_layernorm)\.",
        r"audio_tower\.predictor\.",
    )
    """What nothing reads: behind the tower's layers, and BEATs' own words."""

    def tie_weights(
        self, missing_keys: set[str] | None = None, recompute_mapping: bool = True
    ) -> None:
        """Tie words, as transformers does at loading, and fill BEATs' tables."""
        super().tie_weights(missing_keys, recompute_mapping)
        if missing_keys and has_audio_branch(self.config):
            fill_tables(self.model.audio_tower, missing_keys, prefix="model.audio_tower.")


class Videollama2MistralForCausalLM(Videollama2ForCausalLM):
    """Named as the published class, whose names of weights it loads and saves."""

    config_class = Videollama2MistralConfig


class Videollama2Qwen2ForCausalLM(Videollama2ForCausalLM):
    """Named as the published class, whose names of weights it loads and saves."""

    config_class = Videollama2Qwen2Config


class Videollama2Processor(ClipProcessor):
    """Writes turns by the tokenizer's own chat template, as the published code does."""

    def __init__(
        self,
        video_processor: Any = None,
        tokenizer: Any = None,
        chat_template: Any = None,
        *,
        side: int,
        padding: int,
        system: str,
        of_sound: int = 0,
    ) -> None:
        self.side = side
        self.padding = padding
        self.system = system
        self.of_sound = of_sound
        super().__init__(video_processor, tokenizer, chat_template)

    def clip_tokens(self, num_frames: int) -> int:
        """Return the rows of features of a clip."""
        return connected_rows(num_frames, self.side, self.padding)

    def apply_chat_template(self, *values: Any, **named: Any) -> Any:
        """Return the text of turns, the system message of the published code before them."""
        conversation, *rest = values
        turns = [{**turn, "content": plain_text(turn["content"])} for turn in conversation]
        if self.system and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": self.system}, *turns]
        return self.tokenizer.apply_chat_template(turns, *rest, **named)


def plain_text(content: Any) -> str:
    """Return a message's text, the mark of its clip on a line before it.

    >>> plain_text([{"type": "video"}, {"type": "text", "text": "what happens ?"}])
    '<video>\\nwhat happens ?'
    """
    if isinstance(content, str):
        return content
    return "".join(
        f"{PLACEHOLDER}\n" if part["type"] == "video" else part["text"] for part in content
    )


def connected_rows(num_frames: int, side: int, padding: int) -> int:
    """Return the rows of features of a clip: every two frames, and patches, make one.

    >>> connected_rows(8, 24, 1), connected_rows(16, 27, 0)
    (845, 1352)
    """
    steps, rows = ((size + 2 * padding) // 2 for size in (num_frames, side))
    return steps * rows * rows


def _side(config: PretrainedConfig) -> int:
    return int(config.vision_config.image_size // config.vision_config.patch_size)


def _tokens(
    processor: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    return connected_rows(num_frames, _side(config), PADDING[config.field("mm_projector_type")])


def _tokenize(processor: Any, text: str) -> list[int]:
    """As the published code: the texts before and after a clip each by itself."""
    before, mark, after = text.partition(PLACEHOLDER)
    count = text.count(PLACEHOLDER)
    after = text[len(before) + count * len(mark) :]
    ids = processor.tokenizer([before, after], add_special_tokens=False)["input_ids"]
    return [*ids[0], *[processor.video_token_id] * count, *ids[1]]


def _process(
    processor: Any, text: str, frames: Frames, kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """As the published code: see _tokenize. Rows of a clip's sound follow those of its frames."""
    pixels = processor.video_processor(
        [frames.pixels], do_sample_frames=False, return_tensors="pt", **kwargs
    )
    heard: Mapping[str, Tensor] = {}
    rows = processor.clip_tokens(len(frames.pixels))
    if frames.sound is not None and processor.of_sound:
        heard = audio_inputs(frames.sound)
        rows += processor.of_sound
    clip = PLACEHOLDER * rows
    return {
        "pixel_values_videos": pixels["pixel_values_videos"],
        **heard,
        "input_ids": [_tokenize(processor, text.replace(PLACEHOLDER, clip, 1))],
        "text_replacement_offsets": [[{"replacement": clip}]],
    }


def _refuses(config: PretrainedConfig) -> str | None:
    """Return why the published code's own settings of a checkpoint have no counterpart here."""
    can_be: dict[str, tuple[Any, ...]] = {
        "mm_projector_type": tuple(PADDING),
        "mm_vision_select_layer": (LAYER,),
        "mm_vision_select_feature": (None, "patch"),
    }
    for name, values in can_be.items():
        if config.field(name) not in values:
            wanted = " or ".join("absent" if value is None else repr(value) for value in values)
            return f"its {name} is {config.field(name)!r}, and must be {wanted}; {NEAREST}"
    if config.vision_config.model_type not in ("clip_vision_model", "siglip_vision_model"):
        return f"its tower, {config.field('mm_vision_tower')!r}, is no CLIP or SigLIP; {NEAREST}"
    if has_audio_branch(config) and (reason := refused_audio(config)) is not None:
        return f"{reason}; {NEAREST}"
    if find_spec("timm") is None:
        return "its connector needs the package timm: pip install 'dpo-video[families]'"
    return None


def _processor(name: str, source: Mapping[str, Any]) -> Videollama2Processor:
    config = read_config(AutoConfig.from_pretrained(name, **source), name, source)
    tokenizer = load_tokenizer(name, source)
    processor = Videollama2Processor(
        _frames(config),
        tokenizer,
        tokenizer.chat_template,
        side=_side(config),
        padding=PADDING[config.field("mm_projector_type")],
        system=SYSTEM if config.text_type == "mistral" else "",
        of_sound=audio_rows(audio_sizes(config)) if has_audio_branch(config) else 0,
    )
    if processor.chat_template is not None:
        try:
            processor.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
        except TemplateError as error:
            raise UserError(
                f"the chat template of {name!r} refuses the system message that VideoLLaMA 2's "
                f"code puts before the turns: {error}. Use a revision of the checkpoint whose "
                "template takes one"
            ) from error
    return processor


def _frames(config: PretrainedConfig) -> LlavaOnevisionVideoProcessor:
    """Return what the published code makes of frames: CLIP's crop of the middle, or SigLIP's
    squeezing to a square.
    """
    side = config.vision_config.image_size
    square = {"height": side, "width": side}
    if config.vision_config.model_type == "siglip_vision_model":
        half = [0.5, 0.5, 0.5]
        return LlavaOnevisionVideoProcessor(size=square, image_mean=half, image_std=half)
    return LlavaOnevisionVideoProcessor(
        size={"shortest_edge": side}, do_center_crop=True, crop_size=square
    )


for config_class, model_class in (
    (Videollama2MistralConfig, Videollama2MistralForCausalLM),
    (Videollama2Qwen2Config, Videollama2Qwen2ForCausalLM),
):
    register_names(
        model_class.__name__,
        WeightRenaming(r"^model\.mm_projector\.", r"^model.multi_modal_projector."),
    )
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModelForImageTextToText.register(config_class, model_class, exist_ok=True)

ROW = Family(
    name="videollama2",
    title="VideoLLaMA 2 and 2.1 on Mistral or Qwen2 (DAMO-NLP-SG/VideoLLaMA2-7B, -7B-16F, "
    "VideoLLaMA2.1-7B-16F, -7B-AV)",
    also=("videollama2_mistral", "videollama2_qwen2"),
    features=clip_features,
    pack=pack_tensor,
    process=_process,
    tokenize=_tokenize,
    load_processor=_processor,
    read_config=read_config,
    refuses=_refuses,
    hearing=audio_hearing,
    end_of_turn="<|im_end|>",
    frames_per_step=2,
    own_names=lambda config: True,
    frame_size=square_size,
    keep_unquantized=(*KEEP_UNQUANTIZED, r".*mm_projector_a"),
    video_tokens=_tokens,
    vision_patches=tower_patches,
    pixel_kwargs=no_pixel_bounds,
    formula="(F/2) x ((H/14) / 2) x ((W/14) / 2); with stc_connector one step more on each axis",
    quirks="Needs the package timm: `pip install dpo-video[families]`. Every two frames become one "
    "step: the number of frames is even, and the checkpoints were trained with 8 or 16 "
    "(`video.num_frames`). CLIP sees the middle square of a frame, SigLIP all of it squeezed to "
    "one. -7B-AV hears a clip, in 8 pieces of 2 seconds, in 1,496 tokens.",
)
