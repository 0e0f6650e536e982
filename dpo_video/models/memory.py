"""Estimate the memory of training and generation by part, from a checkpoint's config alone.

Parameters are counted on the model built without storage (torch's meta device), activations in
activations.py. Not
counted: the CUDA context (0.5-1 GiB) and fragmentation; leave a tenth of the GPU free.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PretrainedConfig

from dpo_video.models.activations import (
    ForwardShape,
    cached_width,
    decoder_activations,
    encoding_bytes,
    inner_width,
    kept_by_tower,
    one_layer,
    passing_in_backward,
)
from dpo_video.models.dtypes import DTYPES
from dpo_video.models.hub import ModelSpec
from dpo_video.models.lora import LANGUAGE_ONLY, ModelPart, expert_weights, lora_shapes
from dpo_video.recipe import LoraSettings, ModelSettings, TrainSettings

GIB = float(1 << 30)
NF4_BYTES = 0.5 + 0.127 / 8
"""Per parameter: 4 bits, and 0.127 bits of doubly quantised scales (Dettmers et al. 2023,
arXiv:2305.14314, sec. 3).
"""
OPTIMIZER_BYTES = {
    "adamw_torch": 8,
    "adamw_torch_fused": 8,
    "adamw_hf": 8,
    "adamw_8bit": 2,
    "adamw_bnb_8bit": 2,
    "paged_adamw_8bit": 2,
    "paged_adamw_32bit": 8,
    "sgd": 0,
    "adafactor": 0,
}
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
    norms_and_biases: int
    """Of the language model."""
    lora_per_rank: int
    """Adapter parameters at rank 1: inputs + outputs of every layer of the parts in `train.tune`,
    and of every expert under `train.lora.experts`.
    """
    experts: tuple[int, ...] = ()
    """The experts' weights by layer, where they are tuned."""

    @property
    def total(self) -> int:
        """All parameters of the checkpoint."""
        return self.language + self.embeddings + self.vision + self.norms_and_biases


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakLoad:
    """The largest thing that is in memory at a time."""

    sequences: int
    """Answers that are generated together; training takes as many pairs as `forward_pairs` says."""
    prompt_tokens: int
    """Video and text tokens of a prompt."""
    answer_tokens: int
    patches: int
    """Tokens inside the vision tower, of one clip."""
    sound_samples: int = 0
    """Of one clip's sound."""


def count_parameters(
    spec: ModelSpec, tune: Sequence[ModelPart] = LANGUAGE_ONLY, *, experts: bool = False
) -> Parameters:
    """Return the parameters of a checkpoint by part, without allocating them.

    Args:
        experts: whether `train.lora.experts` tunes them.

    Raises UserError where there is nothing of what is to be tuned.
    """
    model = spec.meta_model
    one_rank = LoraSettings(rank=1, alpha=1, experts=experts)
    adapter = lora_shapes(model, spec.family, tune, one_rank)
    language = embeddings = vision = norms = 0
    seen: set[int] = set()
    for name, module in model.named_modules():
        linear = isinstance(module, nn.Linear)
        tuned = linear and re.fullmatch(spec.family.lora_targets, name)
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if tuned and parameter_name == "weight":
                language += parameter.numel()
            elif (isinstance(module, nn.Embedding) and "language_model" in name) or name.endswith(
                "lm_head"
            ):
                embeddings += parameter.numel()
            elif "language_model" in name or "text_model" in name:
                norms += parameter.numel()
            else:
                vision += parameter.numel()
    return Parameters(
        language=language,
        embeddings=embeddings,
        vision=vision,
        norms_and_biases=norms,
        lora_per_rank=sum(map(math.prod, adapter.values())),
        experts=_experts_by_layer(model, spec) if experts else (),
    )


def _experts_by_layer(model: nn.Module, spec: ModelSpec) -> tuple[int, ...]:
    sizes: dict[str, int] = {}
    for name, weight in expert_weights(model, spec.family).items():
        layer = name.rpartition(".")[0]
        sizes[layer] = sizes.get(layer, 0) + weight.numel()
    return tuple(sizes.values())


