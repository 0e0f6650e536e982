"""LoRA on the experts of a mixture: what is tuned and what is not, against updates that are added
by hand, gradients of every expert, and counts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from family_cases import TOLERANCE, family_rows, family_settings, row_logits
from safetensors.torch import load_file
from torch import Tensor, nn
from trees import adapter_grads, answer_part, plain_logps, rows_of, run_engine
from trl.trainer.utils import add_fused_lm_head

from dpo_video.core.errors import UserError
from dpo_video.models.families import FAMILIES
from dpo_video.models.hub import model_spec
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import (
    LANGUAGE_ONLY,
    adapter_parameters,
    expert_weights,
    lora_config,
    lora_shapes,
)
from dpo_video.models.memory import GIB, PeakLoad, count_parameters, estimate_training
from dpo_video.models.peft_library import get_peft_model
from dpo_video.models.start import check_start
from dpo_video.recipe import DataSettings, JudgeSettings, LoraSettings, Recipe, TrainSettings
from dpo_video.train.dpo_config import check_train_settings
from dpo_video.train.shared_prefix import PER_TOKEN, choose_engine

MIXTURES = sorted(name for name, row in FAMILIES.items() if row.expert_parameters)
each_mixture = pytest.mark.parametrize("family", MIXTURES)
LORA = LoraSettings(rank=4, alpha=8, experts=True)


def tuned_experts(family: str) -> Policy:
    """Return a policy of its own whose adapter changes experts, too, with TRL's fused head."""
    policy = load_policy(family_settings(family))
    add_fused_lm_head(policy.bare, outputs=PER_TOKEN)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = get_peft_model(policy.model, lora_config(LORA, policy.family))
        for name, parameter in adapter_parameters(model):
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
    return replace(policy, model=model)


@cache
def shared_tuned(family: str) -> Policy:
    """Return the same policy, loaded once; tests leave it as it is."""
    return tuned_experts(family)


def recipe_of(family: str, **train: Any) -> Recipe:
    return Recipe(
        name="r",
        model=family_settings(family),
        data=DataSettings(samples="s.jsonl"),
        judge=JudgeSettings(model="j"),
        train=TrainSettings(**{"lora": LORA, **train}),
    )


def routers(policy: Policy) -> dict[str, nn.Module]:
    """Return what decides between experts, by name: what stands beside them and is called a
    gate.
    """
    return {
        name: module
        for name, module in policy.bare.named_modules()
        if name.rpartition(".")[2] in ("gate", "router", "shared_expert_gate")
    }


def file_updates(weights: dict[str, Tensor], name: str, num_experts: int) -> list[Tensor]:
    """Return the update of each expert, (out, in), from PEFT's file: A holds the ranks of the first
    expert, then those of the second; B has the expert as its innermost place.
    """
    down, up = weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"]
    return [
        LORA.alpha
        / LORA.rank
        * up[:, expert::num_experts]
        @ down[expert * LORA.rank : (expert + 1) * LORA.rank]
        for expert in range(num_experts)
    ]


@torch.no_grad()
def test_an_adapter_of_experts_is_their_weights_plus_each_ones_own_update(tmp_path: Path) -> None:
    """Written, then added by hand to a model without PEFT: the tuned model's logits."""
    for family in MIXTURES:
        policy, folder = shared_tuned(family), tmp_path / family
        policy.model.save_pretrained(str(folder))
        weights = load_file(folder / "adapter_model.safetensors")
        by_hand = load_policy(family_settings(family))
        parameters = dict(by_hand.bare.named_parameters())
        wrapped: dict[str, int] = {}
        for name, weight in reversed(expert_weights(by_hand.bare, policy.family).items()):
            module = name.rpartition(".")[0]
            layers = ".base_layer" * wrapped.get(module, 0)
            wrapped[module] = wrapped.get(module, 0) + 1
            updates = file_updates(weights, f"base_model.model.{module}{layers}", len(weight))
            for expert, update in enumerate(updates):
                weight[expert] += update
        for name in [name for name in weights if ".lora_A." in name and ".experts." not in name]:
            up = weights[name.replace(".lora_A.", ".lora_B.")]
            layer = name.removeprefix("base_model.model.").replace(".lora_A", "")
            parameters[layer] += LORA.alpha / LORA.rank * up @ weights[name]
        for row in (rows[0] for rows in family_rows(family)):
            torch.testing.assert_close(
                row_logits(policy, row), row_logits(by_hand, row), atol=2e-4, rtol=1e-4
            )


