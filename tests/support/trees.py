"""Tiny tuned policies with TRL's fused head, rows about noise clips, and the same answers through
plain forwards.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from peft import get_peft_model
from policies import tiny_folder
from tiny_models import Kind
from trl.trainer.utils import add_fused_lm_head

from dpo_video.family.subject import rows_of
from dpo_video.family.training_checks import (
    LONG,
    adapter_grads,
    answer_part,
    plain_logps,
    run_engine,
)
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import (
    LANGUAGE_ONLY,
    ModelPart,
    adapter_parameters,
    lora_config,
    lora_targets,
)
from dpo_video.recipe import LoraSettings, ModelSettings
from dpo_video.train.shared_prefix import PER_TOKEN

__all__ = [
    "LONG",
    "adapter_grads",
    "answer_part",
    "plain_logps",
    "rows_of",
    "run_engine",
    "tuned_policy",
]


def tuned_policy(
    kind: Kind, *, tune: Sequence[ModelPart] = LANGUAGE_ONLY, **settings: Any
) -> Policy:
    """Return a policy of its own with an adapter that changes the model, and the fused head that
    TRL gives it.
    """
    policy = load_policy(ModelSettings(name=str(tiny_folder(kind)), device="cpu", **settings))
    add_fused_lm_head(policy.bare, outputs=PER_TOKEN)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = get_peft_model(
            policy.model,
            lora_config(
                LoraSettings(rank=4, alpha=8),
                targets=lora_targets(policy.bare, policy.family, tune),
            ),
        )
        for name, parameter in adapter_parameters(model):
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return replace(policy, model=model)
