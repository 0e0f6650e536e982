"""The adapter: LoRA on the linear layers of the language model, or of further parts, and on experts
where that is set; kept in float32.
"""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from dpo_video.core.errors import UserError
from dpo_video.models.families import LORA_TARGETS, Family
from dpo_video.recipe import LoraSettings

if TYPE_CHECKING:
    from peft import LoraConfig

ModelPart = Literal["language", "projector", "vision"]
LANGUAGE_ONLY: tuple[ModelPart, ...] = ("language",)
PROJECTOR = re.compile(
    r"projector|(?<!self_attn\.)projection\b|connector|merger|qformer|resampler|pooling"
    r"|attn_pool\b|llama_proj\b|\bmlp1\b"
)
"""Found in the names of what stands between tower and language model, in all known families."""
VISION = re.compile(r"visual|vision|_tower|image_vit|vpm")
"""Found in the names of towers."""
AUDIO = re.compile(r"audio|mm_projector_a\b")
"""Found in the names of what reads a clip's sound. It is never tuned: where a batch is silent, such
weights have no gradient, and processes that train together would wait for it.
"""


def lora_config(
    settings: LoraSettings, family: Family | None = None, *, targets: str | None = None
) -> "LoraConfig":
    """Return PEFT's settings: every linear layer of the language model, or those that `targets`
    matches, and the experts under `train.lora.experts`.
    """
    from dpo_video.models.peft_library import LoraConfig  # here: a plan needs no PEFT

    excludes = family.lora_excludes if family else None
    if family and excludes and targets and targets != family.lora_targets:
        excludes = f"(?!(?:{targets})$).*"  # for PEFT makes bare names of these too, such as `0`
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias="none",
        target_modules=targets or (family.lora_targets if family else LORA_TARGETS),
        exclude_modules=excludes,
        target_parameters=list(family.expert_parameters) if family and settings.experts else None,
        task_type="CAUSAL_LM",
    )


def lora_targets(model: nn.Module, family: Family, tune: Collection[ModelPart]) -> str:
    """Return a regular expression of the linear layers of some parts of a bare model, for PEFT's
    `target_modules`.

    Raises UserError where the model has no linear layer in one of them, or the family tunes the
    language model alone.
    """
    if set(tune) == set(LANGUAGE_ONLY):
        return family.lora_targets
    if family.no_tower_lora is not None:
        raise UserError(
            f"train.tune is {list(tune)}, and in the family {family.name!r} "
            f"{family.no_tower_lora}. Set train.tune to [language]"
        )
    patterns: dict[str, None] = {}
    linears: list[str] = []
    others: list[str] = []
    for name, module in model.named_modules():
        left_out = family.lora_excludes and re.fullmatch(family.lora_excludes, name)
        (linears if takes_lora(module) and not left_out else others).append(name)
    for tuned_part in sorted(set(tune)):
        names = [name for name in linears if part_of_module(name, family) == tuned_part]
        if not names:
            raise UserError(
                f"train.tune: found no linear layer of the part {tuned_part!r} in a model of the "
                f"family "
                f"{family.name}. Leave it out"
            )
        if tuned_part == "language":
            patterns[f"(?:{family.lora_targets})"] = None
        else:
            # one pattern for all layers: a number between dots counts them, one at the end names
            # the module
            patterns |= dict.fromkeys(
                re.sub(r"(?<=\.)\d+(?=\\\.)", r"\\d+", re.escape(name)) for name in names
            )
    targets = "|".join(patterns)
    wrong = [name for name in others if re.fullmatch(targets, name)]
    assert not wrong, (
        f"the pattern of train.tune matches modules that are no linear layers: {wrong[:3]}"
    )
    return targets


def takes_lora(module: nn.Module) -> bool:
    """Return whether LoRA on a module changes what the model computes.

    The `out_proj` inside torch's MultiheadAttention is a linear layer that is never called: its
    weight is read instead, and an update beside it would neither be seen nor trained (so PEFT
    0.21 says, tuners/lora/layer.py, MultiheadAttention).
    """
    return isinstance(module, nn.Linear) and not isinstance(module, NonDynamicallyQuantizableLinear)


def expert_weights(model: nn.Module, family: Family) -> dict[str, nn.Parameter]:
    """Return the fused weights of a bare model's experts by name, (E, out, in) each."""
    ends = tuple(f".{name}" for name in family.expert_parameters)
    return {name: weight for name, weight in model.named_parameters() if name.endswith(ends)}


