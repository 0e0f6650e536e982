"""Checkpoints, adapters and notes that are damaged: found before they are used, told in one
line.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_world import adapter_weights, make_pairs, make_recipe
from training import read_log, train_here

from dpo_video.core.errors import UserError
from dpo_video.models.load import load_policy
from dpo_video.recipe import Recipe
from dpo_video.train.checkpoints import SELECTION, last_checkpoint


@pytest.fixture(scope="module")
def trained(qwen: Path) -> Recipe:
    """A training that has ended: checkpoints of steps 4 and 6 of 6."""
    recipe = make_recipe(qwen, name="trained")
    train_here(recipe, qwen, make_pairs())
    return recipe


def copied(trained: Recipe, name: str) -> tuple[Recipe, Path]:
    """Return a copy of the run and the folder of its checkpoints."""
    recipe = trained.model_copy(update={"name": name})
    shutil.copytree(trained.run_folder, recipe.run_folder)
    shutil.rmtree(recipe.run_folder / "adapter")
    [folder] = (recipe.run_folder / "checkpoints").iterdir()
    return recipe, folder


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def unsealed(checkpoint: Path) -> None:
    """Make a checkpoint one of an earlier version, which noted the step only."""
    (checkpoint / "complete.json").write_text('{"step": 6}\n')


DAMAGES: dict[str, Callable[[Path], object]] = {
    "weights": lambda last: cut(last / "adapter_model.safetensors"),
    "optimizer": lambda last: cut(last / "optimizer.pt"),
    "random numbers": lambda last: (last / "rng_state.pth").unlink(),
    "state": lambda last: (last / "trainer_state.json").write_text("{"),
    "weights of an earlier version": lambda last: (
        unsealed(last),
        cut(last / "adapter_model.safetensors"),
    ),
    "optimizer of an earlier version": lambda last: (unsealed(last), cut(last / "optimizer.pt")),
    "state of an earlier version": lambda last: (
        unsealed(last),
        (last / "trainer_state.json").write_text("[1]"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_removed_and_the_one_before_is_taken(
    qwen: Path, trained: Recipe, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, folder = copied(trained, f"damaged {damage}")
    DAMAGES[damage](folder / "checkpoint-6")
    summary, _ = train_here(recipe, qwen, make_pairs())
    assert summary["resumed_from"] == "checkpoint-4"
    assert "checkpoint-6 is damaged and removed" in caplog.text
    assert read_log(recipe) == read_log(trained)
    weights = adapter_weights(trained.run_folder / "adapter")
    for name, weight in adapter_weights(recipe.run_folder / "adapter").items():
        assert torch.equal(weight, weights[name])


def with_a_nan(path: Path) -> None:
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: cut(folder / "adapter_model.safetensors"), "is damaged: .* bytes"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "is missing"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "is damaged"),
        (
            lambda folder: (
                (folder / "complete.json").unlink(),
                cut(folder / "adapter_model.safetensors"),
            ),
            "cannot be read",
        ),
        (
            lambda folder: (
                (folder / "complete.json").unlink(),
                with_a_nan(folder / "adapter_model.safetensors"),
            ),
            "not finite",
        ),
    ],
)
def test_a_damaged_adapter_is_not_loaded(
    tmp_path: Path, trained: Recipe, damage: Callable[[Path], object], told: str
) -> None:
    """By evaluate, rewards, merge and a sampler alike: all load it here."""
    shutil.copytree(trained.run_folder / "adapter", tmp_path / "adapter")
    load_policy(trained.model, adapter=tmp_path / "adapter")
    damage(tmp_path / "adapter")
    with pytest.raises(UserError, match=rf"the adapter '.*adapter'.*{told}.*dpo-video train"):
        load_policy(trained.model, adapter=tmp_path / "adapter")


@pytest.mark.parametrize(
    "content",
    ["{", "[1]", '{"places": [0, 1, 99999], "dropped": {}}', '{"dropped": {}}', "changed"],
)
def test_a_damaged_selection_is_told_where_checkpoints_go_with_it_and_made_again_where_none_do(
    qwen: Path, trained: Recipe, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, folder = copied(trained, f"selection {len(content)}")
    if content == "changed":
        content = json.dumps(json.loads((folder / SELECTION).read_text()) | {"places": [0, 1]})
    (folder / SELECTION).write_text(content)
    with pytest.raises(UserError, match=r"selection\.json' is damaged.*Remove the folder"):
        train_here(recipe, qwen, make_pairs())
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    summary, _ = train_here(recipe, qwen, make_pairs())
    assert summary["trained"] == 7 and "is damaged" in caplog.text


def test_a_selection_of_an_earlier_version_is_taken(qwen: Path, trained: Recipe) -> None:
    recipe, folder = copied(trained, "earlier selection")
    stored = json.loads((folder / SELECTION).read_text())
    del stored["sha256"]
    (folder / SELECTION).write_text(json.dumps(stored))
    assert train_here(recipe, qwen, make_pairs())[0]["resumed_from"] == "checkpoint-6"


def test_an_adapter_that_is_not_finite_is_never_published(qwen: Path, trained: Recipe) -> None:
    """A checkpoint of an earlier version, which noticed nothing, is no checkpoint any more."""
    recipe, folder = copied(trained, "nan")
    for checkpoint in folder.glob("checkpoint-*"):
        unsealed(checkpoint)
        with_a_nan(checkpoint / "adapter_model.safetensors")
    summary, _ = train_here(recipe, qwen, make_pairs())
    assert summary["resumed_from"] is None and last_checkpoint(folder) is not None
