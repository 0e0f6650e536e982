"""What runs beside training: its progress bar."""

import threading
from pathlib import Path
from typing import Any

import pytest
from tiny_world import make_pairs, make_recipe, make_world
from training import train_here

import dpo_video.train.run_trainer
from dpo_video.core.errors import UserError
from dpo_video.core.progress import CONSOLE
from dpo_video.train.checkpoints import WholeCheckpoints


def is_bar_open() -> bool:
    """Return whether a block of `progress` runs: a thread of its own tells how far it is."""
    return any(thread.name == "progress" for thread in threading.enumerate())


class FailsInStep2(WholeCheckpoints):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert is_bar_open()
        if state.global_step == 2:
            raise UserError("something went wrong")


def test_an_error_in_training_closes_the_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left open, it was closed when the interpreter ended, and the error's one line was followed by
    the traceback of an ImportError.
    """
    world = make_world(tmp_path, "qwen2_5_vl")
    monkeypatch.setattr(dpo_video.train.run_trainer, "WholeCheckpoints", FailsInStep2)
    recipe = make_recipe(world, name="fails", epochs=2)
    with pytest.raises(UserError, match="something went wrong"):
        train_here(recipe, world, make_pairs(4))
    assert not is_bar_open() and not CONSOLE._live_stack
