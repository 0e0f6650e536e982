"""A process that trains: `python train_process.py RECIPES.json WORLD [KILL_AT_STEPS
[STOP_AT_STEP]]`, one recipe of the list after the other, as importing takes most of a start's time.

Also under accelerate launch. With steps, as in 5,3, each recipe is trained in a fork, which is
killed there. Stopped at a step, before its checkpoint, every process begins anew, as a second
launch would. An error of a recipe is told, and ends the process after the last recipe.
"""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

import dpo_video.train.run_trainer
import dpo_video.train.stage
from dpo_video.core.errors import UserError
from dpo_video.core.ranks import is_main_process, rank
from dpo_video.core.records import Sample
from dpo_video.recipe import Recipe
from dpo_video.run import Run
from dpo_video.store import RunStore
from dpo_video.tracking import Tracker
from dpo_video.train.checkpoints import WholeCheckpoints


class KillAt(TrainerCallback):
    """Ends the process by SIGKILL after a step, before its checkpoint is written."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class Stopped(Exception):
    """A process was told to stop."""


class KeepWeights(WholeCheckpoints):
    """Also writes each process's adapter, and the names of sharded weights, at the end, to
    WORLD/<recipe>-rank<R>.pt.
    """

    folder: Path
    recipe_name = ""
    stop_at = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_step_end(args, state, control, **kwargs)
        if state.global_step == self.stop_at:
            raise Stopped

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        weights = get_peft_model_state_dict(kwargs["model"])
        whole = {
            name: weight.full_tensor() if isinstance(weight, DTensor) else weight
            for name, weight in weights.items()
        }
        sharded = [
            name
            for name, weight in kwargs["model"].named_parameters()
            if isinstance(weight, DTensor)
        ]
        torch.save(
            {"weights": whole, "sharded": sharded},
            self.folder / f"{self.recipe_name}-rank{rank()}.pt",
        )


def main(recipes_file: str, world: str, kill_at: str = "", stop_at: str = "0") -> None:
    recipes = [
        Recipe.model_validate(values) for values in json.loads(Path(recipes_file).read_text())
    ]
    KeepWeights.folder = Path(world)
    dpo_video.train.run_trainer.WholeCheckpoints = KeepWeights  # type: ignore[misc]
    if kill_at:
        for recipe, step in zip(recipes, kill_at.split(","), strict=True):
            train_until_killed(recipe, Path(world), int(step))
        return
    dpo_video.train.run_trainer.StepBar = lambda bars: TrainerCallback()  # type: ignore[assignment,misc]
    told = []
    for recipe in recipes:
        KeepWeights.recipe_name = recipe.name
        KeepWeights.stop_at = int(stop_at)
        if KeepWeights.stop_at > 0:
            with suppress(Stopped):
                work(recipe, Path(world))
            KeepWeights.stop_at = 0
        try:
            work(recipe, Path(world))
        except UserError as error:
            told.append(f"dpo-video: {error}")
    if told:
        sys.exit("\n".join(told))


def train_until_killed(recipe: Recipe, world: Path, step: int) -> None:
    """Train in a fork that is killed after a step."""
    process = os.fork()
    if process == 0:
        dpo_video.train.run_trainer.StepBar = lambda bars: KillAt(step)  # type: ignore[assignment,misc]
        work(recipe, world)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def work(recipe: Recipe, world: Path) -> None:
    """Train as `dpo-video train` does, in the first process or another."""
    if not is_main_process():
        dpo_video.train.stage.train_on_rank(recipe)
        return
    with RunStore(recipe.run_folder) as store:
        samples = [
            Sample(id=f"x{number}", video=f"x{number}.mp4", prompt="p", caption="c")
            for number in range(100)
        ]
        dpo_video.train.stage.train(
            Run(
                recipe=recipe,
                store=store,
                samples=samples,
                heldout=[],
                video_root=world,
                heldout_root=world,
                tracker=Tracker(),
            )
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