@each_mixture
def test_a_saved_adapter_of_experts_reloads_and_merges(family: str, tmp_path: Path) -> None:
    policy, row = shared_tuned(family), family_rows(family)[0][0]
    tuned = row_logits(policy, row)
    policy.model.save_pretrained(str(tmp_path / "adapter"))
    again: Any = load_policy(family_settings(family), adapter=tmp_path / "adapter")
    torch.testing.assert_close(row_logits(again, row), tuned, atol=TOLERANCE, rtol=0)
    with again.model.disable_adapter():
        off = row_logits(again, row)
    plain = row_logits(load_policy(family_settings(family)), row)
    torch.testing.assert_close(off, plain, atol=TOLERANCE, rtol=0)
    assert float((tuned - plain).abs().max()) > 0.1
    again.model.merge_and_unload(safe_merge=True).save_pretrained(tmp_path / "merged")
    policy.processor.save_pretrained(tmp_path / "merged")
    merged = load_policy(policy.settings.model_copy(update={"name": str(tmp_path / "merged")}))
    torch.testing.assert_close(row_logits(merged, row), tuned, atol=1e-3, rtol=0)


@contextmanager
def chosen_experts(policy: Policy) -> Iterator[dict[str, set[int]]]:
    """Give the experts that tokens ran through while the block runs, by the name of their module:
    what these are called with.
    """
    chosen: dict[str, set[int]] = {}
    modules = dict(policy.bare.named_modules())
    hooks = []
    for name in expert_weights(load_policy(policy.settings).bare, policy.family):
        seen = chosen.setdefault(name.rpartition(".")[0], set())
        hooks.append(
            modules[name.rpartition(".")[0]].register_forward_pre_hook(
                lambda _, inputs, seen=seen: seen.update(inputs[1].unique().tolist())
            )
        )
    try:
        yield chosen
    finally:
        for hook in hooks:
            hook.remove()


@each_mixture
def test_gradients_are_those_of_plain_forwards_and_reach_every_expert_that_was_chosen(
    family: str,
) -> None:
    policy = shared_tuned(family)
    rows = rows_of(
        policy,
        ({"count": 4, "height": 56, "width": 112}, {"what happens ?": ["yes", "a red square"]}),
        ({"count": 2, "height": 112, "width": 56}, {"what ?": ["no"]}),
    )
    with chosen_experts(policy) as chosen:
        mine = answer_part(rows, run_engine(policy, choose_engine(policy), rows).log_probs)
    grads = adapter_grads(policy, torch.cat(mine).mean())
    theirs = adapter_grads(policy, torch.cat([plain_logps(policy, row) for row in rows]).mean())
    assert grads.keys() == theirs.keys() == {name for name, _ in adapter_parameters(policy.model)}
    for name, grad in theirs.items():
        limit = 1e-5 + 1e-3 * float(grad.abs().max())
        assert float((grads[name] - grad).abs().max()) <= limit, name
    assert chosen and not any(".lora_" in name for name in routers(policy))
    last = policy.bare.config.get_text_config().num_hidden_layers - 1  # prompts end unscored there
    for module, experts in chosen.items():
        ups = [
            grad
            for name, grad in grads.items()
            if name.replace(".base_layer", "").endswith(f"{module}.lora_B.default.weight")
        ]
        num_experts = ups[0].shape[1] // LORA.rank
        for up in ups:
            moved = {e for e in range(num_experts) if up[:, e::num_experts].abs().max() > 0}
            assert moved and moved <= experts, module
            assert moved == experts or f".layers.{last}." in module, module


