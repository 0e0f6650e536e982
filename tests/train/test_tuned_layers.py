"""Which layers `train.tune` puts an adapter on: just those that it changes, or it says why not."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from family_cases import family_settings
from peft import get_peft_model
from stand_ins.flat_checkpoints import STAND_INS
from tiny_world import make_pairs, make_recipe, open_run
from torch import nn

from dpo_video.core.errors import UserError
from dpo_video.models.families import FAMILIES, Family
from dpo_video.models.hub import model_spec
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import (
    ModelPart,
    check_tuned,
    lora_config,
    lora_shapes,
    lora_targets,
)
from dpo_video.pipeline import do_stages
from dpo_video.recipe import LoraSettings, ModelSettings
from dpo_video.store import RunStore

ALL: tuple[ModelPart, ...] = ("language", "projector", "vision")
TUNED: tuple[tuple[ModelPart, ...], ...] = (("projector",), ("vision",), ALL)


def test_a_layer_that_is_never_called_is_not_tuned(tmp_path: Path) -> None:
    """MiniCPM-V's resampler attends by torch's MultiheadAttention, which reads the weight of its
    `out_proj` and does not call it.
    """
    STAND_INS["minicpmv"](tmp_path / "model")
    spec = model_spec(ModelSettings(name=str(tmp_path / "model"), device="cpu"))
    assert isinstance(spec.meta_model.get_submodule("resampler.attn.out_proj"), torch.nn.Linear)
    targets = lora_targets(spec.meta_model, spec.family, ["projector"])
    assert re.fullmatch(targets, "resampler.kv_proj")
    assert not re.fullmatch(targets, "resampler.attn.out_proj")


@pytest.mark.parametrize("part", ["projector", "vision"])
@pytest.mark.parametrize("name", [row.name for row in FAMILIES.values() if row.no_tower_lora])
def test_a_part_that_a_family_refuses_is_refused_before_the_first_stage(
    name: str, part: ModelPart, tmp_path: Path
) -> None:
    recipe = make_recipe(tmp_path, tune=["language", part])
    recipe = recipe.model_copy(update={"model": family_settings(name)})
    with (
        RunStore(recipe.run_folder) as store,
        pytest.raises(UserError, match=r"names of layers .* Set train\.tune to \[language\]"),
    ):
        do_stages(open_run(recipe, store, tmp_path, make_pairs(2)), ["generate", "train"])


@pytest.mark.parametrize("tune", TUNED, ids=" ".join)
def test_of_a_model_that_hears_and_has_experts_just_these_parts_are_tuned(
    tune: tuple[ModelPart, ...],
) -> None:
    """PEFT makes bare names of a pattern there, such as `0` of the projector's first layer."""
    policy = load_policy(family_settings("qwen3_omni_moe", dtype="float32"))
    check_tuned(*adapted(policy, tune))


def test_a_model_of_which_peft_tunes_other_layers_is_refused() -> None:
    """It takes the projector's `gate_proj` for weights of the experts (PEFT 0.21)."""
    settings = family_settings("glm4v_moe", dtype="float32")
    for part in ("projector", "vision"):
        policy = load_policy(settings)
        unaware = replace(policy, family=replace(policy.family, no_tower_lora=None))
        with pytest.raises(UserError, match=r"'glm4v_moe'.*Set train\.tune to \[language"):
            check_tuned(*adapted(unaware, [part]))
    check_tuned(*adapted(load_policy(settings), ["language"]))


def adapted(
    policy: Policy, tune: Sequence[ModelPart]
) -> tuple[nn.Module, Mapping[str, tuple[int, int]], Sequence[ModelPart], Family]:
    """Return a policy with an adapter, and what check_tuned asks of it."""
    settings = LoraSettings(rank=4, alpha=8)
    shapes = lora_shapes(policy.bare, policy.family, tune, settings)
    targets = lora_targets(policy.bare, policy.family, tune)
    get_peft_model(policy.model, lora_config(settings, policy.family, targets=targets))
    return policy.bare, shapes, tune, policy.family
