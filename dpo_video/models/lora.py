"""The adapter: LoRA on the language model's linear layers, kept in float32."""

import torch
from peft import LoraConfig
from torch import nn

from dpo_video.models.families import LORA_TARGETS, Family
from dpo_video.recipe import LoraSettings


def lora_config(settings: LoraSettings, family: Family | None = None) -> LoraConfig:
    """Return PEFT's settings: every linear layer of the language model, none of tower, projector or head."""
    return LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, bias="none",
                      target_modules=family.lora_targets if family else LORA_TARGETS, task_type="CAUSAL_LM")


def keep_adapter_fp32(model: nn.Module) -> None:
    """Turn the adapter's parameters into float32, in place.

    TRL casts them to bfloat16 under QLoRA (dpo_trainer.py:726 in 1.16). At DPO learning rates most updates are
    smaller than bfloat16 can represent, and are lost.
    """
    for _, parameter in adapter_parameters(model):
        parameter.data = parameter.data.to(torch.float32)


def assert_fp32_adapter(model: nn.Module) -> None:
    """Fail when an adapter parameter is not float32, or when there is no adapter."""
    dtypes = {parameter.dtype for _, parameter in adapter_parameters(model)}
    assert dtypes == {torch.float32}, f"adapter parameters must be float32, found {dtypes or 'none'}"


def adapter_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the LoRA parameters by name."""
    return [(name, parameter) for name, parameter in model.named_parameters() if ".lora_" in name]
