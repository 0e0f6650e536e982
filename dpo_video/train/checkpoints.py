"""Checkpoints that a killed run resumes from exactly, and the final adapter, written whole or not
at all.
"""

import logging
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import to_json
from dpo_video.core.records import Pair
from dpo_video.core.seal import SEAL, broken_seal, is_sealed, seal
from dpo_video.models.adapter import ADAPTER_FILES, WEIGHTS, adapter_damage, weights_damage
from dpo_video.models.load import choose_dtype
from dpo_video.recipe import Recipe
from dpo_video.recipe.affects import Affects, key_settings, settings_that_affect
from dpo_video.store import content_hash, row_key

SELECTION = "selection.json"
"""Beside the checkpoints: which pairs they are trained on."""
BAD_CLIPS = "bad_clips.jsonl"
"""Beside the checkpoints: clips that could not be read."""
log = logging.getLogger(__name__)


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
        **adapter_contents(recipe),
        model=settings_that_affect(recipe.model, Affects.WEIGHTS)
        | {"dtype": str(choose_dtype(recipe.model))},
        revision=revision,
        seed=recipe.seed,
        video=key_settings(recipe.video) | {"preset": None},  # once part of the key
        train=key_settings(recipe.train),
        num_processes=num_processes,
        pairs=row_key(pairs=[to_json(pair) for pair in pairs]),
    )


def adapter_contents(recipe: Recipe) -> dict[str, str | None]:
    """Return the hashes of the adapters that training starts from, and is pulled to; nothing where
    both are the model alone.
    """
    adapters = {"start": recipe.start_adapter, "reference": recipe.reference_adapter}
    if not any(adapters.values()):
        return {}
    return {
        name: None if folder is None else content_hash(folder) for name, folder in adapters.items()
    }


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
    """Return the newest checkpoint in `folder` that was written whole, None where there is none."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / SEAL).is_file()]
    return max(whole, key=_step, default=None)


def remove_torn(folder: Path) -> None:
    """Delete checkpoints that cannot be resumed from: half written by a killed process, silently;
    damaged later, with a line.
    """
    for path in sorted(folder.glob("checkpoint-*")):
        if not re.fullmatch(r"checkpoint-\d+", path.name):
            continue
        if not (path / SEAL).is_file():
            shutil.rmtree(path)
            continue
        reason = _damage(path)
        if reason is not None:
            log.warning("train: %s is damaged and removed: %s", path, reason)
            shutil.rmtree(path)


def _damage(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint; None where nothing is found.

    One of an earlier version has no hashes: it is read as far as the formats of its files tell.
    """
    if is_sealed(checkpoint):
        return broken_seal(checkpoint)
    try:
        read_state(checkpoint)
    except UserError as error:
        return str(error)
    for path in sorted(checkpoint.glob("*.pt*")):  # optimizer.pt, scheduler.pt, rng_state.pth
        try:
            with zipfile.ZipFile(path) as archive:
                torn = archive.testzip()
        except (OSError, zipfile.BadZipFile) as error:
            return f"{path.name} cannot be read ({error})"
        if torn is not None:
            return f"{path.name} is damaged in {torn}"
    return adapter_damage(checkpoint)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the trainer's state in a checkpoint: global_step, max_steps, log_history."""
    path = checkpoint / "trainer_state.json"
    try:
        state = strict_json.loads_foreign(path.read_text(encoding="utf-8"))
        if not {"global_step", "max_steps", "log_history"} <= state.keys():
            raise ValueError("fields are missing")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{str(path)!r} is damaged ({error}). Remove the folder {checkpoint.name!r}, and "
            "training goes on from the checkpoint before"
        ) from error
    return dict(state)


def is_done(checkpoint: Path | None) -> bool:
    """Return whether a checkpoint is of the last step: nothing is left to train."""
    if checkpoint is None:
        return False
    state = read_state(checkpoint)
    return bool(state["global_step"] >= state["max_steps"])


def start_over(folder: Path) -> None:
    """Remove what a training left behind, in an order that a kill in between does no harm to."""
    for path in sorted(folder.glob("checkpoint-*")):
        shutil.rmtree(path)
    (folder / SELECTION).unlink(missing_ok=True)
    (folder / BAD_CLIPS).unlink(missing_ok=True)


def publish_adapter(checkpoint: Path, folder: Path) -> None:
    """Copy a checkpoint's adapter to `folder` in PEFT's format and seal it, so that readers see a
    whole adapter or none.

    Raises UserError for weights that are cut short or not finite; an adapter of before then stays.
    """
    new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    for name in ADAPTER_FILES:
        shutil.copyfile(checkpoint / name, new / name)
    reason = adapter_damage(new)
    if reason is not None:
        shutil.rmtree(new)
        raise UserError(
            f"the adapter of {str(checkpoint)!r} is not published: {reason}. Remove that folder, "
            "and training goes on from the checkpoint before; where numbers are not finite, lower "
            "train.learning_rate"
        )
    seal(new)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


class WholeCheckpoints(TrainerCallback):
    """Seals each checkpoint once all of it is on disk, and logs right before it.

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
        """Seal the checkpoint when every process has written its part.

        Raises UserError where the last update made weights that are not finite; the checkpoint
        before then stays the last one.
        """
        PartialState().wait_for_everyone()
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero:
            reason = weights_damage(folder / WEIGHTS)
            if reason is not None:
                raise UserError(f"step {state.global_step}: {reason}. {diverged_advice(args)}")
            seal(folder, step=state.global_step)


def diverged_advice(args: TrainingArguments) -> str:
    """Return what to do about a training that left the finite numbers, and what is left of it."""
    last = last_checkpoint(Path(str(args.output_dir)))
    kept = "No checkpoint was written before" if last is None else f"{str(last)!r} is whole"
    return (
        f"Training has diverged and stops; no adapter is published. {kept}. Lower "
        f"train.learning_rate (it is {args.learning_rate:g}), or clip more with "
        f"train.trl.max_grad_norm (it is {args.max_grad_norm:g})"
    )


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))
