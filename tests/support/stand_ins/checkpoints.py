"""Checkpoints of stand-ins: a folder with weights, tokenizer and the code beside them, as
repositories publish them.
"""

from collections.abc import Callable
from typing import Any

from tiny_families.parts import text_config
from tiny_models import make_tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from dpo_video.models.families.own_code.loading import finish
from stand_ins.internvl_chat.configuration_internvl_chat import InternVLChatConfig
from stand_ins.internvl_chat.modeling_internvl_chat import InternVLChatModel
from stand_ins.qwen_vl.checkpoint import qwen_vl

IMAGE = ["<img>", "</img>", "<IMG_CONTEXT>"]
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def internvl_chat(**more: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return an InternVL of 4 tokens a frame on a tiny Qwen2."""
    tokenizer = make_tokenizer([*CHATML, *IMAGE], eos="<|im_end|>", pad="<|endoftext|>")
    language = {**text_config(tokenizer, "qwen2"), "architectures": ["Qwen2ForCausalLM"]}
    return _internvl(tokenizer, language, **{"template": "internvl2_5", **more})


def internvl_internlm2() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return an InternVL on a tiny InternLM2: RoPE that would be stretched beyond its context, as
    published, and biases, which published ones leave out.
    """
    tokenizer = make_tokenizer(
        ["<unk>", "<s>", "</s>", *CHATML, *IMAGE], eos="</s>", pad="</s>", bos="<s>"
    )
    language = {
        **text_config(tokenizer, "internlm2"),
        "architectures": ["InternLM2ForCausalLM"],
        "bias": True,
        "rope_theta": 1000000,
        "rope_scaling": {"factor": 2.0, "type": "dynamic"},
    }
    return _internvl(tokenizer, language, template="internlm2-chat")


def internvl_phi3() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return an InternVL on a tiny Phi-3 with LongRoPE, as Phi-3-mini-128k has it."""
    turns = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    tokenizer = make_tokenizer([*turns, *IMAGE], eos="<|endoftext|>", pad="<|endoftext|>")
    language = {
        **text_config(tokenizer, "phi3", num_key_value_heads=4),
        "architectures": ["Phi3ForCausalLM"],
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {
            "type": "su",
            "short_factor": [1.0 + step / 16 for step in range(16)],
            "long_factor": [1.0 + step for step in range(16)],
        },
        "sliding_window": 262144,
    }
    return _internvl(tokenizer, language, template="phi3-chat")


def _internvl(
    tokenizer: PreTrainedTokenizerFast, language: dict[str, Any], **more: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    config = InternVLChatConfig(
        vision_config={}, llm_config=language, force_image_size=56, ps_version="v2", **more
    )
    InternVLChatConfig.register_for_auto_class()
    InternVLChatModel.register_for_auto_class("AutoModel")
    finish(InternVLChatModel)
    return InternVLChatModel(config), tokenizer


STAND_INS: dict[str, Callable[[], tuple[PreTrainedModel, Any]]] = {
    "internvl_chat": internvl_chat,
    "internvl_chat-internlm2": internvl_internlm2,
    "internvl_chat-phi3": internvl_phi3,
    "qwen": qwen_vl,
}
"""By the model type of the checkpoint; further ones of a type by what follows a dash, such as
their language model.
"""