def check_experts(model: nn.Module, family: Family, settings: LoraSettings) -> None:
    """Raise UserError where `train.lora.experts` asks for experts that a bare model has not."""
    if settings.experts and not expert_weights(model, family):
        raise UserError(
            f"train.lora.experts is true, and this model of the family {family.name!r} has no "
            "experts that could be tuned: every token runs through all of its layers, and LoRA "
            "tunes their linear layers as it is. Set train.lora.experts to false"
        )


def lora_shapes(
    model: nn.Module, family: Family, tune: Collection[ModelPart], settings: LoraSettings
) -> dict[str, tuple[int, int]]:
    """Return the shapes of an adapter's weights by PEFT's names in its file, for a bare model.

    PEFT (0.21, `ParamWrapper`) keeps the updates of E experts in one pair, (E * rank, in) and
    (out, E * rank), and wraps a module once for each of its weights: the last one outermost.

    Raises UserError where the model has nothing to tune in a part, or no experts.
    """
    check_experts(model, family, settings)
    targets, rank = lora_targets(model, family, tune), settings.rank
    pairs: dict[str, tuple[int, int, int]] = {}
    for name, module in model.named_modules():
        if takes_lora(module) and re.fullmatch(targets, name):
            pairs[name] = (rank, module.in_features, module.out_features)
    if settings.experts:
        inside: dict[str, list[nn.Parameter]] = {}
        for name, weight in expert_weights(model, family).items():
            inside.setdefault(name.rpartition(".")[0], []).append(weight)
        for name, weights in inside.items():
            for depth, weight in enumerate(reversed(weights)):
                num_experts, outputs, inputs = weight.shape
                pairs[name + ".base_layer" * depth] = (rank * num_experts, inputs, outputs)
    shapes = {}
    for name, (width, inputs, outputs) in pairs.items():
        shapes[f"base_model.model.{name}.lora_A.weight"] = (width, inputs)
        shapes[f"base_model.model.{name}.lora_B.weight"] = (outputs, width)
    return shapes


def part_of_module(name: str, family: Family) -> ModelPart | None:
    """Return the part that a module's full name belongs to; None for the head and what no part's
    LoRA tunes.
    """
    if re.fullmatch(family.lora_targets, name):
        return "language"
    if "language_model" in name or name.endswith("lm_head") or AUDIO.search(name):
        return None
    if PROJECTOR.search(name):
        return "projector"
    return "vision" if VISION.search(name) else None


def check_tuned(
    model: nn.Module, shapes: Collection[str], tune: Collection[ModelPart], family: Family
) -> None:
    """Raise UserError where PEFT put an adapter into other layers than it was told to: for some
    models of experts (0.21) it makes bare names of a pattern, or weights of experts of them.

    Args:
        model: the bare model, with the adapter in it.
        shapes: PEFT's names of the weights that there are to be (lora_shapes).
    """
    names = {name.replace(".default.weight", ".weight") for name, _ in adapter_parameters(model)}
    expected = {name.removeprefix("base_model.model.") for name in shapes}
    if names != expected:
        wrong = sorted(names ^ expected)[0]
        raise UserError(
            f"train.tune is {sorted(tune)}, and PEFT tunes other layers than these in a model of "
            f"the family {family.name!r}: it is wrong about {wrong}. "
            + (
                "Name other layers in the family's `lora_targets`"
                if set(tune) == set(LANGUAGE_ONLY)
                else "Set train.tune to [language]"
            )
        )


def tunes_tower(model: nn.Module) -> bool:
    """Return whether an adapter in the model changes what becomes of a clip: the tower's layers or
    the projector's.
    """
    return any(is_of_tower(name) for name, _ in adapter_parameters(model))


def is_of_tower(name: str) -> bool:
    """Return whether an adapter's weight changes what becomes of a clip, by its full name."""
    return "language_model" not in name and bool(PROJECTOR.search(name) or VISION.search(name))


def keep_adapter_fp32(model: nn.Module) -> None:
    """Turn the adapter's parameters into float32, in place.

    TRL casts them to bfloat16 under QLoRA (dpo_trainer.py:726 in 1.16). At DPO learning rates most
    updates are smaller than bfloat16 can represent, and are lost.
    """
    for _, parameter in adapter_parameters(model):
        parameter.data = parameter.data.to(torch.float32)


def assert_fp32_adapter(model: nn.Module) -> None:
    """Fail when an adapter parameter is not float32, or when there is no adapter."""
    dtypes = {parameter.dtype for _, parameter in adapter_parameters(model)}
    assert dtypes == {torch.float32}, (
        f"adapter parameters must be float32, found {dtypes or 'none'}"
    )


def adapter_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the LoRA parameters by name."""
    return [(name, parameter) for name, parameter in model.named_parameters() if ".lora_" in name]
