"""The train stage: pairs in, adapter out; killed and resumed; bad clips and long pairs counted;
several processes.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny_world import adapter_weights, make_pairs, make_recipe
from training import read_log, train_apart, train_here

import dpo_video.train.run_trainer
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.models.load import load_policy
from dpo_video.recipe import Recipe
from dpo_video.train.checkpoints import (
    WholeCheckpoints,
    checkpoint_folder,
    last_checkpoint,
    training_key,
)


def assert_same_adapter(one: Path, other: Path) -> None:
    weights, others = adapter_weights(one), adapter_weights(other)
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.fixture(scope="module")
def straight(qwen: Path) -> tuple[Recipe, dict[str, Any]]:
    """A run that nothing interrupted: 7 pairs, 6 steps, a checkpoint every 2."""
    recipe = make_recipe(qwen, name="straight")
    summary, _ = train_here(recipe, qwen, make_pairs())
    return recipe, summary


def test_training_writes_an_adapter_that_loads_and_changes_the_model(
    qwen: Path, straight: tuple[Recipe, dict[str, Any]]
) -> None:
    recipe, summary = straight
    assert (summary["pairs"], summary["trained"], summary["clips"], summary["steps"]) == (
        7,
        7,
        3,
        6,
    )
    assert summary["dropped"] == {} and summary["resumed_from"] is None
    assert summary["first"]["rewards/margins"] == 0.0 < summary["last"]["rewards/margins"]
    policy = load_policy(recipe.model, adapter=recipe.run_folder / "adapter")
    assert isinstance(policy.model, PeftModel)
    assert any(
        weight.abs().max() > 0
        for name, weight in adapter_weights(recipe.run_folder / "adapter").items()
        if "lora_B" in name
    )
    log = read_log(recipe)
    assert [row["step"] for row in log] == [1, 2, 3, 4, 5, 6]
    rewards = [row["rewards/chosen"] for row in log]
    assert summary["chosen_reward"] == {"highest": max(rewards[1:]), "last": rewards[-1]}


@pytest.fixture(scope="module")
def killed(qwen: Path) -> dict[str, Recipe]:
    """Runs by name, killed by SIGKILL after steps 5 and 3."""
    recipes = {name: make_recipe(qwen, name=name) for name in ("killed", "oftener")}
    for recipe in recipes.values():
        recipe.run_folder.mkdir(parents=True)
        write_jsonl(recipe.run_folder / "pairs.jsonl", make_pairs())
    code, said = train_apart(list(recipes.values()), qwen, "5,3")
    assert code == 0, said[-3000:]
    return recipes


def test_a_run_killed_between_checkpoints_ends_as_one_that_was_not(
    qwen: Path, straight: tuple[Recipe, dict[str, Any]], killed: dict[str, Recipe]
) -> None:
    """SIGKILL after step 5: step 4 is the last whole checkpoint, a torn one lies beside it."""
    recipe = killed["killed"]
    key = training_key(
        recipe, make_pairs(), revision=load_policy(recipe.model).revision, num_processes=1
    )
    folder = checkpoint_folder(recipe.run_folder, key)
    whole = last_checkpoint(folder)
    assert whole is not None and whole.name == "checkpoint-4"
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "adapter_model.safetensors").write_bytes(b"half")
    summary, _ = train_here(recipe, qwen, make_pairs())
    assert summary["resumed_from"] == "checkpoint-4"
    assert not (folder / "checkpoint-5").exists()
    assert read_log(recipe) == read_log(straight[0])
    assert_same_adapter(recipe.run_folder / "adapter", straight[0].run_folder / "adapter")


def test_a_run_killed_after_its_last_step_only_writes_the_adapter(
    qwen: Path, straight: tuple[Recipe, dict[str, Any]]
) -> None:
    recipe, first = straight
    before = adapter_weights(recipe.run_folder / "adapter")
    for file in (recipe.run_folder / "adapter").iterdir():
        file.unlink()
    summary, _ = train_here(recipe, qwen, make_pairs())
    assert summary["resumed_from"] == "checkpoint-6" and summary["steps"] == first["steps"]
    after = adapter_weights(recipe.run_folder / "adapter")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_checkpoints_of_other_settings_are_left_alone_with_a_line(
    qwen: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe(qwen, name="changed", epochs=1)
    train_here(recipe, qwen, make_pairs(4))
    other = make_recipe(qwen, name="changed", epochs=1, beta=0.5)
    summary, run = train_here(other, qwen, make_pairs(4))
    assert summary["resumed_from"] is None
    assert "of other settings or pairs" in caplog.text
    assert len(list((run.folder / "checkpoints").iterdir())) == 2


def test_a_clip_that_cannot_be_read_costs_its_pairs_and_is_counted(qwen: Path) -> None:
    pairs = [
        replace(pair, video="gone.mp4") if pair.video == "c1.mp4" else pair
        for pair in make_pairs(7)
    ]
    recipe = make_recipe(qwen, name="bad", epochs=1, batch_size=1, gradient_accumulation=1)
    summary, run = train_here(recipe, qwen, pairs)
    assert (
        list(run.bad_clips) == ["gone.mp4"] and "no such file" in run.bad_clips["gone.mp4"].reason
    )
    assert summary["steps"] == 7
    skipped = [row for row in read_log(recipe) if "skipped_pairs" in row]
    assert [row["skipped_pairs"] for row in skipped] == [1, 1]
    assert not any("loss" in row for row in skipped), "nothing ran there, so there is no loss"
    assert (summary["trained"], summary["clips"]) == (5, 2)
    assert summary["not_seen"] == {"pairs": 2, "clips": 1}


def test_a_batch_that_did_not_run_lowers_no_logged_loss(qwen: Path) -> None:
    """At this learning rate every true loss is ln 2; one of the two batches of a step is
    skipped.
    """
    pairs = [
        replace(pair, video="gone.mp4") if pair.video == "c1.mp4" else pair
        for pair in make_pairs(7)
    ]
    settings = {"epochs": 1, "learning_rate": 1e-9, "logging_steps": 2}
    for name, cut in (("by rows", {"batch_size": 1}), ("by tokens", {"tokens_per_batch": 150})):
        recipe = make_recipe(qwen, name=f"lost {name}", **settings, **cut)
        train_here(recipe, qwen, pairs)
        rows = read_log(recipe)
        assert sum(row.get("skipped_pairs", 0) for row in rows) == 2
        assert [row["loss"] for row in rows] == pytest.approx([math.log(2)] * len(rows), abs=1e-5)


def test_a_run_killed_behind_steps_without_a_readable_clip_goes_on(qwen: Path, monkeypatch) -> None:
    """Such a step logs no `num_tokens`, from which TRL's count would go on."""

    class Killed(Exception):
        pass

    class KillAtSkipped(WholeCheckpoints):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_save(args, state, control, **kwargs)
            if "num_tokens" not in state.log_history[-1]:
                raise Killed

    pairs = [
        replace(pair, video="gone.mp4") if pair.video == "c1.mp4" else pair
        for pair in make_pairs(7)
    ]
    recipe = make_recipe(
        qwen, name="skipped", epochs=1, batch_size=1, gradient_accumulation=1, save_steps=1
    )
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(dpo_video.train.run_trainer, "WholeCheckpoints", KillAtSkipped)
        train_here(recipe, qwen, pairs)
    summary, _ = train_here(recipe, qwen, pairs)
    assert summary["resumed_from"] is not None and summary["steps"] == 7
    unbroken = make_recipe(
        qwen, name="unbroken", epochs=1, batch_size=1, gradient_accumulation=1, save_steps=1
    )
    train_here(unbroken, qwen, pairs)
    assert read_log(recipe) == read_log(unbroken)


