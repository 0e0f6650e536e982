"""Which settings share checkpoints."""

from pathlib import Path

import pytest
from tiny_world import make_pairs, make_recipe

from dpo_video.recipe import Recipe
from dpo_video.recipe.file import change_recipe
from dpo_video.recipe.train import TRL_SPEED_ONLY
from dpo_video.train.checkpoints import training_key
from dpo_video.train.dpo_config import TUNABLE


def key_of(recipe: Recipe) -> str:
    return training_key(recipe, make_pairs(2), revision="r", num_processes=1)


@pytest.mark.parametrize(
    "override",
    [
        "train.gradient_checkpointing=true",
        "train.activation_offloading=true",
        "train.trl.save_total_limit=5",
        "train.trl.ddp_timeout=7200",
        "train.trl.logging_nan_inf_filter=false",
        "train.save_steps=7",
        "video.backend=decord",
        "video.workers=3",
        "model.device=cpu",
    ],
)
def test_training_goes_on_when_a_setting_changes_that_touches_no_weight(
    tmp_path: Path, override: str
) -> None:
    recipe = make_recipe(tmp_path)
    assert key_of(change_recipe(recipe, [override])) == key_of(recipe)


@pytest.mark.parametrize(
    "override",
    [
        "train.learning_rate=0.1",
        "train.lora.rank=3",
        "train.trl.weight_decay=0.1",
        "video.num_frames=3",
        "video.max_pixels=3136",
        "model.attention=eager",
        "seed=8",
    ],
)
def test_training_starts_again_when_a_setting_changes_the_weights(
    tmp_path: Path, override: str
) -> None:
    recipe = make_recipe(tmp_path)
    assert key_of(change_recipe(recipe, [override])) != key_of(recipe)


def test_fields_of_trl_that_touch_no_weight_are_fields_that_can_be_set() -> None:
    assert TRL_SPEED_ONLY.names <= TUNABLE
