"""The train stage: pairs and clips in, a LoRA adapter out."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_atomic
from dpo_video.core.ranks import world_size
from dpo_video.core.records import Pair
from dpo_video.models.load import Policy, load_policy
from dpo_video.recipe import Recipe
from dpo_video.run import Run, StageResult
from dpo_video.store import RowStore
from dpo_video.store.shared_rows import open_rows
from dpo_video.train.checkpoints import (
    checkpoint_folder,
    last_checkpoint,
    other_checkpoints,
    publish_adapter,
    read_state,
    remove_torn,
    training_key,
)
from dpo_video.train.distributed import PATIENCE_SECONDS, broadcast
from dpo_video.train.dpo_config import check_train_settings
from dpo_video.train.fsdp import check_fsdp, is_fsdp, sharding
from dpo_video.train.prefetch import note_bad_clip, noted_bad_clips
from dpo_video.train.reference import ReferenceLogps, keep_logps, stored_logps
from dpo_video.train.run_trainer import TrainingJob, train_adapter
from dpo_video.train.selection import Selection, read_selection, select_pairs, without_clips

log = logging.getLogger(__name__)


def train(run: Run) -> StageResult:
    """Tune the policy on `pairs.jsonl`; write `adapter/` (PEFT) and `train_log.jsonl`; counts and
    metrics.

    Under `accelerate launch` this runs in the process of rank 0, which alone opens the run folder;
    the others call `train_on_rank`. A run that was killed goes on from its last checkpoint and ends
    with the same adapter.
    """
    check_train_settings(run.recipe)
    check_fsdp(run.recipe)
    pairs = list(read_jsonl(run.folder / "pairs.jsonl", Pair))
    if not pairs:
        raise UserError(
            f"no pairs in {str(run.folder / 'pairs.jsonl')!r}: nothing to train on. See why they "
            f"were "
            "dropped: dpo-video pair RECIPE"
        )
    policy = load_policy(run.recipe.model, to_shard=is_fsdp())
    key = training_key(
        run.recipe,
        pairs,
        revision=policy.revision,
        num_processes=world_size(),
        sharding=sharding(),
    )
    with open_rows(run.recipe, run.store) as rows:
        job = broadcast(
            _plan(run, policy, pairs, rows, key=key),
            use_cpu=policy.device.type == "cpu",
            patience=_patience(run.recipe),
        )

        def set_aside(clip: str, error: UserError) -> None:
            note_bad_clip(job.checkpoints, clip, str(error))
            run.set_aside(clip, error)

        trainable = train_adapter(
            policy,
            run.recipe,
            job,
            on_bad_clip=set_aside,
            report_to=[run.tracker.report_to],
            keep=lambda logps: keep_logps(rows, logps),
        )
    final = last_checkpoint(job.checkpoints)
    assert final is not None, "training ended without a checkpoint"
    publish_adapter(final, run.folder / "adapter")
    history = read_state(final)["log_history"]
    write_atomic(run.folder / "train_log.jsonl", (json.dumps(row) + "\n" for row in history))
    return StageResult(counts=_summary(pairs, job, history) | {"trainable_parameters": trainable})


def train_on_rank(recipe: Recipe) -> None:
    """Train along in a process of rank > 0, which never opens the run folder; return when there is
    nothing to do.
    """
    check_fsdp(recipe)
    policy = load_policy(recipe.model, to_shard=is_fsdp())
    job: TrainingJob | None = broadcast(
        None, use_cpu=policy.device.type == "cpu", patience=_patience(recipe)
    )
    if job is None:
        return
    train_adapter(
        policy,
        recipe,
        job,
        on_bad_clip=lambda clip, error: note_bad_clip(job.checkpoints, clip, str(error)),
    )


def _patience(recipe: Recipe) -> float:
    return float(recipe.train.trl.get("ddp_timeout") or PATIENCE_SECONDS)


def release_ranks() -> None:
    """Tell the processes that wait in `train_on_rank` that there is nothing to do; for rank 0,
    instead of `train`.
    """
    broadcast(None, use_cpu=not torch.cuda.is_available())


def _plan(
    run: Run, policy: Policy, pairs: Sequence[Pair], rows: RowStore, *, key: str
) -> TrainingJob:
    folder = checkpoint_folder(run.folder, key)
    folder.mkdir(parents=True, exist_ok=True)
    remove_torn(folder)
    for foreign in other_checkpoints(run.folder, key):
        log.warning(
            "train: leaving the checkpoints in %s alone: they are of other settings or pairs",
            foreign,
        )
    resume = last_checkpoint(folder)
    if resume is not None:
        log.warning("train: going on from %s", resume)
    bad = noted_bad_clips(folder)
    for clip, reason in bad.items():
        run.set_aside(clip, UserError(reason))
    selection = _selection(run, policy, pairs, folder)
    alone = world_size() == 1
    if not alone:  # every batch must be full there: a clip that failed leaves the list of pairs
        selection = without_clips(selection, bad)
    if not selection.pairs:
        raise UserError(
            f"none of {len(pairs)} pairs can be trained on: {selection.dropped}. Where they are "
            f"too long, "
            "raise train.max_length, or lower video.num_frames or video.max_pixels"
        )
    reference = ReferenceLogps(policy, run.recipe.video, selection.requests)
    return TrainingJob(
        selection=selection,
        checkpoints=folder,
        resume=resume,
        bad_clips=bad if alone else {},
        reference=stored_logps(rows, reference, selection.pairs),
    )


def _selection(run: Run, policy: Policy, pairs: Sequence[Pair], folder: Path) -> Selection:
    """Return the pairs to train on; a resumed run takes those of before, so that its steps stay the
    same.
    """
    file = folder / "selection.json"
    if file.is_file():
        stored = json.loads(file.read_text(encoding="utf-8"))
        return read_selection(
            policy,
            pairs,
            root=run.video_root,
            indices=stored["places"],
            dropped=stored["dropped"],
        )
    selection = select_pairs(
        policy, run.recipe, pairs, root=run.video_root, on_bad_clip=run.set_aside
    )
    write_atomic(
        file, json.dumps({"places": selection.indices, "dropped": selection.dropped}) + "\n"
    )
    return selection


def _summary(
    pairs: Sequence[Pair], job: TrainingJob, history: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    steps = [
        row for row in history if "rewards/margins" in row
    ]  # without steps of which no clip could be read
    first, last = (steps[0], steps[-1]) if steps else ({}, {})
    names = ("loss", "rewards/margins", "rewards/accuracies")
    return {
        "pairs": len(pairs),
        "trained": len(job.selection.pairs),
        "dropped": job.selection.dropped,
        "clips": len(job.selection.requests),
        "steps": history[-1]["step"],
        "processes": world_size(),
        "resumed_from": None if job.resume is None else job.resume.name,
        "first": {name: first[name] for name in names if name in first},
        "last": {name: last[name] for name in names if name in last},
    }
