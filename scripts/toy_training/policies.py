"""Build the tiny policies: real classes, real processors, nothing downloaded.

B clips, F = 8 frames, S = 64 pixels, P prefix tokens (up to the question), D = 128 hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LlavaNextImageProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from toy_training import text

HIDDEN = 128
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Policy:
    """A model under construction with what the packed training batches need.

    `prefix` (P,) holds the ids before a question, `positions` (3 or 1, P) their position
    ids and `next_position` the position of the first question token. `features` maps
    pixels (B, F, S, S, 3) uint8 to video features (B, V, D); `frame_group` frames share
    one feature grid. `ask` and `end` turn a question and an answer into text.
    """

    model: Any
    processor: Any
    prefix: torch.Tensor
    positions: torch.Tensor
    next_position: int
    features: Callable[[torch.Tensor], torch.Tensor]
    frame_group: int
    ask: Callable[[str], str]
    answer: Callable[[str], str]

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return the processor's tokenizer."""
        return self.processor.tokenizer


def normalise_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """Return (B, F, 3, S, S) float32 as the processors do: scaled, then CLIP mean and std."""
    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    return ((pixels.float() / 255 - mean) / std).permute(0, 1, 4, 2, 3)


def patchify(pixels: torch.Tensor) -> torch.Tensor:
    """Return Qwen's patches (B * 4 * 64, 3 * 2 * 8 * 8) of pixels (B, 8, 64, 64, 3) uint8.

    The layout is that of Qwen2VLVideoProcessor.patchify (transformers 5.23).
    """
    x = normalise_pixels(pixels).reshape(len(pixels), 4, 2, 3, 4, 2, 8, 4, 2, 8)
    return x.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(-1, 3 * 2 * 8 * 8)


def build_qwen(seed: int) -> Policy:
    """Return a fresh tiny Qwen2.5-VL: 4 x 16 video tokens for 8 frames of 64 x 64 pixels.

    tokens_per_second is 2, so 8 frames over 2 seconds get the temporal ids 0..3, never
    beyond the spatial extent of 4: the position rule of the published checkpoints and that
    of transformers 5.23 then agree exactly.
    """
    tok = text.train_tokenizer(
        text.world_corpus(0),
        specials=text.QWEN_SPECIALS,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        vocab_size=512,
    )
    ids = {
        f"{name}_token_id": tok.convert_tokens_to_ids(f"<|{word}|>")
        for name, word in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
    vision = dict(depth=3, hidden_size=64, intermediate_size=192, num_heads=4)
    vision |= dict(out_hidden_size=HIDDEN, patch_size=8, spatial_merge_size=2, window_size=64)
    vision |= dict(temporal_patch_size=2, tokens_per_second=2, fullatt_block_indexes=[0, 1, 2])
    config = Qwen2_5_VLConfig(
        text_config={**_text_config(tok), "rope_parameters": rope},
        vision_config={**vision, "initializer_range": 0.05},
        tie_word_embeddings=True,
        **ids,
    )
    size = {"shortest_edge": 64 * 64, "longest_edge": 64 * 64}
    patches = dict(patch_size=8, temporal_patch_size=2, merge_size=2)
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **patches),
        tokenizer=tok,
        video_processor=Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False, **patches),
        chat_template=text.QWEN_TEMPLATE,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    _set_generation(model, tok)

    def features(pixels: torch.Tensor) -> torch.Tensor:
        grid = torch.tensor([[4, 8, 8]] * len(pixels))
        out = model.get_video_features(patchify(pixels), grid, return_dict=True)
        return torch.stack(list(out.pooler_output))

    head = tok("<|im_start|>user\n<|vision_start|>", add_special_tokens=False).input_ids
    prefix = [*head, *[ids["video_token_id"]] * 64, ids["vision_end_token_id"]]
    grid = torch.stack(torch.meshgrid(*[torch.arange(4)] * 3, indexing="ij")).reshape(3, -1)
    n = len(head)
    lead = torch.arange(n).expand(3, -1)
    positions = torch.cat([lead, grid + n, torch.full((3, 1), n + 4)], dim=1)
    return Policy(
        model=model,
        processor=processor,
        prefix=torch.tensor(prefix),
        positions=positions,
        next_position=n + 5,
        features=features,
        frame_group=2,
        ask=lambda q: f"{q}<|im_end|>\n<|im_start|>assistant\n",
        answer=lambda a: f"{a}<|im_end|>",
    )


def build_llava(seed: int) -> Policy:
    """Return a fresh tiny LLaVA-NeXT-Video: 16 video tokens for each of 8 frames."""
    tok = text.train_tokenizer(
        text.world_corpus(0),
        specials=text.VICUNA_SPECIALS,
        eos="</s>",
        pad="<pad>",
        vocab_size=512,
    )
    video = tok.convert_tokens_to_ids("<video>")
    tower = dict(model_type="clip_vision_model", hidden_size=64, intermediate_size=192)
    tower |= dict(projection_dim=64, num_hidden_layers=4, num_attention_heads=4)
    tower |= dict(image_size=64, patch_size=8, initializer_factor=2.0)
    pinpoints = [[64, 128], [128, 64], [128, 128]]
    config = LlavaNextVideoConfig(
        vision_config=tower,
        text_config={**_text_config(tok), "model_type": "llama"},
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        video_token_index=video,
        image_grid_pinpoints=pinpoints,
        image_seq_length=64,
        video_seq_length=16,
        tie_word_embeddings=True,
    )
    size = dict(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    processor = LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(**size),
        image_processor=LlavaNextImageProcessor(**size, image_grid_pinpoints=pinpoints),
        tokenizer=tok,
        chat_template=text.VICUNA_TEMPLATE,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    torch.manual_seed(seed)
    model = LlavaNextVideoForConditionalGeneration(config)
    _set_generation(model, tok)

    def features(pixels: torch.Tensor) -> torch.Tensor:
        out = model.get_video_features(normalise_pixels(pixels), return_dict=True).pooler_output
        return torch.stack(list(out)).reshape(len(pixels), 128, HIDDEN)

    head = tok("USER: ", add_special_tokens=False).input_ids
    prefix = torch.tensor([*head, *[video] * 128])
    return Policy(
        model=model,
        processor=processor,
        prefix=prefix,
        positions=torch.arange(len(prefix))[None],
        next_position=len(prefix),
        features=features,
        frame_group=1,
        ask=lambda q: f"\n{q} ASSISTANT:\n",
        answer=lambda a: f"{a}</s>",
    )


def _text_config(tok: PreTrainedTokenizerFast) -> dict[str, Any]:
    return dict(
        vocab_size=-(-len(tok) // 64) * 64,
        hidden_size=HIDDEN,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )


def _set_generation(model: Any, tok: PreTrainedTokenizerFast) -> None:
    model.generation_config.eos_token_id = tok.eos_token_id
    model.generation_config.pad_token_id = tok.pad_token_id
    model.generation_config.bos_token_id = tok.bos_token_id


POLICIES = {"qwen2_5_vl": build_qwen, "llava_next_video": build_llava}
