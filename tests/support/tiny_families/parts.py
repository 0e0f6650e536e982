"""What tiny models of several families share: tokenizers, chat templates, configs of language
models and towers.
"""

from typing import Any

from tiny_models import make_tokenizer
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for c in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% "
    "endfor %}"
    "{% for c in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% "
    "endfor %}"
    "{% for c in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + c['text'] "
    "}}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% "
    "endif %}"
)


def chatml_tokenizer(*more: str, extra: dict[str, str] | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer for CHATML; `more` are further special tokens."""
    named = {"image_token": "<image>", "video_token": "<video>"} if extra is None else extra
    return make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>", *more],
        eos="<|im_end|>",
        pad="<|endoftext|>",
        extra=named,
    )


def text_config(tokenizer: PreTrainedTokenizerFast, model_type: str, **more: Any) -> dict[str, Any]:
    """Return the config of a tiny language model with plain positions."""
    return {
        "model_type": model_type,
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def siglip_config() -> dict[str, Any]:
    """Return the config of a tiny SigLIP tower over frames of 56 x 56."""
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "vision_use_head": False,
    }
