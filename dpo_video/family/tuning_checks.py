"""The check of a family whose tower and projector are tuned with its language model: gradients of
plain forwards on pixels, with activations kept or computed again.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head

from dpo_video.core.errors import UserError
from dpo_video.core.library_warnings import quiet_libraries
from dpo_video.family.subject import CLIPS, Subject, processor_outputs, require, rows_of_clip
from dpo_video.family.training_checks import adapter_grads, answer_part, run_engine
from dpo_video.models.collate import TokenRow
from dpo_video.models.families import Family, Model
from dpo_video.models.features import pending_features
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import (
    ModelPart,
    adapter_parameters,
    check_tuned,
    lora_config,
    lora_shapes,
    lora_targets,
    part_of_module,
)
from dpo_video.models.peft_library import get_peft_model
from dpo_video.models.prompts import answer_ids
from dpo_video.recipe import LoraSettings
from dpo_video.train.shared_prefix import PER_TOKEN, choose_engine

LORA = LoraSettings(rank=4, alpha=8)
ALL: tuple[ModelPart, ...] = ("language", "projector", "vision")


def tower_and_projector_are_tuned_as_by_plain_forwards(subject: Subject, folder: Path) -> None:
    """All parts tuned, the gradients of log-probs in training mode are those of the model's own
    call on pixels, also where activations are computed again; PEFT tunes what it is told to.
    """
    policy, parts = _tuned(subject)
    rows = [
        replace(row, features=features)
        for clip in CLIPS
        for made in [rows_of_clip(policy, clip)]
        for features in [pending_features(policy, made[0].clip)]
        for row in made
    ]
    wanted = adapter_grads(policy, _weighed(_stock_logps(policy)))
    for part in parts:
        named = [name for name in wanted if _part(name, policy.family) == part]
        largest = max((float(wanted[name].abs().max()) for name in named), default=0.0)
        require(largest > 0, "features", f"gives no gradient to what is tuned of the part {part!r}")
    policy.model.train()
    for how in ("", ", activations computed again"):
        if how:
            with quiet_libraries():
                policy.bare.gradient_checkpointing_enable({"use_reentrant": False})
        _require_same(_engine_grads(policy, rows), wanted, how)


def tunable_parts(model: Model, family: Family) -> tuple[ModelPart, ...]:
    """Return the parts of a bare model that `train.tune` takes together."""
    if family.no_tower_lora is not None:
        return ("language",)
    found = []
    for part in ALL:
        try:
            lora_targets(model, family, [part])
        except UserError:  # no linear layer there
            continue
        found.append(part)
    return tuple(found)


def _tuned(subject: Subject) -> tuple[Policy, tuple[ModelPart, ...]]:
    """Return a policy of its own with a random adapter on all parts that it has, and these."""
    policy = load_policy(subject.settings)
    add_fused_lm_head(policy.bare, outputs=PER_TOKEN)
    parts = tunable_parts(policy.bare, policy.family)
    tuned = (policy.bare, policy.family, parts)
    targets, shapes = lora_targets(*tuned), lora_shapes(*tuned, LORA)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        try:
            model = get_peft_model(policy.model, lora_config(LORA, policy.family, targets=targets))
            check_tuned(policy.bare, shapes, parts, policy.family)
        except (UserError, ValueError) as error:
            reason = str(error).splitlines()[0][:200]
            require(False, "no_tower_lora", f"is None, and PEFT does not tune {parts}: {reason}")
        for name, parameter in adapter_parameters(model):
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return replace(policy, model=model), parts


def _stock_logps(policy: Policy) -> list[Tensor]:
    """Return (answer tokens,) log-probs of each row from the model's own call on pixels, nats."""
    logps = []
    for clip in CLIPS:
        for text in clip.answers:
            ids = answer_ids(policy, text)
            end = policy.processor.tokenizer.decode([policy.end_id])
            logits = policy.family.stock_logits(
                policy.bare, processor_outputs(policy, clip, text + end)
            )
            answer = torch.tensor(ids, device=logits.device)
            last = logits[0, -len(ids) - 1 : -1].float()
            logps.append(last.log_softmax(-1).gather(1, answer[:, None])[:, 0])
    return logps


def _engine_grads(policy: Policy, rows: Sequence[TokenRow]) -> dict[str, Tensor]:
    output = run_engine(policy, choose_engine(policy), rows, encode=True)
    assert output.log_probs is not None, "the fused head gives log-probs always"
    return adapter_grads(policy, _weighed(answer_part(rows, output.log_probs)))


def _weighed(values: Sequence[Tensor]) -> Tensor:
    """Return a loss in which every token of every row has a weight of its own."""
    return torch.cat(
        [
            torch.linspace(-1, 2, len(value), device=value.device) * (number + 1) * value
            for number, value in enumerate(values)
        ]
    ).mean()


def _require_same(ours: dict[str, Tensor], wanted: dict[str, Tensor], how: str) -> None:
    reached = {name for name, grad in wanted.items() if bool(grad.any())}
    lost = sorted(reached - ours.keys())
    require(not lost, "features", f"give no gradient to {lost[:3]} in training{how}")
    for name in reached:
        limit = 1e-4 + 1e-3 * float(wanted[name].abs().max())
        moved = float((ours[name] - wanted[name]).abs().max())
        require(
            moved <= limit,
            "features",
            f"in training{how} the gradient of {name} differs by {moved:.1e} from that of the "
            "model's own call on pixels",
        )


def _part(name: str, family: Family) -> ModelPart | None:
    return part_of_module(name.removeprefix("base_model.model.").partition(".lora_")[0], family)