def estimate_training(
    spec: ModelSpec,
    model: ModelSettings,
    train: TrainSettings,
    load: PeakLoad,
    *,
    shape: ForwardShape | None = None,
) -> dict[str, float]:
    """Return GiB by part at the peak of a training step, in the backward pass; `total` is their
    sum.

    Args:
        shape: of the largest forward, where it is known; None is that of pairs about clips of their
            own.
    """
    if not spec.family.shared_prefix:
        train = train.model_copy(update={"share_prefix": False})
    parameters = count_parameters(spec, train.tune, experts=train.lora.experts)
    adapter = parameters.lora_per_rank * train.lora.rank
    pairs = forward_pairs(train, load)
    shape = shape or forward_shape(train, load, pairs=pairs, masks=model.device == "cpu")
    checkpointing = uses_checkpointing(train, parameters.total)
    activations = _kept(spec, model, train, shape, checkpointing=checkpointing)
    updated = _updated_experts(parameters, model, train, checkpointing=checkpointing)
    logits = _head_bytes(spec.config, shape.scored)
    return _sum(
        {
            "weights": _weights(parameters, model),
            "adapter": 4 * adapter,
            "adapter gradients": 4 * adapter,
            "optimizer": OPTIMIZER_BYTES.get(train.optimizer, 8) * adapter,
            "activations": activations,
            **({"experts with their updates": updated} if updated else {}),
            "answer logits": logits,
            "vision": _vision_in_training(
                spec, train, load, size=_bytes(model), pairs=pairs, beside=activations + logits
            ),
        }
    )


def forward_pairs(train: TrainSettings, load: PeakLoad) -> int:
    """Return how many pairs are in a forward, each about a clip of its own: the case with most
    tokens for as many.
    """
    if train.tokens_per_batch is None:
        return train.batch_size
    fitting = train.tokens_per_batch // forward_shape(train, load, pairs=1).tokens
    return max(1, min(fitting, train.batch_size * train.gradient_accumulation))


def forward_shape(
    train: TrainSettings, load: PeakLoad, *, pairs: int, masks: bool = False
) -> ForwardShape:
    """Return the tokens of a forward over pairs about clips of their own, through shared prefixes
    or as rows.

    Args:
        masks: the CPU's way, with a mask for the lower segments of a tree, and with every position
            of a row scored.
    """
    prompt, answers = load.prompt_tokens, 2 * load.answer_tokens
    if not train.share_prefix:
        row = prompt + load.answer_tokens
        rows = 2 * pairs * row
        return ForwardShape(
            tokens=rows,
            scored=rows if masks else pairs * answers,
            masks=rows * row,
            repeated_keys=True,
        )
    tokens = pairs * (prompt + answers)
    return ForwardShape(
        tokens=tokens,
        scored=pairs * answers,
        masks=pairs * answers * (prompt + answers) if masks else 0,
        copied=0 if masks else pairs * (2 * prompt + answers),
    )


def _kept(
    spec: ModelSpec,
    model: ModelSettings,
    train: TrainSettings,
    shape: ForwardShape,
    *,
    checkpointing: bool,
) -> float:
    """Return what the language model keeps on the device, and the gradients passing beside it."""
    size, rank = _bytes(model), train.lora.rank
    passing = passing_in_backward(spec.config, shape, size=size)
    if train.activation_offloading:  # one layer's on their way out, or back
        return one_layer(spec.config, shape, size=size, rank=rank) + passing
    return passing + decoder_activations(
        spec.config, shape, size=size, rank=rank, checkpointing=checkpointing
    )


def _updated_experts(
    parameters: Parameters, model: ModelSettings, train: TrainSettings, *, checkpointing: bool
) -> float:
    """Return what tuned experts take beside their weights.

    PEFT (0.21) adds the update to a layer's experts before they run: a copy of their weights,
    which the backward pass needs, and there a gradient of the same size, twice while it is summed
    up over the experts.
    """
    if not parameters.experts:
        return 0.0
    largest = max(parameters.experts)
    one_at_a_time = checkpointing or train.activation_offloading
    kept = largest if one_at_a_time else sum(parameters.experts)
    return float((kept + 2 * largest) * _bytes(model))


def _vision_in_training(
    spec: ModelSpec, train: TrainSettings, load: PeakLoad, *, size: int, pairs: int, beside: float
) -> float:
    """Return the clips' features, and what encoding costs above them.

    A frozen tower's working set is gone when the language model runs: only what it takes beyond
    `beside` counts. A tuned one keeps what its backward pass needs; with gradient checkpointing or
    offloading less than this.
    """
    features = pairs * load.prompt_tokens * spec.config.get_text_config().hidden_size * size
    encoding = _encoding(spec, load, size)
    saved = 0.0
    if "vision" in train.tune:
        whole = spec.config.to_dict()
        saved = pairs * kept_by_tower(
            spec.family.tower(spec.config),
            whole.get("vision_config") or whole,
            load.patches,
            size=size,
            rank=train.lora.rank,
        )
    return features + saved + max(0.0, encoding - beside - saved)


