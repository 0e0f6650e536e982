"""Checkpoints of stand-ins whose repositories hold weights and a flat config, and no code."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_families.parts import text_config
from tiny_models import make_tokenizer
from tokenizers import pre_tokenizers, processors
from torch import nn
from transformers import MistralConfig, PreTrainedTokenizerFast, Qwen2Config

from stand_ins.llava_qwen.modeling import LlavaQwenForCausalLM
from stand_ins.minicpmv import processing_minicpmv
from stand_ins.minicpmv.modeling_minicpmv import MiniCPMV
from stand_ins.video_llama.modeling import VideoLLAMA
from stand_ins.videollama2.beats import SIZES
from stand_ins.videollama2.modeling import (
    Videollama2MistralForCausalLM,
    Videollama2Qwen2ForCausalLM,
)

TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 70,
    "patch_size": 14,
}
"""A tower of 5 x 5 patches: an odd number, of which pooling keeps 2 x 2 or 3 x 3."""
LLAVA_VIDEO = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_newline_position": "grid",
    "mm_spatial_pool_mode": "bilinear",
    "mm_spatial_pool_stride": 2,
    "mm_resampler_type": None,
    "mm_hidden_size": 64,
    "add_faster_video": False,
    "add_time_instruction": True,
    "tokenizer_model_max_length": 4096,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "torch_dtype": "bfloat16",
}
"""The fields of its own that the published LLaVA-Video has, with the values of the 7B one."""


VIDEOLLAMA2 = {
    "mm_hidden_size": 64,
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "num_frames": 8,
    "rope_theta": 1000000.0,
    "torch_dtype": "bfloat16",
}
AUDIO = {
    "mm_audio_tower": "audio_tower.bin",
    "mm_projector_a_type": "mlp2x_gelu",
    "mm_hidden_size_a": SIZES["encoder_embed_dim"],
    "hidden_size_a": 128,
    "audio_config": SIZES,
}
"""The fields of VideoLLaMA 2.1-7B-AV's audio branch, and the sizes of its tower, which a published
checkpoint does not name.
"""
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + ' ' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Of tokenizers: messages are plain texts."""


def llava_qwen(folder: Path, **fields: Any) -> LlavaQwenForCausalLM:
    """Write a LLaVA-Video into `folder` and its tower's config beside it; return the model that was
    written.
    """
    tokenizer = qwen_tokenizer()
    tower = write_tower(folder, TOWER)
    own = {**LLAVA_VIDEO, "mm_vision_tower": str(tower), **fields}
    text = {**text_config(tokenizer, "qwen2"), "vocab_size": len(tokenizer) + 3}
    model = made(lambda: LlavaQwenForCausalLM(Qwen2Config(**text, **own), TOWER))
    write(folder, model, {**text, **own, "model_type": "llava_qwen"})
    tokenizer.save_pretrained(folder)
    return model


def videollama2_qwen2(folder: Path, **fields: Any) -> Videollama2Qwen2ForCausalLM:
    """Write a VideoLLaMA 2.1: SigLIP and Qwen2."""
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = QWEN_TEMPLATE
    tower = write_tower(folder, TOWER)
    own = {**VIDEOLLAMA2, "mm_projector_type": "stc_connector_v35", **fields}
    own["mm_vision_tower"] = str(tower)
    text = {**text_config(tokenizer, "qwen2"), "vocab_size": len(tokenizer) + 3}
    model = made(lambda: Videollama2Qwen2ForCausalLM(Qwen2Config(**text, **own), TOWER))
    write(folder, model, {**text, **own, "model_type": "videollama2_qwen2"})
    tokenizer.save_pretrained(folder)
    return model


def videollama2_mistral(folder: Path, **fields: Any) -> Videollama2MistralForCausalLM:
    """Write a VideoLLaMA 2: CLIP and Mistral, whose embeddings are all words of the tokenizer."""
    tokenizer = make_tokenizer(["<unk>", "<s>", "</s>"], eos="</s>", pad="<unk>", bos="<s>")
    tokenizer.chat_template = MISTRAL_TEMPLATE
    sizes = {**TOWER, "model_type": "clip_vision_model", "projection_dim": 64}
    tower = write_tower(folder, sizes)
    own = {**VIDEOLLAMA2, "mm_projector_type": "stc_connector", **fields}
    own["mm_vision_tower"] = str(tower)
    text = {**text_config(tokenizer, "mistral"), "sliding_window": None}
    model = made(lambda: Videollama2MistralForCausalLM(MistralConfig(**text, **own), sizes))
    write(folder, model, {**text, **own, "model_type": "videollama2_mistral"})
    tokenizer.save_pretrained(folder)
    return model


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with the marks of Qwen2's turns."""
    return make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos="<|im_end|>", pad="<|endoftext|>"
    )


