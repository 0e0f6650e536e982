"""What is benched: a random model of a given size, one clip of noise, questions and pairs of
answers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
)

from dpo_video.core.records import Pair
from dpo_video.models.families import FAMILIES
from dpo_video.models.hub import ModelSpec
from dpo_video.models.load import Policy, keep_weights_unpacked, language_linears
from dpo_video.models.prompts import ClipInputs, encode_prompt, video_inputs
from dpo_video.recipe import ModelSettings, VideoSettings
from dpo_video.toy.models import checkpoint
from dpo_video.train.pair_batches import PairTokens
from dpo_video.video import Frames

QUESTION_TOKENS, ANSWER_TOKENS = 20, 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One clip with `questions`, each with `answers` that make answers / 2 pairs of two."""

    video_tokens: int
    questions: int
    answers: int
    size: str = "spike"
    device: str = "cpu"
    checkpointing: bool = False
    """Activations are computed again in the backward pass."""
    quantize: str = "none"
    """`nf4`: the language model's linear layers in 4 bit."""
    attention: str = "sdpa"
    """transformers' implementation under the trees, and of plain rows."""

    @property
    def num_pairs(self) -> int:
        return self.questions * (self.answers // 2)


# The spike's text model is 6 layers of width 512. The tower costs 0.2 of the text model's
# operations per video token, as 4 patches of it become one token; in Qwen2.5-VL-7B it is 0.35. The
# vocabulary is small, since TRL's head scores every position on the CPU, which it does not do on a
# GPU.
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tiny": (
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 512,
            "mrope_section": [2, 3, 3],
        },
        {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
        },
    ),
    "spike": (
        {
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "vocab_size": 2048,
            "mrope_section": [8, 12, 12],
        },
        {
            "depth": 6,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 2,
            "out_hidden_size": 512,
        },
    ),
    "7b": (
        {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "mrope_section": [16, 24, 24],
        },
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
        },
    ),
}
"""Text and vision configs over those of the toy checkpoint; 7b is Qwen2.5-VL-7B's, and tiny tries
a bench out."""


def make_policy(case: Case) -> Policy:
    """Return a random model; equal for equal sizes."""
    config = _config(case)
    dtype = torch.float32 if case.device == "cpu" else torch.bfloat16
    torch.manual_seed(0)
    with torch.device(case.device):
        model = AutoModelForImageTextToText.from_config(
            config, dtype=dtype, attn_implementation=case.attention
        )
    family = FAMILIES["qwen2_5_vl"]
    assert family.install_positions is not None
    family.install_positions(model.requires_grad_(False).eval(), "checkpoint")
    if case.quantize == "nf4":
        _to_nf4(model, language_linears(model, family), dtype)
    return Policy(
        model=model,
        processor=_processor(),
        family=family,
        dtype=dtype,
        device=torch.device(case.device),
        settings=ModelSettings(
            name="random",
            device=case.device,
            dtype="float32" if dtype == torch.float32 else "bfloat16",
            quantize=case.quantize,
        ),
        revision="random",
    )


def make_spec(case: Case) -> ModelSpec:
    """Return what counting memory needs of the model, without its weights."""
    return ModelSpec(
        family=FAMILIES["qwen2_5_vl"],
        config=_config(case),
        video_processor=_processor().video_processor,
    )


def _config(case: Case) -> PretrainedConfig:
    text, vision = SIZES[case.size]
    config = AutoConfig.from_pretrained(checkpoint("qwen2_5_vl"))
    section = text["mrope_section"]
    config.text_config.update(
        {
            **text,
            "initializer_range": 0.02,
            "tie_word_embeddings": False,
            "max_position_embeddings": 1 << 17,
            "layer_types": ["full_attention"] * text["num_hidden_layers"],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": section,
            },
        }
    )
    # windows of 8 x 8 patches, and full attention in every fourth layer, as published
    config.vision_config.update(
        {
            **vision,
            "patch_size": 14,
            "window_size": 112,
            "initializer_range": 0.02,
            "fullatt_block_indexes": list(range(3, vision["depth"], 4)),
        }
    )
    config.tie_word_embeddings = False
    return config


def _processor() -> Any:
    processor = AutoProcessor.from_pretrained(checkpoint("qwen2_5_vl"))
    processor.video_processor.patch_size = 14
    processor.tokenizer.model_max_length = 1 << 17
    return processor


def _to_nf4(model: nn.Module, names: list[str], dtype: torch.dtype) -> None:
    """Put 4-bit layers, with doubly quantised scales, in the place of linear ones."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name in names:
        linear = model.get_submodule(name)
        device = linear.weight.device
        with torch.device("meta"):
            layer = Linear4bit(
                linear.in_features,
                linear.out_features,
                bias=linear.bias is not None,
                compute_dtype=dtype,
                compress_statistics=True,
                quant_type="nf4",
            )
        layer.weight = Params4bit(
            linear.weight.data,
            requires_grad=False,
            compress_statistics=True,
            quant_type="nf4",
        ).to(device)
        layer.bias = linear.bias
        model.set_submodule(name, layer)
    keep_weights_unpacked(model)


def clip_size(video_tokens: int) -> tuple[int, int]:
    """Return the side in pixels and the frames of a clip of so many video tokens: 64 or 256 of them
    per two frames.
    """
    side = 16 if video_tokens % 256 == 0 and video_tokens >= 4096 else 8
    steps, rest = divmod(video_tokens, side * side)
    if rest or not steps:
        raise SystemExit(
            f"--video-tokens {video_tokens}: give a multiple of 64, from 4096 on of 256"
        )
    return side * 28, 2 * steps


def make_clip(policy: Policy, case: Case) -> ClipInputs:
    """Return a clip of noise with exactly the case's video tokens."""
    side, count = clip_size(case.video_tokens)
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    frames = Frames(
        pixels=pixels,
        times=np.arange(count) / 2,
        indices=list(range(count)),
        fps=2.0,
        total_frames=count,
        duration=count / 2,
        backend="pyav",
    )
    clip = video_inputs(policy, frames, VideoSettings(min_pixels=side**2, max_pixels=side**2))
    tokens = int(
        (encode_prompt(policy, "", clip).input_ids == policy.bare.config.video_token_id).sum()
    )
    assert tokens == case.video_tokens, f"the clip has {tokens} video tokens"
    return clip


def make_pairs(case: Case) -> list[PairTokens]:
    """Return pairs of random answers, 30 to 50 tokens long."""
    draw = np.random.default_rng(1)
    words = ["red", "blue", "green", "square", "circle", "moves", "left", "right", "up", "down"]
    pairs = []
    for question in range(case.questions):
        text = " ".join(draw.choice(words, QUESTION_TOKENS // 2)) + f" {question} ?"
        for number in range(case.answers // 2):
            chosen, rejected = (
                tuple(
                    draw.integers(
                        10, 500, draw.integers(ANSWER_TOKENS - 10, ANSWER_TOKENS + 11)
                    ).tolist()
                )
                for _ in range(2)
            )
            pairs.append(
                PairTokens(
                    clip="clip",
                    rejected_clip="clip",
                    chosen=chosen,
                    rejected=rejected,
                    pair=Pair(
                        sample_id=f"{question}-{number}",
                        video="clip",
                        prompt=text,
                        chosen="c",
                        rejected="r",
                        chosen_score=1.0,
                        rejected_score=0.0,
                        source="bench",
                        chosen_id="c",
                        rejected_id="r",
                    ),
                )
            )
    return pairs