def estimate_generation(
    spec: ModelSpec, model: ModelSettings, load: PeakLoad, *, answers_per_clip: int = 1
) -> dict[str, float]:
    """Return GiB by part at the peak of generation; `total` is their sum.

    Where prefixes are shared a clip's prompt is kept once for its answers, and clips are read one
    after another; elsewhere each answer has its own copy, and prompts are read together.

    Args:
        answers_per_clip: answers that share a clip's prompt.
    """
    config = spec.config.get_text_config()
    size = _bytes(model)
    cache = cached_width(config) * size  # per token
    width = 4 * config.hidden_size + 2 * inner_width(config)
    clips = math.ceil(load.sequences / answers_per_clip)
    shared = spec.family.shared_prefix
    prompts, read_together = (clips, 1) if shared else (load.sequences, load.sequences)
    tokens_kept = prompts * load.prompt_tokens + load.sequences * load.answer_tokens
    readers = min(answers_per_clip, load.sequences)
    # of one prefix at a time in float32, and their exponentials in the model's type
    scores = readers * config.num_attention_heads * load.prompt_tokens * (4 + size)
    logits = (
        load.sequences * config.vocab_size * 4 * 4
    )  # scores, noise, sorted copy and its softmax under top-p
    return _sum(
        {
            "weights": _weights(count_parameters(spec), model),
            "cache": tokens_kept * cache,
            # while prompts are read: one layer's working set, freed layer by layer; or attention
            # scores while answers are written
            "activations": max(
                read_together * load.prompt_tokens * size * width, scores if shared else 0
            ),
            "logits": logits,
            "vision": _encoding(spec, load, size)
            + clips * load.prompt_tokens * config.hidden_size * size,
        }
    )


def answers_at_once(
    batch_size: int | Literal["auto"],
    spec: ModelSpec,
    model: ModelSettings,
    *,
    shared: bool,
    answer_tokens: int,
    free_bytes: int | None,
) -> int:
    """Return how many answers are written at a time: `generate.batch_size`, or what `auto` stands
    for.

    Args:
        shared: whether the answers about a clip share its prompt; else 8 are safe on most devices.
        answer_tokens: of the longest answer.
        free_bytes: of the device's memory; None is the CPU.
    """
    if batch_size != "auto":
        return batch_size
    if not shared:
        return 8
    if free_bytes is None:
        return 64
    config = spec.config.get_text_config()
    kept = cached_width(config) * _bytes(model) * answer_tokens
    logits = config.vocab_size * 4 * 4
    return max(1, min(256, int(free_bytes / 2 / (kept + logits))))


def uses_checkpointing(train: TrainSettings, num_parameters: int | None) -> bool:
    """Return whether activations are recomputed in the backward pass; None stands for a large
    model.
    """
    if train.gradient_checkpointing != "auto":
        return train.gradient_checkpointing
    return num_parameters is None or num_parameters >= CHECKPOINTED_FROM


def _bytes(model: ModelSettings) -> int:
    """Return the bytes of a number; a plan for `auto` is for a GPU, which has bfloat16."""
    return 2 if model.dtype == "auto" else DTYPES[model.dtype].itemsize


def _weights(parameters: Parameters, model: ModelSettings) -> float:
    size = _bytes(model)
    num_16bit = parameters.total - parameters.language
    return parameters.language * (NF4_BYTES if model.quantize == "nf4" else size) + num_16bit * size


def _head_bytes(config: PretrainedConfig, positions: int) -> float:
    """Return the float32 logits of answer positions, one tile and its gradient at a time."""
    rows, columns = (
        min(positions, HEAD_TILE[0]),
        min(config.get_text_config().vocab_size, HEAD_TILE[1]),
    )
    return float(2 * 4 * rows * columns)


def _encoding(spec: ModelSpec, load: PeakLoad, size: int) -> float:
    return encoding_bytes(spec, patches=load.patches, sound_samples=load.sound_samples, size=size)


def _sum(parts: dict[str, float]) -> dict[str, float]:
    sizes = {name: value / GIB for name, value in parts.items()}
    return {**sizes, "total": sum(sizes.values())}
