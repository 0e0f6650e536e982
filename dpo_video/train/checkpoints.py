"""Checkpoints that a killed run resumes from exactly, and the final adapter, written whole or not
at all.
"""

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_video.core.jsonl import to_json, write_atomic
from dpo_video.core.records import Pair
from dpo_video.models.load import choose_dtype
from dpo_video.recipe import Recipe
from dpo_video.recipe.affects import Affects, key_settings, settings_that_affect
from dpo_video.store import row_key

MARK = "complete.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


def training_key(
    recipe: Recipe,
    pairs: Sequence[Pair],
    *,
    revision: str,
    num_processes: int,
    sharding: str | None = None,
) -> str:
    """Return a hash of all that determines the weights after each step; only equal keys share
    checkpoints.

    Args:
        sharding: what else decides the files of a checkpoint; None where each process holds the
            whole model.
    """
    return row_key(
        **({} if sharding is None else {"sharding": sharding}),
        model=settings_that_affect(recipe.model, Affects.WEIGHTS)
        | {"dtype": str(choose_dtype(recipe.model))},
        revision=revision,
        seed=recipe.seed,
        video=key_settings(recipe.video) | {"preset": None},  # once part of the key
        train=key_settings(recipe.train),
        num_processes=num_processes,
        pairs=row_key(pairs=[to_json(pair) for pair in pairs]),
    )


def checkpoint_folder(run_folder: Path, key: str) -> Path:
    """Return where the checkpoints of these settings lie; those of other settings lie beside it,
    never mixed.
    """
    return run_folder / "checkpoints" / key[:16]


def other_checkpoints(run_folder: Path, key: str) -> list[Path]:
    """Return the folders that hold checkpoints of other settings or pairs."""
    return sorted(
        path
        for path in (run_folder / "checkpoints").glob("*")
        if path.is_dir() and path.name != key[:16]
    )


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in `folder`, None where there is none."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / MARK).is_file()]
    return max(whole, key=_step, default=None)


def remove_torn(folder: Path) -> None:
    """Delete checkpoints that a killed process left half written."""
    for path in folder.glob("checkpoint-*"):
        if re.fullmatch(r"checkpoint-\d+", path.name) and not (path / MARK).is_file():
            shutil.rmtree(path)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the trainer's state in a checkpoint: global_step, max_steps, log_history."""
    state: dict[str, Any] = json.loads((checkpoint / "trainer_state.json").read_text())
    return state


def publish_adapter(checkpoint: Path, folder: Path) -> None:
    """Copy a checkpoint's adapter to `folder` in PEFT's format, so that readers see a whole adapter
    or none.
    """
    new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    for name in ADAPTER_FILES:
        shutil.copyfile(checkpoint / name, new / name)
        _sync(new / name)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


class WholeCheckpoints(TrainerCallback):
    """Marks each checkpoint once all of it is on disk, and logs right before it.

    Without a log at each checkpoint, the first logged mean after a resume would miss the steps
    before it, and the logged losses of a killed run would differ from those of one that was not.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log and save as often as the settings say now: a resumed state brings the numbers of
        before.
        """
        state.compute_steps(args, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log whenever a checkpoint is due."""
        if control.should_save:
            control.should_log = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Mark the checkpoint when every process has written its part."""
        PartialState().wait_for_everyone()
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero:
            for path in folder.rglob("*"):
                _sync(path)
            write_atomic(folder / MARK, json.dumps({"step": state.global_step}) + "\n")


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _sync(path: Path) -> None:
    """Bring a file's content to the disk: a mark must not survive a power cut that its checkpoint
    did not.
    """
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())
