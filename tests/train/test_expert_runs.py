"""Runs that tune experts: steps through the train stage, a second run from their adapter, a merge,
and two processes that share the model.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from clips import write_clip
from family_cases import family_folder
from tiny_families import tiny_family
from tiny_world import FRAMES, adapter_weights, make_pairs, make_recipe, open_run
from training import train_apart, train_here

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.models.hub import model_spec
from dpo_video.models.load import load_policy
from dpo_video.models.lora import LANGUAGE_ONLY, expert_weights, lora_shapes
from dpo_video.models.memory import count_parameters
from dpo_video.models.start import check_start
from dpo_video.pipeline import do_stages
from dpo_video.recipe import LoraSettings, Recipe
from dpo_video.recipe.file import change_recipe
from dpo_video.store import RunStore
from dpo_video.train.dpo_config import FSDP_CONFIG
from dpo_video.train.merge import merge

LORA = LoraSettings(rank=4, alpha=8, experts=True)
PAIRS = make_pairs(4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips and a tiny Qwen3-VL of experts."""
    folder = tmp_path_factory.mktemp("experts")
    tiny_family("qwen3_vl_moe", folder / "model")
    for number, frames in enumerate(FRAMES):
        write_clip(folder / f"c{number}.mp4", frames, rate=2)
    return folder


def recipe_of(world: Path, name: str, **train: Any) -> Recipe:
    settings = {"lora": LORA, "max_steps": 3, "learning_rate": 1e-2, **train}
    return make_recipe(world, name=name, **settings)


@pytest.fixture(scope="module")
def trained(world: Path) -> tuple[Recipe, dict[str, Any]]:
    recipe = recipe_of(world, "first")
    return recipe, train_here(recipe, world, PAIRS)[0]


def test_training_changes_the_updates_of_experts_and_nothing_of_the_model(
    trained: tuple[Recipe, dict[str, Any]],
) -> None:
    recipe, counts = trained
    base = load_policy(recipe.model)
    written = adapter_weights(recipe.run_folder / "adapter")
    shapes = {name: tuple(weight.shape) for name, weight in written.items()}
    assert shapes == lora_shapes(base.bare, base.family, LANGUAGE_ONLY, LORA)
    counted = count_parameters(model_spec(recipe.model), experts=True)
    assert counts["trainable_parameters"] == counted.lora_per_rank * LORA.rank
    ups = [weight for name, weight in written.items() if "experts" in name and "lora_B" in name]
    layers = base.bare.config.get_text_config().num_hidden_layers
    assert len(ups) == 2 * layers and all(bool(up.any()) for up in ups)
    assert counts["last"]["rewards/margins"] > 0
    own = dict(base.bare.named_parameters())
    tuned = load_policy(recipe.model, adapter=recipe.run_folder / "adapter")
    kept = [name for name, _ in tuned.bare.named_parameters() if ".lora_" not in name]
    weights = dict(tuned.bare.named_parameters())
    assert {name.replace(".base_layer", "") for name in kept} == own.keys()
    assert all(torch.equal(weights[name], own[name.replace(".base_layer", "")]) for name in kept)


def test_a_run_goes_on_from_experts_that_were_tuned(
    world: Path, trained: tuple[Recipe, dict[str, Any]]
) -> None:
    """At a learning rate of nearly nothing their updates stay; the reference is what was asked
    for.
    """
    start = trained[0].run_folder / "adapter"
    for reference in ("start", "base"):
        recipe = recipe_of(world, f"next-{reference}", learning_rate=1e-30, max_steps=1)
        changes = [f"model.adapter={start}", f"train.reference={reference}"]
        recipe = change_recipe(recipe, changes)
        check_start(recipe)
        counts, run = train_here(recipe, world, PAIRS)
        assert (counts["first"]["rewards/margins"] == 0.0) == (reference == "start")
        begun, written = adapter_weights(start), adapter_weights(run.folder / "adapter")
        assert begun.keys() == written.keys()
        assert all(torch.equal(begun[name], written[name]) for name in begun)
    without = change_recipe(recipe, ["train.lora.experts=false"])
    with pytest.raises(UserError, match=r"does not fit: train\.tune .* has 16 tensors, it has 24"):
        check_start(without)


def test_merged_experts_are_an_ordinary_checkpoint(
    world: Path, trained: tuple[Recipe, dict[str, Any]], tmp_path: Path
) -> None:
    recipe, _ = trained
    with RunStore(recipe.run_folder) as store:
        merge(open_run(recipe, store, world, PAIRS), tmp_path / "merged")
    settings = recipe.model.model_copy(update={"name": str(tmp_path / "merged")})
    merged, base = load_policy(settings), load_policy(recipe.model)
    assert type(merged.model) is type(base.model)
    own = dict(base.bare.named_parameters())
    for name, weight in expert_weights(merged.bare, merged.family).items():
        assert float((weight - own[name]).abs().max()) > 1e-4, name
    gates = [name for name in own if name.endswith("mlp.gate.weight")]
    weights = dict(merged.bare.named_parameters())
    assert gates and all(torch.equal(weights[name], own[name]) for name in gates)


def test_a_run_on_a_dense_model_stops_before_its_first_stage(world: Path) -> None:
    recipe = change_recipe(recipe_of(world, "dense"), [f"model.name={family_folder('qwen3_vl')}"])
    with (
        RunStore(recipe.run_folder) as store,
        pytest.raises(UserError, match=r"'qwen3_vl' has no experts"),
    ):
        do_stages(open_run(recipe, store, world, PAIRS), ["generate", "train"])


def test_two_processes_that_share_the_experts_end_with_the_weights_of_one(world: Path) -> None:
    """FSDP: a step of plain gradient descent over four pairs, in halves or together."""
    step = {"epochs": 1, "max_steps": None, "warmup_ratio": 0.0, "gradient_accumulation": 1}
    step |= {"optimizer": "sgd", "learning_rate": 1.0, "gradient_checkpointing": True}
    alone = recipe_of(world, "alone", batch_size=4, **step)
    train_here(alone, world, PAIRS)
    shared = recipe_of(world, "shared", batch_size=2, **step)
    shared.run_folder.mkdir(parents=True)
    write_jsonl(shared.run_folder / "pairs.jsonl", PAIRS)
    launcher = ("-m", "accelerate.commands.launch", "--config_file", str(FSDP_CONFIG))
    code, said = train_apart([shared], world, launcher=(*launcher, "--main_process_port", "0"))
    assert code == 0, said[-3000:]
    sharded = torch.load(world / "shared-rank0.pt")["sharded"]
    assert sum("experts" in name and ".lora_" not in name for name in sharded) == 4
    theirs = adapter_weights(shared.run_folder / "adapter")
    for name, weight in adapter_weights(alone.run_folder / "adapter").items():
        torch.testing.assert_close(theirs[name], weight, atol=1e-6, rtol=1e-4)
        assert "lora_A" in name or bool(weight.any())