def video_llama(folder: Path, **fields: Any) -> VideoLLAMA:
    """Write a Video-LLaMA of 4 queries a frame and 8 a clip into `folder`; return the model that
    was written.
    """
    tokenizer = make_tokenizer(["<unk>", "<s>", "</s>"], eos="</s>", pad="</s>", bos="<s>")
    backend = tokenizer.backend_tokenizer  # as Llama's: BOS, and a space before each text
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    text = {
        **text_config(tokenizer, "llama", max_position_embeddings=2048),
        "architectures": ["LlamaForCausalLM"],
    }
    qformer = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "cross_attention_frequency": 2,
        "encoder_hidden_size": 64,
    }
    config = {
        "text_config": text,
        "vision_config": {**TOWER, "model_type": "blip_2_vision_model"},
        "qformer_config": qformer,
        "video_qformer_config": {**qformer, "cross_attention_frequency": 1},
        "num_query_tokens": 4,
        "num_video_query_tokens": 8,
        "max_frame_pos": 32,
        "conversation": "llama_v2",
        "dtype": "bfloat16",
        **fields,
    }
    model: VideoLLAMA = made(lambda: VideoLLAMA(config))
    write(folder, model, {**config, "model_type": "video_llama"})
    tokenizer.save_pretrained(folder)
    return model


def write_tower(folder: Path, sizes: Mapping[str, Any]) -> Path:
    """Write the config of a whole tower beside a checkpoint's folder; return its folder."""
    tower = folder.parent / f"tiny-{sizes['model_type'].partition('_')[0]}"
    tower.mkdir(parents=True, exist_ok=True)
    (tower / "config.json").write_text(json.dumps(sizes))
    return tower


def made(build: Callable[[], Any]) -> Any:
    """Return a model of the same random weights each time, see `scaled`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return scaled(build())


def scaled(model: nn.Module) -> Any:
    """Return a model with weights that make a difference visible, see tiny_models."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4.0)
    return model.eval()


def write(folder: Path, model: nn.Module, config: Mapping[str, Any]) -> None:
    """Write weights under the names that the model itself has, and a config as it stands."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.contiguous().clone() for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    named = {**config, "architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(named))


QWEN = (
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template of texts only, as that of MiniCPM-V's tokenizer."""


def minicpmv(folder: Path, **fields: Any) -> MiniCPMV:
    """Write a MiniCPM-V 2.6 of 4 tokens a picture into `folder`; return the model that was
    written.
    """
    marks = ["<unk>", "<image>", "</image>", "<slice>", "</slice>"]
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *marks],
        eos="<|im_end|>",
        pad="<|endoftext|>",
    )
    tokenizer.chat_template = QWEN
    tower = {**TOWER, "model_type": "siglip", "image_size": 140}
    flat = {
        **text_config(tokenizer, "minicpmv", max_position_embeddings=2048),
        "architectures": ["MiniCPMV"],
        "version": 2.6,
        "query_num": processing_minicpmv.TOKENS,
        "drop_vision_last_layer": True,
        "rope_theta": 1000000.0,
        "slice_config": {"max_slice_nums": 9, "model_type": "minicpmv"},
        "vision_config": tower,
        "torch_dtype": "bfloat16",
        **fields,
    }
    text = {name: value for name, value in flat.items() if name != "model_type"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = scaled(MiniCPMV(Qwen2Config(**text)))
    write(folder, model, flat)
    tokenizer.save_pretrained(folder)
    settings = {
        "scale_resolution": processing_minicpmv.SIDE,
        "patch_size": processing_minicpmv.PATCH,
        "image_feature_size": processing_minicpmv.TOKENS,
        "max_slice_nums": 9,
        "norm_mean": [0.5, 0.5, 0.5],
        "norm_std": [0.5, 0.5, 0.5],
        "version": 2.6,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return model


STAND_INS: dict[str, Callable[..., nn.Module]] = {
    "llava_qwen": llava_qwen,
    "minicpmv": minicpmv,
    "video_llama": video_llama,
    "videollama2_mistral": videollama2_mistral,
    "videollama2_qwen2": videollama2_qwen2,
    "videollama2_qwen2-audio": partial(videollama2_qwen2, **AUDIO),
}
"""By the model type of the checkpoint: what writes it into a folder, with fields of its config, and
returns its model.
"""
