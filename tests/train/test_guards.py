"""A training whose numbers are not finite stops, says where and what to do, and publishes
nothing.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_world import make_pairs, make_recipe
from training import train_here

import dpo_video.train.run_trainer
from dpo_video.core.errors import UserError
from dpo_video.recipe import Recipe
from dpo_video.store import RunStore
from dpo_video.train.checkpoints import last_checkpoint
from dpo_video.train.guards import is_disk_error
from dpo_video.train.reference import KIND
from dpo_video.train.trainer import VideoDPOTrainer


def folder_of(recipe: Recipe) -> Path:
    [folder] = (recipe.run_folder / "checkpoints").iterdir()
    return folder


def trainer_that(monkeypatch: pytest.MonkeyPatch, **methods: Any) -> None:
    kind = type("Trainer", (VideoDPOTrainer,), methods)
    monkeypatch.setattr(dpo_video.train.run_trainer, "VideoDPOTrainer", kind)


@pytest.mark.parametrize(
    ("method", "told"), [("_compute_loss", "the loss"), ("_get_grad_norm", "the norm")]
)
def test_the_first_number_that_is_not_finite_stops_training_with_the_step(
    qwen: Path, monkeypatch: pytest.MonkeyPatch, method: str, told: str
) -> None:
    """At step 4; the checkpoint of step 2 stays, and the same command stops there again."""
    recipe = make_recipe(qwen, name=f"nan{method}")

    with monkeypatch.context() as patch:
        parent = VideoDPOTrainer.__mro__[1]
        original = getattr(parent, method)

        def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
            number = original(self, *args, **kwargs)
            return number * float("nan") if self.state.global_step == 3 else number

        patch.setattr(parent, method, broken)
        for _ in range(2):
            with pytest.raises(
                UserError,
                match=rf"step 4: {told}.* is "
                rf"nan.*learning_rate",
            ) as error:
                train_here(recipe, qwen, make_pairs())
            assert "checkpoint-2' is whole" in str(error.value)
    assert not (recipe.run_folder / "adapter").exists()
    last = last_checkpoint(folder_of(recipe))
    assert last is not None and last.name == "checkpoint-2"


def test_a_learning_rate_that_throws_the_weights_away_is_told_and_nothing_is_published(
    qwen: Path,
) -> None:
    """Weights of 1e30 give a loss that is not finite in the next step."""
    recipe = make_recipe(qwen, name="thrown", learning_rate=1e30, warmup_ratio=0.0)
    with pytest.raises(
        UserError,
        match=r"step 2: the loss is (nan|inf).*Lower "
        r"train\.learning_rate",
    ):
        train_here(recipe, qwen, make_pairs())
    assert not (recipe.run_folder / "adapter").exists()


def test_weights_that_the_last_step_made_infinite_are_no_checkpoint(
    qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.optim.AdamW.step

    def overflow(self: Any, *args: Any, **kwargs: Any) -> Any:
        done = original(self, *args, **kwargs)
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(float("inf"))
        return done

    recipe = make_recipe(qwen, name="overflow", max_steps=1)
    monkeypatch.setattr(torch.optim.AdamW, "step", overflow)
    with pytest.raises(UserError, match=r"step 1: 1 of \d+ tensors in .* are not finite"):
        train_here(recipe, qwen, make_pairs())
    assert not (recipe.run_folder / "adapter").exists()
    assert last_checkpoint(folder_of(recipe)) is None


def test_a_reference_that_is_not_finite_is_told_with_its_sample_and_never_stored(
    qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = VideoDPOTrainer.reference_logps

    def broken(self: Any, inputs: Any, pairs: Any) -> Any:
        both = original(self, inputs, pairs)
        self._last_logps = self._last_logps * float("nan")
        return both

    recipe = make_recipe(qwen, name="nanref")
    with monkeypatch.context() as patch:
        patch.setattr(VideoDPOTrainer, "reference_logps", broken)
        with pytest.raises(UserError, match=r"before the first step: .*sample 's\d'.*model\.dtype"):
            train_here(recipe, qwen, make_pairs())
    with RunStore(recipe.run_folder) as store:
        assert not list(store.rows(KIND))


def test_train_log_is_strict_json_whatever_was_measured(
    qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer_that(
        monkeypatch,
        log=lambda self, logs, start_time=None: VideoDPOTrainer.log(
            self, {**logs, "odd": float("inf")}, start_time
        ),
    )
    recipe = make_recipe(qwen, name="strict", max_steps=1)
    train_here(recipe, qwen, make_pairs())

    def refuse(text: str) -> None:
        raise ValueError(text)

    for line in (recipe.run_folder / "train_log.jsonl").read_text().splitlines():
        assert json.loads(line, parse_constant=refuse)["odd"] is None


def test_a_full_disk_while_a_checkpoint_is_written_is_one_line(
    qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch raises there is a RuntimeError; the half written checkpoint is gone at once."""

    def full(self: Any, output_dir: str) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 64 vs 0")

    recipe = make_recipe(qwen, name="full")
    trainer_that(monkeypatch, _save_optimizer_and_scheduler=full)
    with pytest.raises(UserError, match=r"cannot write '.*checkpoint-2'.*make room"):
        train_here(recipe, qwen, make_pairs())
    assert not list(folder_of(recipe).glob("checkpoint-*"))


def test_a_disk_that_takes_no_more_bytes_is_known_whatever_the_library_says(tmp_path: Path) -> None:
    """A folder that is gone stands for one on a full disk."""
    unknown = RuntimeError("CUDA error: an illegal memory access")
    assert not is_disk_error(unknown, tmp_path)
    assert is_disk_error(unknown, tmp_path / "gone")
    assert list(tmp_path.iterdir()) == []
