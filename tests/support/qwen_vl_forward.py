"""The own code of Qwen-VL 1, called as it is published: paths of pictures in the token ids, fused
weights, each LoRA layer's product added to them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from stand_ins.qwen_vl.modeling_qwen import QWenLMHeadModel
from torch import Tensor, nn
from torch.func import functional_call

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


def own_forward(own: QWenLMHeadModel) -> Callable[[Any, Mapping[str, Any]], Tensor]:
    """Return a forward through the own code, with the weights of whatever model it is given;
    pictures lie in the working folder, whose short names fit into the ids.
    """

    def forward(model: Any, inputs: Mapping[str, Any]) -> Tensor:
        pixels = (inputs["pixel_values"] * STD + MEAN).mul(255).round().byte()
        names = write_pictures(pixels.permute(0, 2, 3, 1).numpy(), Path.cwd())
        ids = with_paths(inputs["input_ids"][0], names, own.config.visual["image_start_id"])
        weights = published_weights(model)
        logits: Tensor = functional_call(own, weights, (ids[None],), strict=True).logits
        return logits

    return forward


def write_pictures(frames: np.ndarray, folder: Path) -> list[str]:
    """Write frames (F, H, W, 3) as PNG files; return their names."""
    names = [f"{number}.png" for number in range(len(frames))]
    for name, frame in zip(names, frames, strict=True):
        Image.fromarray(frame).save(folder / name)
    return names


def with_paths(ids: Tensor, names: list[str], image_start: int) -> Tensor:
    """Return ids (T,) in which each picture's first placeholders are the bytes of its name."""
    ids = ids.clone()
    starts = torch.where(ids == image_start)[0].tolist()
    for start, name in zip(starts, names, strict=True):
        ids[start + 1 : start + 1 + len(name)] = torch.tensor(list(name.encode()))
    return ids


def published_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's weights by their published names, its adapter in them where it is on."""
    weights = {f"transformer.{name}": w for name, w in model.named_parameters() if "visual" in name}
    language = model.language_model
    weights["lm_head.weight"] = language.lm_head.weight
    weights["transformer.wte.weight"] = language.model.embed_tokens.weight
    weights["transformer.ln_f.weight"] = language.model.norm.weight
    for number, layer in enumerate(language.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        fused = (attention.q_proj, attention.k_proj, attention.v_proj)
        named = {
            "ln_1.weight": layer.input_layernorm.weight,
            "ln_2.weight": layer.post_attention_layernorm.weight,
            "attn.c_attn.weight": torch.cat([effective(linear) for linear in fused]),
            "attn.c_attn.bias": torch.cat([linear.bias for linear in fused]),
            "attn.c_proj.weight": effective(attention.o_proj),
            "mlp.w1.weight": effective(mlp.up_proj),
            "mlp.w2.weight": effective(mlp.gate_proj),
            "mlp.c_proj.weight": effective(mlp.down_proj),
        }
        weights |= {f"transformer.h.{number}.{name}": weight for name, weight in named.items()}
    return weights


def effective(linear: Any) -> Tensor:
    """Return a linear layer's weight, with its LoRA product where it has one that is on."""
    weight: Tensor = linear.weight
    if isinstance(linear, nn.Linear) or linear.disable_adapters:
        return weight
    (name,) = linear.active_adapters
    product = linear.lora_B[name].weight @ linear.lora_A[name].weight
    return weight + linear.scaling[name] * product
