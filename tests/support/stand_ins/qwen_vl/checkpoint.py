"""The checkpoint of a stand-in for Qwen-VL 1: weights, vocabulary and its code beside them."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_models import TEXT
from transformers import PreTrainedModel

from stand_ins.qwen_vl.configuration_qwen import QWenConfig
from stand_ins.qwen_vl.modeling_qwen import QWenLMHeadModel


@dataclass(frozen=True)
class TiktokenVocabulary:
    """A vocabulary of bytes and of every beginning of some words."""

    def tokens(self) -> list[bytes]:
        """Return its tokens by rank."""
        words = [
            (space + word).encode() for line in TEXT for word in line.split() for space in ("", " ")
        ]
        begun = [word[:length] for word in words for length in range(2, len(word) + 1)]
        return list(dict.fromkeys([*(bytes([byte]) for byte in range(256)), *begun]))

    def save_pretrained(self, folder: Path) -> None:
        """Write `qwen.tiktoken`."""
        lines = (
            f"{base64.b64encode(token).decode()} {rank}\n"
            for rank, token in enumerate(self.tokens())
        )
        (folder / "qwen.tiktoken").write_text("".join(lines))


def qwen_vl(**more: Any) -> tuple[PreTrainedModel, TiktokenVocabulary]:
    """Return a Qwen-VL 1 of 16 queries a frame."""
    vocabulary = TiktokenVocabulary()
    image_start = len(vocabulary.tokens()) + 3 + 205 + 6  # behind control tokens and marks
    visual = {
        "image_size": 56,
        "patch_size": 14,
        "width": 64,
        "layers": 2,
        "heads": 2,
        "mlp_ratio": 2.0,
        "n_queries": 16,
        "output_dim": 128,
        "image_start_id": image_start,
    }
    config = QWenConfig(
        vocab_size=image_start + 3,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        kv_channels=32,
        seq_length=2048,
        visual=visual,
        eos_token_id=len(vocabulary.tokens()),
        **more,
    )
    QWenConfig.register_for_auto_class()
    QWenLMHeadModel.register_for_auto_class("AutoModelForCausalLM")
    return QWenLMHeadModel(config), vocabulary
