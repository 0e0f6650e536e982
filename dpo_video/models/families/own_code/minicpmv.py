"""MiniCPM-V 2.6 as its authors publish it (model type `minicpmv`), on transformers' own tower of
Idefics 2 and Qwen2; the resampler between them is here.

Published code: modeling_minicpmv.py, modeling_navit_siglip.py and resampler.py of
openbmb/MiniCPM-V-2_6. Shapes: N frames and slices, L patches, D hidden size.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2ForCausalLM,
)
from transformers.models.idefics2.modeling_idefics2 import (
    Idefics2VisionEmbeddings,
    Idefics2VisionTransformer,
)
from transformers.utils.hub import cached_file

from dpo_video.core.errors import UserError
from dpo_video.core.strict_json import loads_foreign
from dpo_video.models.families.family import (
    KEEP_UNQUANTIZED,
    ClipFeatures,
    Family,
    FrameSize,
    Model,
    VideoProcessor,
    bounded_slices,
    pack_tensor,
    whole_patches,
)
from dpo_video.models.families.own_code.flat_layout import FlatConfig
from dpo_video.models.families.own_code.minicpm_frames import (
    CLIP,
    FRAME,
    SETTINGS,
    SLICE,
    FrameReader,
    MiniCPMVProcessor,
)
from dpo_video.video import Frames

HEAD = 128
"""Width of a head of the resampler."""
AT_ONCE = 16
"""Frames or slices that the tower takes at a time, as the published `vision_batch_size`."""
SLICES = "max_slice_nums"
NEAREST = "the nearest family is 'minicpmv4_6' (openbmb/MiniCPM-V-4.6)"


class MiniCPMVConfig(FlatConfig):
    model_type = "minicpmv"

    @classmethod
    def sorted_fields(cls, flat: Mapping[str, Any]) -> dict[str, Any]:
        """As published, the tower's last layer is left out where the config says so."""
        made = super().sorted_fields(flat)
        tower = dict(made["vision_config"])
        tower["num_hidden_layers"] -= bool(flat.get("drop_vision_last_layer", True))
        return {**made, "vision_config": tower}

    @classmethod
    def used_tower(cls, tower: Mapping[str, Any]) -> dict[str, Any]:
        """SigLIP with positions of pictures of any shape, which is Idefics 2's."""
        return {**tower, "model_type": "idefics2_vision"}


class PatchEmbeddings(Idefics2VisionEmbeddings):
    """Patches of pictures of one size, all of them seen."""

    def forward(self, pixel_values: Tensor, patch_attention_mask: Tensor) -> Tensor:
        """Return (N, L, width) of pictures (N, 3, H, W)."""
        patches = self.patch_embedding(pixel_values)
        rows, columns = patches.shape[2:]
        places = patch_places(rows, columns, self.num_patches_per_side)
        embedded: Tensor = self.position_embedding(places.to(patches.device))
        return patches.flatten(2).transpose(1, 2) + embedded


def patch_places(rows: int, columns: int, side: int) -> Tensor:
    """Return (rows x columns,): each patch's among side x side places, its grid stretched to them.

    As published, step by step: between two places rounding decides, and transformers 5.24 rounds
    otherwise (in a picture of 49 or 58 patches a side, for 70 places).
    """
    edges = torch.arange(1 / side, 1.0, 1 / side, device="cpu")
    row, column = (
        torch.bucketize(
            torch.arange(0, 1 - 1e-6, float(1 / torch.tensor(count, device="cpu")), device="cpu"),
            edges,
            right=True,
        )
        for count in (rows, columns)
    )
    return (row[:, None] * side + column).flatten()


class Resampler(nn.Module):
    """Queries that look at the patches of a picture, their places added to them as sines."""

    def __init__(self, queries: int, width: int, tower: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(queries, width))
        same = tower == width
        self.kv_proj = nn.Identity() if same else nn.Linear(tower, width, bias=False)
        self.attn = nn.MultiheadAttention(width, width // HEAD)
        self.ln_q = nn.LayerNorm(width, eps=1e-6)
        self.ln_kv = nn.LayerNorm(width, eps=1e-6)
        self.ln_post = nn.LayerNorm(width, eps=1e-6)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, width))

    def forward(self, patches: Tensor, rows: int, columns: int) -> Tensor:
        """Return (N, queries, D) for patches (N, rows x columns, tower's width)."""
        values = self.ln_kv(self.kv_proj(patches)).transpose(0, 1)
        places = sines(rows, columns, values.shape[-1]).to(values)
        queries = self.ln_q(self.query)[:, None].expand(-1, len(patches), -1)
        seen, _ = self.attn(queries, values + places[:, None], values, need_weights=False)
        result: Tensor = self.ln_post(seen.transpose(0, 1)) @ self.proj
        return result


