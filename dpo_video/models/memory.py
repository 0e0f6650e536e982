"""Estimate the GPU memory of training and generation by part, from a checkpoint's config alone.

Parameters are counted on the model built without storage (torch's meta device). Activations follow the counting of
Korthikanti et al. 2022 (arXiv:2205.05198), section 4, redone for a gated MLP, grouped keys and LoRA: what autograd
keeps for the backward pass. Attention scores are not kept (fused kernels). Not counted: the CUDA context (0.5-1 GiB)
and fragmentation; leave a tenth of the GPU free.

Letters: L layers, H hidden size, I MLP size, Q and K widths of queries and keys, T tokens, r LoRA rank.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, PretrainedConfig

from dpo_video.models.checkpoints import Blueprint
from dpo_video.models.load import DTYPES
from dpo_video.recipe import ModelSettings, TrainSettings

GIB = float(1 << 30)
NF4_BYTES = 0.5 + 0.127 / 8
"""Per parameter: 4 bits, and 0.127 bits of doubly quantised scales (Dettmers et al. 2023, arXiv:2305.14314, sec. 3)."""
OPTIMIZER_BYTES = {"adamw_torch": 8, "adamw_torch_fused": 8, "adamw_hf": 8, "adamw_8bit": 2, "adamw_bnb_8bit": 2,
                   "paged_adamw_8bit": 2, "paged_adamw_32bit": 8, "sgd": 0, "adafactor": 0}
"""Bytes of state per trained parameter; an optimizer not listed counts as AdamW."""
CHECKPOINTED_FROM = 3_000_000_000
"""Parameters from which `train.gradient_checkpointing: auto` is true."""
HEAD_TILE = (4096, 32768)
"""Positions x vocabulary of one tile of TRL's fused head (trl/trainer/utils.py, 1.16)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Parameters of a checkpoint by part."""

    language: int
    """Linear layers of the language model: what nf4 quantises and LoRA tunes."""
    embeddings: int
    """Input embedding and output head, counted once where they are tied."""
    vision: int
    """Tower and projector."""
    other: int
    """Norms and biases of the language model."""
    lora_per_rank: int
    """Adapter parameters at rank 1: inputs + outputs of every tuned layer."""

    @property
    def total(self) -> int:
        """All parameters of the checkpoint."""
        return self.language + self.embeddings + self.vision + self.other


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The largest thing that is in memory at a time."""

    sequences: int
    """Sequences of a forward: pairs in training (prefix shared by both answers), answers in generation."""
    prompt_tokens: int
    """Video and text tokens of a prompt."""
    answer_tokens: int
    patches: int
    """Tokens inside the vision tower, of one clip."""


def count_parameters(plan: Blueprint) -> Parameters:
    """Return the parameters of a checkpoint by part, without allocating them."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(plan.config)
    language = embeddings = vision = other = per_rank = 0
    seen: set[int] = set()
    for name, module in model.named_modules():
        tuned = isinstance(module, nn.Linear) and re.fullmatch(plan.family.lora_targets, name)
        for own, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if tuned and own == "weight":
                language += parameter.numel()
                per_rank += sum(parameter.shape)
            elif (isinstance(module, nn.Embedding) and "language_model" in name) or name.endswith("lm_head"):
                embeddings += parameter.numel()
            elif "language_model" in name or "text_model" in name:
                other += parameter.numel()
            else:
                vision += parameter.numel()
    return Parameters(language=language, embeddings=embeddings, vision=vision, other=other, lora_per_rank=per_rank)


def estimate_training(plan: Blueprint, model: ModelSettings, train: TrainSettings, load: Load) -> dict[str, float]:
    """Return GiB by part at the peak of a training step; `total` is their sum."""
    parameters = count_parameters(plan)
    adapter = parameters.lora_per_rank * train.lora.rank
    size = _bytes(model)
    tokens = load.sequences * (load.prompt_tokens + 2 * load.answer_tokens)
    layer = tokens * _layer_bytes(plan.config, size)
    layers = plan.config.get_text_config().num_hidden_layers
    inputs = tokens * plan.config.get_text_config().hidden_size * size  # of one layer: all that checkpointing keeps
    kept = layers * inputs + layer if uses_checkpointing(train, parameters.total) else layers * layer
    return _sum({
        "weights": _weights(parameters, model),
        "adapter": 4 * adapter,
        "adapter gradients": 4 * adapter,
        "optimizer": OPTIMIZER_BYTES.get(train.optimizer, 8) * adapter,
        "activations": kept,
        "answer logits": _head_bytes(plan.config, 2 * load.sequences * load.answer_tokens),
        "vision": _vision_bytes(plan, load, size),
    })


