"""Tiny random video models with processors, built offline and saved as checkpoints: real code, no
published weights.

Every dimension that 4-bit quantisation may touch is a multiple of 64 (bitsandbytes' block). Weight
matrices are scaled up from transformers' init, so that a wrong position, mask or feature changes
the logits visibly.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlavaNextImageProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

Kind = Literal["qwen2_5_vl", "llava_next_video"]
TEXT = [
    "a red square moves to the right over a dark background",
    "describe the video in detail please",
    "the man is cooking pasta in a kitchen and talks to the camera",
    "USER: ASSISTANT: what happens in the clip ?",
    "You are a helpful assistant.",
    "user assistant system yes no left right up down blue green circle",
]
QWEN_SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
# The published Qwen2.5-VL template without its image counters.
QWEN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful "
    "assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] "
    "}}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt "
    "%}<|im_start|>assistant\n{% endif %}"
)
# The form of the published LLaVA-NeXT-Video (Vicuna) template.
VICUNA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for c in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% "
    "endfor %}"
    "{% for c in message['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] + ' ' "
    "}}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
FRAME_28 = 28 * 28


def tiny_policy(kind: Kind, folder: Path) -> Path:
    """Write the checkpoint of a tiny random model and its processor into `folder`; return the
    folder.
    """
    return write_tiny(qwen2_5_vl if kind == "qwen2_5_vl" else llava_next_video, folder)


def write_tiny(build: Callable[[], tuple[PreTrainedModel, Any]], folder: Path) -> Path:
    """Write the checkpoint of what `build` returns into `folder`, its weights scaled up; return the
    folder.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = build()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_tokenizer(
    special: list[str],
    *,
    eos: str,
    pad: str,
    bos: str | None = None,
    extra: dict[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """Return a small byte-level tokenizer; `extra` names special tokens as attributes, such as
    `image_token`.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXT * 4,
        trainers.BpeTrainer(
            vocab_size=360, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    named = {"bos_token": bos} if bos else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=eos,
        pad_token=pad,
        padding_side="left",
        model_max_length=32768,
        extra_special_tokens=extra or {},
        **named,
    )


def qwen_tokenizer() -> tuple[PreTrainedTokenizerFast, dict[str, int]]:
    """Return a tokenizer of the Qwen-VL line, and the ids of its marks by their field of a
    config.
    """
    tokenizer = make_tokenizer(QWEN_SPECIAL, eos="<|im_end|>", pad="<|endoftext|>")
    marks = {
        "image": "<|image_pad|>",
        "video": "<|video_pad|>",
        "vision_start": "<|vision_start|>",
        "vision_end": "<|vision_end|>",
    }
    return tokenizer, {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in marks.items()
    }


def mrope_text_config(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    """Return the config of a tiny language model with positions in time, height and width."""
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


def qwen2_5_vl() -> tuple[PreTrainedModel, Qwen2_5_VLProcessor]:
    tokenizer, ids = qwen_tokenizer()
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 2,
        "out_hidden_size": 128,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "tokens_per_second": 2,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=mrope_text_config(tokenizer),
        vision_config=vision,
        tie_word_embeddings=True,
        **ids,
    )
    size = {"shortest_edge": 4 * FRAME_28, "longest_edge": 16 * FRAME_28}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False),
        chat_template=QWEN_TEMPLATE,
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def llava_next_video() -> tuple[PreTrainedModel, LlavaNextVideoProcessor]:
    tokenizer = make_tokenizer(
        ["<unk>", "<s>", "</s>", "<pad>", "<image>", "<video>"],
        eos="</s>",
        pad="<pad>",
        bos="<s>",
        extra={"image_token": "<image>", "video_token": "<video>"},
    )
    text = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 128,
        "projection_dim": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    grid = [[56, 112], [112, 56], [112, 112]]
    config = LlavaNextVideoConfig(
        text_config=text,
        vision_config=vision,
        image_grid_pinpoints=grid,
        image_seq_length=16,
        video_seq_length=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
    )
    square = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    processor = LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(**square),
        tokenizer=tokenizer,
        patch_size=14,
        image_processor=LlavaNextImageProcessor(**square, image_grid_pinpoints=grid),
        chat_template=VICUNA_TEMPLATE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return LlavaNextVideoForConditionalGeneration(config), processor