def sines(rows: int, columns: int, width: int) -> Tensor:
    """Return (rows x columns, width): a patch's column in the first half, its row in the second."""
    speeds = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    turns = [place.flatten()[:, None] * speeds for place in (column, row)]
    return torch.cat([part for turn in turns for part in (turn.sin(), turn.cos())], dim=1).float()


class MiniCPMV(PreTrainedModel, GenerationMixin):
    """Named as the published class, with its names of parts and weights."""

    config_class = MiniCPMVConfig
    base_model_prefix = "llm"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Qwen2DecoderLayer"]  # noqa: RUF012  # as transformers declares it
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: MiniCPMVConfig) -> None:
        super().__init__(config)
        text: Any = config.text_config
        tower: Any = config.vision_config
        self.llm = Qwen2ForCausalLM(text)
        self.vpm = Idefics2VisionTransformer(tower)
        self.vpm.embeddings = PatchEmbeddings(tower)
        queries = int(config.field("query_num", 64))
        self.resampler = Resampler(queries, text.hidden_size, tower.hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> Any:
        """Return the language model's."""
        return self.llm.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """Return the language model's head."""
        return self.llm.get_output_embeddings()

    def read_pictures(self, pixels: Tensor) -> Tensor:
        """Return (N, queries, D) of pictures (N, 3, H, W)."""
        patch = self.config.vision_config.patch_size
        rows, columns = pixels.shape[2] // patch, pixels.shape[3] // patch
        states = [
            self.resampler(self.vpm(some.to(self.dtype)).last_hidden_state, rows, columns)
            for some in pixels.split(AT_ONCE)
        ]
        return torch.cat(states)

    def read_clip(self, pixel_values: Tensor, slice_values: Tensor) -> Tensor:
        """Return the rows (n, D) of a clip: of each frame, then of its slices."""
        parts = self.read_pictures(pixel_values)[:, None]
        if slice_values.shape[1]:
            pieces = self.read_pictures(slice_values.flatten(0, 1))
            parts = torch.cat([parts, pieces.unflatten(0, slice_values.shape[:2])], dim=1)
        return parts.flatten(0, 2)

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor, slice_values: Tensor, **inputs: Any
    ) -> Any:
        """Return logits for ids (1, T) whose placeholders stand for a clip."""
        embeddings = self.get_input_embeddings()(input_ids)
        holes = (input_ids == self.config.image_token_index)[..., None]
        rows = self.read_clip(pixel_values, slice_values).to(embeddings)
        return self.llm(inputs_embeds=embeddings.masked_scatter(holes, rows), **inputs)


def _file(name: str, file: str, source: Mapping[str, Any]) -> Path:
    where = {key: source[key] for key in ("revision", "local_files_only") if key in source}
    return Path(str(cached_file(name, file, **where)))


def _tokenizer(name: str, source: Mapping[str, Any], reader: FrameReader) -> Any:
    """Return the tokenizer of tokenizer.json, in which every mark is a token of its own."""
    where = {key: source[key] for key in ("revision", "local_files_only") if key in source}
    tokenizer = PreTrainedTokenizerFast.from_pretrained(name, **where)
    known = tokenizer.get_vocab()
    marks = [*FRAME, *SLICE, reader.placeholder]
    missing = [mark for mark in marks if mark not in known]
    if missing:
        raise UserError(
            f"the tokenizer of {name!r} has no token {missing[0]!r}, by which MiniCPM-V 2.6 marks "
            "frames: use the checkpoint's own tokenizer.json"
        )
    tokenizer.add_tokens(marks, special_tokens=True)
    return tokenizer