def test_how_often_is_saved_and_logged_may_change_within_a_run(
    qwen: Path, straight: tuple[Recipe, dict[str, Any]], killed: dict[str, Recipe]
) -> None:
    recipe = killed["oftener"]
    summary, run = train_here(
        make_recipe(qwen, name="oftener", save_steps=1, logging_steps=2), qwen, make_pairs()
    )
    assert summary["resumed_from"] == "checkpoint-2"
    names = {path.name for path in run.folder.glob("checkpoints/*/checkpoint-*")}
    assert names == {"checkpoint-5", "checkpoint-6"}, "of every step now, of which two are kept"
    assert_same_adapter(recipe.run_folder / "adapter", straight[0].run_folder / "adapter")


def test_too_many_clips_that_cannot_be_read_stop_the_run(qwen: Path) -> None:
    pairs = [
        replace(pair, video="gone.mp4") if pair.video == "c1.mp4" else pair
        for pair in make_pairs(7)
    ]
    with pytest.raises(UserError, match=r"clips cannot be read, more than data\.max_bad_fraction"):
        train_here(make_recipe(qwen, name="toobad", epochs=1), qwen, pairs, num_samples=3)


def test_pairs_over_max_length_are_dropped_and_counted_never_cut(qwen: Path) -> None:
    """A limit near the mean length of a row parts short pairs from long ones."""
    recipe = make_recipe(qwen, name="long", epochs=1)
    train_here(recipe, qwen, make_pairs(7))
    tokens = [row["num_tokens"] for row in read_log(recipe)][-1]
    limit = int(tokens / 14) + 3
    summary, _ = train_here(
        make_recipe(qwen, name="short", epochs=1, max_length=limit), qwen, make_pairs(7)
    )
    assert 0 < summary["dropped"]["longer_than_max_length"] < 7
    assert summary["trained"] + summary["dropped"]["longer_than_max_length"] == 7


def test_no_trainable_pair_says_why(qwen: Path) -> None:
    told = (
        r"none of 3 pairs can be trained on: {'longer_than_max_length': 3}\..*raise "
        r"train\.max_length"
    )
    with pytest.raises(UserError, match=told):
        train_here(make_recipe(qwen, name="none", max_length=10), qwen, make_pairs(3))


def test_no_pairs_says_which_stage_tells_why(qwen: Path) -> None:
    with pytest.raises(UserError, match=r"nothing to train on.*dpo-video pair RECIPE"):
        train_here(make_recipe(qwen, name="empty"), qwen, [])


def test_a_loss_that_needs_another_setting_is_a_user_error(qwen: Path) -> None:
    with pytest.raises(
        UserError, match="TRL refuses the training settings: `f_divergence_type='js_diverg"
    ):
        train_here(
            make_recipe(
                qwen, name="js", loss=["nca_pair"], trl={"f_divergence_type": "js_divergence"}
            ),
            qwen,
            make_pairs(3),
        )
