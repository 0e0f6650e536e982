"""Checkpoints of stand-ins whose repositories hold weights and a flat config, and no code."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_families.parts import text_config
from tiny_models import make_tokenizer
from torch import nn
from transformers import Qwen2Config

from stand_ins.llava_qwen.modeling import LlavaQwenForCausalLM

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
    "tokenizer_model_max_length": 2048,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "torch_dtype": "bfloat16",
}
"""The fields of its own that the published LLaVA-Video has, with the values of the 7B one."""


def llava_qwen(folder: Path, **fields: Any) -> LlavaQwenForCausalLM:
    """Write a LLaVA-Video into `folder` and its tower's config beside it; return the model that was
    written.
    """
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos="<|im_end|>", pad="<|endoftext|>"
    )
    text = {**text_config(tokenizer, "qwen2"), "vocab_size": len(tokenizer) + 3}  # as published
    own = {**LLAVA_VIDEO, "mm_vision_tower": str(write_tower(folder)), **fields}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = scaled(LlavaQwenForCausalLM(Qwen2Config(**text, **own), TOWER))
    flat = {**text, **own, "model_type": "llava_qwen", "architectures": [type(model).__name__]}
    write(folder, model, flat)
    tokenizer.save_pretrained(folder)
    return model


def write_tower(folder: Path) -> Path:
    """Write the config of a whole tower beside a checkpoint's folder; return its folder."""
    tower = folder.parent / "tiny-siglip"
    tower.mkdir(parents=True, exist_ok=True)
    (tower / "config.json").write_text(json.dumps(TOWER))
    return tower


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
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


STAND_INS: dict[str, Callable[..., nn.Module]] = {"llava_qwen": llava_qwen}
"""By the model type of the checkpoint: what writes it into a folder, with fields of its config, and
returns its model.
"""