@each_mixture
def test_what_is_tuned_is_what_is_counted_and_no_router_is(family: str) -> None:
    """The parameters that training changes: by name and shape, and at every rank by `check`."""
    policy, spec = shared_tuned(family), model_spec(family_settings(family))
    trained = {
        name.replace(".default.", "."): tuple(weight.shape)
        for name, weight in policy.model.named_parameters()
        if weight.requires_grad
    }
    bare = load_policy(family_settings(family)).bare
    assert trained == lora_shapes(bare, policy.family, LANGUAGE_ONLY, LORA)
    counted = count_parameters(spec, experts=True)
    total = sum(weight.numel() for _, weight in adapter_parameters(policy.model))
    assert counted.lora_per_rank * LORA.rank == total
    assert sum(counted.experts) == sum(
        weight.numel() for weight in expert_weights(bare, policy.family).values()
    )
    without = count_parameters(spec)
    assert without.lora_per_rank < counted.lora_per_rank and without.total == counted.total
    assert routers(policy) and not any(
        isinstance(part, nn.Linear) and "lora" in name
        for module in routers(policy).values()
        for name, part in module.named_modules()
    )


@each_mixture
def test_nf4_is_refused_for_a_mixture_of_experts_with_the_reason(family: str) -> None:
    with pytest.raises(UserError, match=r"in 4 bit, and they are most .*Set model\.quantize to no"):
        load_policy(family_settings(family, quantize="nf4"))


def test_experts_are_refused_where_a_model_has_none() -> None:
    reason = r"train\.lora\.experts is true.*'qwen3_vl' has no experts.*Set train\.lora\.experts"
    with pytest.raises(UserError, match=reason):
        check_start(recipe_of("qwen3_vl"))
    with pytest.raises(UserError, match=reason):
        count_parameters(model_spec(family_settings("qwen3_vl")), experts=True)
    check_start(recipe_of("qwen3_vl_moe"))
    check_start(recipe_of("qwen3_vl", lora=LoraSettings()))


def test_dropout_on_experts_is_refused() -> None:
    lora = LoraSettings(experts=True, dropout=0.1)
    recipe = recipe_of("qwen3_vl_moe", lora=lora, trl={"disable_dropout": False})
    with pytest.raises(UserError, match=r"PEFT has none for the fused weights of experts\. Set it"):
        check_train_settings(recipe)


def test_a_plan_counts_the_copy_of_experts_that_autograd_keeps() -> None:
    """Of each layer's experts one copy with their update; the estimate adds two gradients of a
    layer, and with checkpointing counts one layer.
    """
    policy = shared_tuned("qwen3_vl_moe")
    bare = load_policy(policy.settings).bare
    sizes = {weight.nbytes for weight in expert_weights(bare, policy.family).values()}
    weights = {weight.untyped_storage().data_ptr() for weight in policy.model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and storage.nbytes() in sizes:
            kept[storage.data_ptr()] = tensor
        return tensor

    rows = rows_of(policy, ({"count": 2, "height": 56, "width": 56}, {"what ?": ["no", "yes"]}))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run_engine(policy, choose_engine(policy), rows)
    load = PeakLoad(sequences=1, prompt_tokens=50, answer_tokens=9, patches=64)
    layers = count_parameters(model_spec(policy.settings), experts=True).experts
    copies = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert copies == 4 * sum(layers)
    settings = policy.settings.model_copy(update={"dtype": "float32"})
    spec = model_spec(settings)
    for checkpointing, counted in ((False, sum(layers)), (True, max(layers))):
        train = TrainSettings(lora=LORA, gradient_checkpointing=checkpointing)
        parts = estimate_training(spec, settings, train, load)
        expected = 4 * (counted + 2 * max(layers)) / GIB
        assert parts["experts with their updates"] == pytest.approx(expected)
    plain = estimate_training(spec, settings, TrainSettings(lora=LoraSettings()), load)
    assert "experts with their updates" not in plain
