"""Tiny tuned policies with TRL's fused head, rows about noise clips, and the same answers through
plain forwards.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from peft import get_peft_model
from policies import make_frames, tiny_folder
from tiny_models import Kind
from torch import Tensor
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from dpo_video.models.collate import TokenRow, collate
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import LANGUAGE_ONLY, Part, adapter_parameters, lora_config, lora_targets
from dpo_video.recipe import LoraSettings, ModelSettings, VideoSettings
from dpo_video.train.forward import Engine, encode_rows
from dpo_video.train.logps import clip_rows
from dpo_video.train.pair_batches import completion_mask, loss_inputs
from dpo_video.train.shared_prefix import PER_TOKEN

LONG = (
    "the man is cooking pasta in a kitchen and talks to the camera about a red square moving right "
    * 3
)


def tuned_policy(kind: Kind, *, tune: Sequence[Part] = LANGUAGE_ONLY, **settings: Any) -> Policy:
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


def rows_of(
    policy: Policy, *clips: tuple[dict[str, Any], dict[str, Sequence[str]]]
) -> list[TokenRow]:
    """Return rows of clips, each given as make_frames' arguments and answers by question."""
    rows = []
    for frames, questions in clips:
        made = [
            row
            for question, answers in questions.items()
            for row in clip_rows(
                policy, make_frames(**frames), VideoSettings(), question=question, answers=answers
            )
        ]
        rows += [replace(row, clip=made[0].clip, features=made[0].features) for row in made]
    return rows


def run_engine(
    policy: Policy, engine: Engine, rows: Sequence[TokenRow], *, encode: bool = False, **kwargs: Any
) -> FusedCausalLMOutput:
    """Return an engine's results for rows, called as `install_engine` does for TRL; `encode`: from
    their pixels.
    """
    batch = loss_inputs(policy, rows)
    if encode:
        batch["rows"] = encode_rows(policy, rows)
    labels = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, -100)
    return engine(
        policy.bare.forward, family=policy.family, labels=labels, use_cache=False, **batch, **kwargs
    )


def plain_logps(policy: Policy, row: TokenRow) -> Tensor:
    """Return (answer tokens,) log-probs of a row, run alone in a plain forward with logits,
    nats.
    """
    batch = collate(policy, [row], "right")
    logits = policy.bare(**batch, use_cache=False).logits[0, :-1].float()
    scored = completion_mask([row], batch)[0, 1:].bool()
    return logits.log_softmax(-1).gather(1, batch["input_ids"][0, 1:, None])[:, 0][scored]


def answer_part(rows: Sequence[TokenRow], values: Tensor) -> list[Tensor]:
    """Return of per-token values (R, T - 1) each row's answer's."""
    return [
        values[number, len(row.prompt.input_ids) - 1 : len(row) - 1]
        for number, row in enumerate(rows)
    ]


def adapter_grads(policy: Policy, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradients of the adapter by name, and clear them."""
    policy.model.zero_grad()
    loss.backward()
    grads = {
        name: parameter.grad.clone()
        for name, parameter in adapter_parameters(policy.model)
        if parameter.grad is not None
    }
    policy.model.zero_grad()
    return grads
