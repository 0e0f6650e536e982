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


def internvl_chat(**more: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return an InternVL of 4 tokens a frame on a tiny Qwen2."""
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"],
        eos="<|im_end|>",
        pad="<|endoftext|>",
    )
    language = {**text_config(tokenizer, "qwen2"), "architectures": ["Qwen2ForCausalLM"]}
    config = InternVLChatConfig(
        vision_config={},
        llm_config=language,
        force_image_size=56,
        template="internvl2_5",
        ps_version="v2",
        **more,
    )
    InternVLChatConfig.register_for_auto_class()
    InternVLChatModel.register_for_auto_class("AutoModel")
    finish(InternVLChatModel)
    return InternVLChatModel(config), tokenizer


STAND_INS: dict[str, Callable[[], tuple[PreTrainedModel, Any]]] = {
    "internvl_chat": internvl_chat,
    "qwen": qwen_vl,
}
"""By the model type of the checkpoint; further ones of a type by what follows a dash, such as
their language model.
"""
