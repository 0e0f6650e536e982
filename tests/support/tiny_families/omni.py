"""Tiny thinkers of Qwen2.5-Omni and Qwen3-Omni."""

from typing import Any

from tiny_models import make_tokenizer, mrope_text_config
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3OmniMoeProcessor,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from tiny_families.parts import CHATML
from tiny_families.qwen import EXPERTS, VISION_3

NAMED = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
TEMPLATE = CHATML.replace("<video>", "<|vision_bos|><|VIDEO|><|vision_eos|>")
SOUND = {
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "d_model": 32,
    "output_dim": 128,
}


def qwen2_5_omni() -> tuple[PreTrainedModel, Qwen2_5OmniProcessor]:
    """Return the thinker of a tiny Qwen2.5-Omni."""
    tokenizer = _tokenizer()
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "out_hidden_size": 128,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    ids = _ids(tokenizer)
    config = Qwen2_5OmniThinkerConfig(
        text_config=mrope_text_config(tokenizer),
        vision_config=vision,
        audio_config=SOUND,
        **{name.replace("token_id", "token_index"): ids[name] for name in IN_TEXT},
        **{name: ids[name] for name in ids if name not in IN_TEXT},
    )
    processor = Qwen2_5OmniProcessor(**_parts(tokenizer, patch=14))
    return Qwen2_5OmniThinkerForConditionalGeneration(config), processor


def qwen3_omni_moe() -> tuple[PreTrainedModel, Qwen3OmniMoeProcessor]:
    """Return the thinker of a tiny Qwen3-Omni, of 4 experts a layer."""
    tokenizer = _tokenizer()
    text = mrope_text_config(tokenizer, head_dim=32, **EXPERTS)
    text["rope_parameters"]["mrope_interleaved"] = True
    config = Qwen3OmniMoeThinkerConfig(
        text_config=text,
        vision_config={**VISION_3, "deepstack_visual_indexes": [0]},
        audio_config={**SOUND, "downsample_hidden_size": 32},
        position_id_per_seconds=13,
        **_ids(tokenizer),
    )
    processor = Qwen3OmniMoeProcessor(**_parts(tokenizer, patch=16))
    return Qwen3OmniMoeThinkerForConditionalGeneration(config), processor


IN_TEXT = ("image_token_id", "video_token_id", "audio_token_id")


def _tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *NAMED.values()],
        eos="<|im_end|>",
        pad="<|endoftext|>",
        extra=NAMED,
    )


def _ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    names = {f"{name}_id": token for name, token in NAMED.items()}
    names |= {
        "vision_start_token_id": NAMED["vision_bos_token"],
        "vision_end_token_id": NAMED["vision_eos_token"],
        "audio_start_token_id": NAMED["audio_bos_token"],
        "audio_end_token_id": NAMED["audio_eos_token"],
    }
    return {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in names.items()
        if "_bos_" not in name and "_eos_" not in name
    }


def _parts(tokenizer: PreTrainedTokenizerFast, *, patch: int) -> dict[str, Any]:
    frame = (2 * patch) ** 2
    size = {"shortest_edge": 4 * frame, "longest_edge": 16 * frame}
    shape = {"size": size, "patch_size": patch, "merge_size": 2}
    return {
        "image_processor": Qwen2VLImageProcessor(**shape),
        "video_processor": Qwen2VLVideoProcessor(**shape, cap_pixels_per_frame=False),
        "feature_extractor": WhisperFeatureExtractor(feature_size=128),
        "tokenizer": tokenizer,
        "chat_template": TEMPLATE,
    }
