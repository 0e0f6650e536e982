"""Tiny Qwen2-VL and Qwen3-VL."""

from typing import Any

from tiny_models import QWEN_TEMPLATE, mrope_text_config, qwen_tokenizer
from transformers import (
    Exaone4_5_Config,
    Exaone4_5_ForConditionalGeneration,
    Exaone4_5_Processor,
    Lfm3VlConfig,
    Lfm3VlForConditionalGeneration,
    Lfm3VlProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)


def qwen2_vl() -> tuple[PreTrainedModel, Qwen2VLProcessor]:
    """Return a tiny Qwen2-VL and its processor."""
    tokenizer, ids = qwen_tokenizer()
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
        text_config=mrope_text_config(tokenizer),
        vision_config=vision,
        tie_word_embeddings=True,
        **ids,
    )
    size = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16 * 28 * 28}
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        chat_template=QWEN_TEMPLATE,
        video_processor=Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False),
    )
    return Qwen2VLForConditionalGeneration(config), processor


VISION_3 = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 2,
    "out_hidden_size": 128,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 64,
}
"""The tower of Qwen3-VL and later."""
EXPERTS = {
    "moe_intermediate_size": 64,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
GATED_DELTA = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 4,
    "linear_num_key_heads": 8,
    "linear_num_value_heads": 32,
    "layer_types": ["linear_attention", "full_attention"],
}
"""A recurrent layer and one of attention, of widths that 4 bit can hold."""


def qwen3_vl() -> tuple[PreTrainedModel, Qwen3VLProcessor]:
    """Return a tiny Qwen3-VL and its processor."""
    tokenizer, ids = qwen_tokenizer()
    config = Qwen3VLConfig(
        text_config=_text_3(tokenizer),
        vision_config={**VISION_3, "deepstack_visual_indexes": [0]},
        tie_word_embeddings=True,
        **ids,
    )
    return Qwen3VLForConditionalGeneration(config), _processor_3(tokenizer)


def qwen3_vl_moe() -> tuple[PreTrainedModel, Qwen3VLProcessor]:
    """Return a tiny Qwen3-VL of 4 experts a layer."""
    tokenizer, ids = qwen_tokenizer()
    config = Qwen3VLMoeConfig(
        text_config=_text_3(tokenizer, **EXPERTS),
        vision_config={**VISION_3, "deepstack_visual_indexes": [0]},
        **ids,
    )
    return Qwen3VLMoeForConditionalGeneration(config), _processor_3(tokenizer)


def qwen3_5() -> tuple[PreTrainedModel, Qwen3VLProcessor]:
    """Return a tiny Qwen3.5: a recurrent layer and one of attention."""
    tokenizer, ids = qwen_tokenizer()
    config = Qwen3_5Config(
        text_config=_text_3(tokenizer, partial_rotary_factor=0.25, sections=SMALL, **GATED_DELTA),
        vision_config=VISION_3,
        **ids,
    )
    return Qwen3_5ForConditionalGeneration(config), _processor_3(tokenizer)


def qwen3_5_moe() -> tuple[PreTrainedModel, Qwen3VLProcessor]:
    """Return a tiny Qwen3.5 of 4 experts a layer and one that all tokens share."""
    tokenizer, ids = qwen_tokenizer()
    text = _text_3(
        tokenizer,
        sections=SMALL,
        partial_rotary_factor=0.25,
        shared_expert_intermediate_size=64,
        **EXPERTS,
        **GATED_DELTA,
    )
    config = Qwen3_5MoeConfig(text_config=text, vision_config=VISION_3, **ids)
    return Qwen3_5MoeForConditionalGeneration(config), _processor_3(tokenizer)


def exaone4_5() -> tuple[PreTrainedModel, Exaone4_5_Processor]:
    """Return a tiny EXAONE 4.5, with a layer that sees 16 tokens back and one that sees all."""
    tokenizer, ids = qwen_tokenizer()
    text = mrope_text_config(
        tokenizer, model_type="exaone4", sliding_window=16, sliding_window_pattern=2
    )
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "num_key_value_heads": 2,
        "out_hidden_size": 128,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    config = Exaone4_5_Config(
        text_config=text,
        vision_config=vision,
        **{name: ids[name] for name in ("image_token_id", "video_token_id")},
    )
    size = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16 * 28 * 28}
    processor = Exaone4_5_Processor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        chat_template=QWEN_TEMPLATE,
        video_processor=Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False),
    )
    return Exaone4_5_ForConditionalGeneration(config), processor


def lfm3_vl() -> tuple[PreTrainedModel, Lfm3VlProcessor]:
    """Return a tiny LFM3-VL: a layer of each kind."""
    tokenizer, ids = qwen_tokenizer()
    text = mrope_text_config(
        tokenizer,
        model_type="lfm3",
        head_dim=32,
        sliding_window=16,
        layer_types=["conv", "sliding_attention", "full_attention"],
    )
    del text["rope_parameters"]
    vision = {
        **{name: VISION_3[name] for name in ("hidden_size", "intermediate_size", "patch_size")},
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "layer_types": ["conv", "full_attention"],
    }
    config = Lfm3VlConfig(
        text_config={**text, "num_hidden_layers": 3},
        vision_config=vision,
        projector_hidden_size=128,
        **ids,
    )
    parts = _processor_3(tokenizer)
    processor = Lfm3VlProcessor(
        image_processor=parts.image_processor,
        tokenizer=tokenizer,
        video_processor=parts.video_processor,
        chat_template=QWEN_TEMPLATE,
    )
    return Lfm3VlForConditionalGeneration(config), processor


SMALL = [2, 1, 1]
"""Sections of M-RoPE where a quarter of a head's 32 numbers turns."""


def _text_3(
    tokenizer: PreTrainedTokenizerFast, *, sections: list[int] | None = None, **more: Any
) -> dict[str, Any]:
    text = mrope_text_config(tokenizer, head_dim=32, **more)
    text["rope_parameters"]["mrope_interleaved"] = True
    if sections is not None:
        text["rope_parameters"] |= {"mrope_section": sections, "partial_rotary_factor": 0.25}
    return text


def _processor_3(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    frame = 32 * 32
    return Qwen3VLProcessor(
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