def estimate_generation(plan: Blueprint, model: ModelSettings, load: Load) -> dict[str, float]:
    """Return GiB by part at the peak of generation; `total` is their sum."""
    config = plan.config.get_text_config()
    size = _bytes(model)
    cache = 2 * config.num_hidden_layers * _key_width(config) * size  # per token
    width = 4 * config.hidden_size + 2 * config.intermediate_size
    logits = load.sequences * config.vocab_size * 4 * 4  # scores, noise, sorted copy and its softmax under top-p
    return _sum({
        "weights": _weights(count_parameters(plan), model),
        "cache": load.sequences * (load.prompt_tokens + load.answer_tokens) * cache,
        # while prompts are read: one layer's working set, freed layer by layer
        "activations": load.sequences * load.prompt_tokens * size * width,
        "logits": logits,
        "vision": _vision_bytes(plan, load, size),
    })


def uses_checkpointing(train: TrainSettings, num_parameters: int | None) -> bool:
    """Return whether activations are recomputed in the backward pass; None stands for a large model."""
    if train.gradient_checkpointing != "auto":
        return train.gradient_checkpointing
    return num_parameters is None or num_parameters >= CHECKPOINTED_FROM


def _bytes(model: ModelSettings) -> int:
    """Return the bytes of a number; a plan for `auto` is for a GPU, which has bfloat16."""
    return 2 if model.dtype == "auto" else DTYPES[model.dtype].itemsize


def _weights(parameters: Parameters, model: ModelSettings) -> float:
    size = _bytes(model)
    rest = parameters.total - parameters.language
    return parameters.language * (NF4_BYTES if model.quantize == "nf4" else size) + rest * size


def _layer_bytes(config: PretrainedConfig, size: int) -> float:
    """Return what one layer keeps per token for the backward pass, with LoRA on all its linear layers.

    In the compute type: input and output of both norms (4H), queries and keys and values (Q + 2K), the attention's
    output (Q), and of the MLP gate, up, their activation and product (4I). LoRA's A matrices are float32, so that
    below float32 PEFT keeps a float32 copy of the input of each of the seven layers (5H + Q + I).
    """
    text = config.get_text_config()
    hidden, inner, keys = text.hidden_size, text.intermediate_size, _key_width(text)
    queries = _head_width(text) * text.num_attention_heads
    own = (4 * hidden + 2 * queries + 2 * keys + 4 * inner) * size
    copies = 0 if size == 4 else (5 * hidden + queries + inner) * 4
    return float(own + copies)


def _head_width(text: Any) -> int:
    """Return the width of one attention head; configs without `head_dim` divide the hidden size."""
    given = text.to_dict().get("head_dim")
    return int(given or text.hidden_size // text.num_attention_heads)


def _key_width(text: Any) -> int:
    return _head_width(text) * int(text.num_key_value_heads)


def _head_bytes(config: PretrainedConfig, positions: int) -> float:
    """Return the float32 logits of answer positions, one tile and its gradient at a time."""
    rows, columns = min(positions, HEAD_TILE[0]), min(config.get_text_config().vocab_size, HEAD_TILE[1])
    return float(2 * 4 * rows * columns)


def _vision_bytes(plan: Blueprint, load: Load, size: int) -> float:
    """Return what encoding one clip under no_grad holds at a time, and its features.

    Per patch: float32 pixels of the processor (3 channels, patch x patch, two frames at most), and in the tower the
    residual, normed input, queries, keys, values (5 widths) or the MLP's gate, up and product (3 inner widths).
    """
    vision = plan.family.tower(plan.config)
    pixels = 4 * 3 * vision.patch * vision.patch * plan.family.frames_per_step
    tower = (2 * vision.width + max(3 * vision.width, 3 * vision.inner)) * size
    features = load.sequences * load.prompt_tokens * plan.config.get_text_config().hidden_size * size
    return float(load.patches * (pixels + tower) + features)


def _sum(parts: dict[str, float]) -> dict[str, float]:
    sizes = {name: value / GIB for name, value in parts.items()}
    return {**sizes, "total": sum(sizes.values())}
