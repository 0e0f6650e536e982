"""Tiny Qwen2-VL and Qwen3-VL."""

from typing import Any

from tiny_models import QWEN_SPECIAL, QWEN_TEMPLATE, make_tokenizer
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)


def qwen2_vl() -> tuple[PreTrainedModel, Qwen2VLProcessor]:
    """Return a tiny Qwen2-VL and its processor."""
    tokenizer, ids = _tokenizer()
    vision = {
        "depth": 2,
        "embed_dim": 64,
        "hidden_size": 128,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = Qwen2VLConfig(
        text_config=_text(tokenizer), vision_config=vision, tie_word_embeddings=True, **ids
    )
    size = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16 * 28 * 28}
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        chat_template=QWEN_TEMPLATE,
        video_processor=Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False),
    )
    return Qwen2VLForConditionalGeneration(config), processor


def qwen3_vl() -> tuple[PreTrainedModel, Qwen3VLProcessor]:
    """Return a tiny Qwen3-VL and its processor."""
    tokenizer, ids = _tokenizer()
    text = _text(tokenizer, head_dim=32)
    text["rope_parameters"]["mrope_interleaved"] = True
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "out_hidden_size": 128,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    frame = 32 * 32
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            size={"shortest_edge": 4 * frame, "longest_edge": 16 * frame},
            patch_size=16,
            merge_size=2,
        ),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(
            size={"shortest_edge": 4 * frame, "longest_edge": 96 * frame},
            cap_pixels_per_frame=False,
        ),
        chat_template=QWEN_TEMPLATE,
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _tokenizer() -> tuple[PreTrainedTokenizerFast, dict[str, int]]:
    tokenizer = make_tokenizer(QWEN_SPECIAL, eos="<|im_end|>", pad="<|endoftext|>")
    return tokenizer, {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in [
            ("image", "<|image_pad|>"),
            ("video", "<|video_pad|>"),
            ("vision_start", "<|vision_start|>"),
            ("vision_end", "<|vision_end|>"),
        ]
    }


def _text(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [4, 6, 6],
            "rope_theta": 1000000.0,
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }
