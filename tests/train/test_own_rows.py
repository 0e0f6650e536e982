"""Runs of a system in a layout of its own and of one in code of its own: what may change how they
run, and not what is learnt.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from clips import write_clip
from stand_ins.checkpoints import STAND_INS as OWN_CODE
from stand_ins.flat_checkpoints import STAND_INS as OWN_LAYOUT
from tiny_models import write_tiny
from tiny_world import FRAMES, adapter_weights, make_pairs, make_recipe
from train_process import train_until_killed
from training import read_log, train_here

from dpo_video.core.jsonl import write_jsonl
from dpo_video.models.served import NAMES_OF_LAYERS, NOTED
from dpo_video.recipe import Recipe
from dpo_video.recipe.file import change_recipe

PAIRS = make_pairs(4)
WAYS = {
    "frames kept": ["video.cache=frames"],
    "features kept": ["video.cache=features"],
    "activations computed again": ["train.gradient_checkpointing=true"],
}
"""Settings that leave the adapter as it is."""


def write_llava_video(folder: Path) -> None:
    OWN_LAYOUT["llava_qwen"](folder)


def write_internvl(folder: Path) -> None:
    """Its tower leaves out paths at random in training, and computes layers again by itself."""
    write_tiny(OWN_CODE["internvl_chat"], folder)


@pytest.fixture(scope="module", params=[write_internvl, write_llava_video])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param.__name__)
    request.param(folder / "model")
    for number, frames in enumerate(FRAMES):
        write_clip(folder / f"c{number}.mp4", frames, rate=2)
    return folder


def recipe_of(world: Path, name: str, *changes: str) -> Recipe:
    settings: dict[str, Any] = {"max_steps": 3, "learning_rate": 1e-2, "save_steps": 1}
    recipe = make_recipe(world, name=name, gradient_checkpointing=False, **settings)
    return change_recipe(recipe, ["model.trust_remote_code=true", *changes])


def trained(world: Path, name: str, *changes: str) -> dict[str, torch.Tensor]:
    """Return the adapter of a run."""
    recipe = recipe_of(world, name, *changes)
    train_here(recipe, world, PAIRS)
    return adapter_weights(recipe.run_folder / "adapter")


@pytest.fixture(scope="module")
def undisturbed(world: Path) -> dict[str, torch.Tensor]:
    return trained(world, "undisturbed")


def assert_same(weights: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert weights.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(weights[name], wanted[name])] == []
    assert all(bool(weight.any()) for name, weight in wanted.items() if "lora_B" in name)


@pytest.mark.parametrize("way", WAYS)
def test_the_adapter_is_the_same(
    world: Path, undisturbed: dict[str, torch.Tensor], way: str
) -> None:
    assert_same(trained(world, way.replace(" ", "-"), *WAYS[way]), undisturbed)


def test_a_killed_run_goes_on_to_the_same_adapter(
    world: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    recipe = recipe_of(world, "killed")
    recipe.run_folder.mkdir(parents=True)
    write_jsonl(recipe.run_folder / "pairs.jsonl", PAIRS)
    train_until_killed(recipe, world, 2)
    counts, _ = train_here(recipe, world, PAIRS)
    assert counts["resumed_from"] == "checkpoint-1"
    assert (counts.get(NOTED) == NAMES_OF_LAYERS) == ("llava" in world.name)
    assert_same(adapter_weights(recipe.run_folder / "adapter"), undisturbed)


def test_it_learns_in_4_bit(world: Path, undisturbed: dict[str, torch.Tensor]) -> None:
    recipe = recipe_of(world, "nf4", "model.quantize=nf4")
    train_here(recipe, world, PAIRS)
    margins = [row["rewards/margins"] for row in read_log(recipe) if "rewards/margins" in row]
    assert margins[0] == 0.0 and margins[-1] > 0.1
    assert adapter_weights(recipe.run_folder / "adapter").keys() == undisturbed.keys()