def _read_config(
    config: PretrainedConfig, name: str, source: Mapping[str, Any]
) -> PretrainedConfig:
    if _refuses(config) is None:
        processor = _processor(name, source)
        mark = processor.video_processor.placeholder
        config.image_token_index = processor.tokenizer.convert_tokens_to_ids(mark)
    return config


def _refuses(config: PretrainedConfig) -> str | None:
    version = str(config.field("version"))
    if version != "2.6":
        return (
            f"its config has version {version}, and of this model type only MiniCPM-V 2.6 "
            f"(openbmb/MiniCPM-V-2_6) can be: others have another language model or resampler; "
            f"{NEAREST}"
        )
    return None


def _processor(name: str, source: Mapping[str, Any]) -> MiniCPMVProcessor:
    file = _file(name, SETTINGS, source)
    reader = FrameReader.of(loads_foreign(file.read_text(encoding="utf-8")))
    tokenizer = _tokenizer(name, source, reader)
    return MiniCPMVProcessor(tokenizer, reader=reader, name=name, source=source)


def _process(
    processor: MiniCPMVProcessor, text: str, frames: Frames, kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    reader = processor.video_processor
    slices = int(kwargs.get(SLICES, reader.slices))
    size = FrameSize(*frames.pixels.shape[1:3])
    clip = reader.text(len(frames.pixels), size, slices)
    return {
        **reader.pixels(frames.pixels, slices),
        "input_ids": [processor.tokenizer(text.replace(CLIP, clip, 1))["input_ids"]],
        "text_replacement_offsets": [[{"replacement": clip}]],
    }


def _features(model: Model, inputs: Mapping[str, Tensor]) -> ClipFeatures:
    return ClipFeatures(model.read_clip(inputs["pixel_values"], inputs["slice_values"]))


def _pixels(
    reader: VideoProcessor, min_pixels: int | None, max_pixels: int | None
) -> dict[str, Any]:
    slices = bounded_slices(min_pixels, max_pixels, square=reader.side**2, most=reader.slices)
    return {} if slices is None else {SLICES: slices}


def _size(
    reader: VideoProcessor, num_frames: int, size: FrameSize, kwargs: Mapping[str, Any]
) -> FrameSize:
    """Return the size on disk, from which whole and slices are made; that of the whole where there
    are to be no slices.
    """
    if kwargs.get(SLICES) == 1:
        return replace(reader.whole(size, cut=False), slices=1)
    return size


def _tokens(
    reader: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    rows, columns = reader.grid(size, size.slices or reader.slices)
    return num_frames * reader.tokens * (1 + rows * columns)


def _patches(
    reader: VideoProcessor, config: PretrainedConfig, num_frames: int, size: FrameSize
) -> int:
    if size.slices == 1:
        return num_frames * whole_patches(size, reader.patch)
    rows, columns = grid = reader.grid(size, reader.slices)
    count = whole_patches(reader.whole(size, cut=rows > 0), reader.patch)
    if rows:
        count += rows * columns * whole_patches(reader.piece(size, grid), reader.patch)
    return num_frames * count


AutoConfig.register("minicpmv", MiniCPMVConfig, exist_ok=True)
AutoModelForImageTextToText.register(MiniCPMVConfig, MiniCPMV, exist_ok=True)

ROW = Family(
    name="minicpmv",
    title="MiniCPM-V 2.6 (openbmb/MiniCPM-V-2_6)",
    features=_features,
    pack=pack_tensor,
    prompt_token=lambda processor: CLIP,
    placeholder=lambda config: int(config.image_token_index),
    process=_process,
    pixel_inputs=("pixel_values", "slice_values"),
    language=lambda model: model.llm,
    load_processor=_processor,
    read_config=_read_config,
    refuses=_refuses,
    end_of_turn="<|im_end|>",
    lora_targets=r"llm\.model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj",
    keep_unquantized=(*KEEP_UNQUANTIZED, r".*vpm", r".*resampler"),
    frame_size=_size,
    video_tokens=_tokens,
    vision_patches=_patches,
    pixel_kwargs=_pixels,
    formula="F x 64 x (1 + S), S = 2 slices of a frame above 448 x 448 pixels, else 0",
    quirks="A frame takes 64 tokens, and 64 more for each of two slices where it has more than "
    "200,704 pixels: what the model card sets for videos. video.max_pixels=200704 leaves the "
    "slices out. Frames carry no times.",
)
