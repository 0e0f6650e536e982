"""What is benched: a random model of a given size, one clip of noise, questions and pairs of
answers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from dpo_video.core.records import Pair
from dpo_video.models.families import FAMILIES
from dpo_video.models.load import Policy
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

    @property
    def num_pairs(self) -> int:
        return self.questions * (self.answers // 2)


# The spike's text model is 6 layers of width 512. The tower costs 0.2 of the text model's
# operations per video token, as 4 patches of it become one token; in Qwen2.5-VL-7B it is 0.35. The
# vocabulary is small, since TRL's head scores every position on the CPU, which it does not do on a
# GPU.
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
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
"""Text and vision configs over those of the toy checkpoint; 7b is Qwen2.5-VL-7B's."""


def make_policy(case: Case) -> Policy:
    """Return a random model; equal for equal sizes."""
    text, vision = SIZES[case.size]
    folder = checkpoint("qwen2_5_vl")
    config = AutoConfig.from_pretrained(folder)
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
    dtype = torch.float32 if case.device == "cpu" else torch.bfloat16
    torch.manual_seed(0)
    with torch.device(case.device):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    family = FAMILIES["qwen2_5_vl"]
    assert family.install_positions is not None
    family.install_positions(model.requires_grad_(False).eval(), "checkpoint")
    processor = AutoProcessor.from_pretrained(folder)
    processor.video_processor.patch_size = 14
    processor.tokenizer.model_max_length = 1 << 17
    return Policy(
        model=model,
        processor=processor,
        family=family,
        dtype=dtype,
        device=torch.device(case.device),
        settings=ModelSettings(name="random", device=case.device),
        revision="random",
    )


def make_clip(policy: Policy, case: Case) -> ClipInputs:
    """Return a clip of noise with exactly the case's video tokens: 64 or 256 of them per two
    frames.
    """
    side = 16 if case.video_tokens % 256 == 0 and case.video_tokens >= 4096 else 8
    steps, rest = divmod(case.video_tokens, side * side)
    if rest or not steps:
        raise SystemExit(
            f"--video-tokens {case.video_tokens}: give a multiple of 64, from 4096 on of 256"
        )
    count = 2 * steps
    pixels = np.random.default_rng(0).integers(
        0, 256, (count, side * 28, side * 28, 3), dtype=np.uint8
    )
    frames = Frames(
        pixels=pixels,
        times=np.arange(count) / 2,
        indices=list(range(count)),
        fps=2.0,
        total_frames=count,
        duration=count / 2,
        backend="pyav",
    )
    area = (side * 28) ** 2
    clip = video_inputs(policy, frames, VideoSettings(min_pixels=area, max_pixels=area))
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
