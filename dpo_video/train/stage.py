"""The train stage: pairs and clips in, a LoRA adapter out."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_atomic
from dpo_video.core.ranks import world_size
from dpo_video.core.records import Pair
from dpo_video.models.decoding import hearing_word
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.served import served_note
from dpo_video.recipe import Recipe
from dpo_video.run import Run, StageResult
from dpo_video.store import RowStore, row_key
from dpo_video.store.shared_rows import open_rows
from dpo_video.train.bad_clips import (
    forget_bad_clips,
    note_bad_clip,
    noted_bad_clips,
    readable_again,
)
from dpo_video.train.callbacks import TrackedSteps
from dpo_video.train.checkpoints import (
    SELECTION,
    checkpoint_folder,
    is_done,
    last_checkpoint,
    other_checkpoints,
    publish_adapter,
    read_state,
    remove_torn,
    start_over,
    training_key,
)
from dpo_video.train.distributed import PATIENCE_SECONDS, broadcast
from dpo_video.train.dpo_config import check_train_settings
from dpo_video.train.fsdp import check_fsdp, check_zero, is_fsdp, sharding
from dpo_video.train.reference import ReferenceLogps, keep_logps, stored_logps
from dpo_video.train.run_trainer import TrainingJob, train_adapter
from dpo_video.train.selection import (
    Selection,
    check_clips_inside,
    clip_requests,
    read_selection,
    select_pairs,
    without_clips,
)
from dpo_video.video import ClipRequest
from dpo_video.video.bad_clips import BadClip, bad_clip

log = logging.getLogger(__name__)


def train(run: Run) -> StageResult:
    """Tune the policy on `pairs.jsonl`; write `adapter/` (PEFT) and `train_log.jsonl`; counts and
    metrics.

    Under `accelerate launch` this runs in the process of rank 0, which alone opens the run folder;
    the others call `train_on_rank`. A run that was killed goes on from its last checkpoint and ends
    with the same adapter.
    """
    check_train_settings(run.recipe)
    check_zero()
    check_fsdp(run.recipe)
    pairs = list(read_jsonl(run.folder / "pairs.jsonl", Pair))
    if not pairs:
        raise UserError(
            f"no pairs in {str(run.folder / 'pairs.jsonl')!r}: nothing to train on. See why they "
            f"were "
            "dropped: dpo-video pair RECIPE"
        )
    check_clips_inside(run, pairs)
    requests = clip_requests(pairs, run.video_root)
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
            _plan(run, policy, pairs, requests, rows, key=key),
            use_cpu=policy.device.type == "cpu",
            patience=_patience(run.recipe),
        )

        def set_aside(clip: str, error: UserError) -> None:
            bad = bad_clip(error, requests.get(clip))
            note_bad_clip(job.checkpoints, clip, bad)
            run.set_aside(clip, bad)

        trainable = train_adapter(
            policy,
            run.recipe,
            job,
            on_bad_clip=set_aside,
            callbacks=[TrackedSteps(run.tracker)],
            keep=lambda logps: keep_logps(rows, logps),
        )
    final = last_checkpoint(job.checkpoints)
    assert final is not None, "training ended without a checkpoint"
    publish_adapter(final, run.folder / "adapter")
    history = read_state(final)["log_history"]
    write_atomic(run.folder / "train_log.jsonl", map(_log_line, history))
    noted = noted_bad_clips(job.checkpoints)
    heard = hearing_word(policy.spec, run.recipe.video)
    counts = _summary(pairs, job, noted, history, sound=heard)
    counts |= {"trainable_parameters": trainable, **served_note(run.recipe, policy.spec)}
    return StageResult(counts=counts, incomplete_because=run.unread(noted))


def train_on_rank(recipe: Recipe) -> None:
    """Train along in a process of rank > 0, which never opens the run folder; return when there is
    nothing to do.
    """
    check_zero()
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
        on_bad_clip=lambda clip, error: note_bad_clip(
            job.checkpoints, clip, bad_clip(error, job.selection.requests.get(clip))
        ),
    )


def _patience(recipe: Recipe) -> float:
    return float(recipe.train.trl.get("ddp_timeout") or PATIENCE_SECONDS)


def release_ranks() -> None:
    """Tell the processes that wait in `train_on_rank` that there is nothing to do; for rank 0,
    instead of `train`.
    """
    broadcast(None, use_cpu=not torch.cuda.is_available())


def _plan(
    run: Run,
    policy: Policy,
    pairs: Sequence[Pair],
    requests: Mapping[str, ClipRequest],
    rows: RowStore,
    *,
    key: str,
) -> TrainingJob:
    folder = checkpoint_folder(run.folder, key)
    folder.mkdir(parents=True, exist_ok=True)
    remove_torn(folder)
    for foreign in other_checkpoints(run.folder, key):
        log.warning(
            "train: leaving the checkpoints in %s alone: they are of other settings or pairs",
            foreign,
        )
    _try_bad_clips_again(run, policy, pairs, requests, folder)
    resume = last_checkpoint(folder)
    if resume is not None:
        log.warning("train: going on from %s", resume)
    noted = noted_bad_clips(folder)
    for clip, bad in noted.items():
        run.set_aside(clip, bad)
    selection = _selection(run, policy, pairs, requests, folder)
    alone = world_size() == 1
    if not alone:  # every batch must be full there: a clip that failed leaves the list of pairs
        selection = without_clips(selection, noted)
    if not selection.pairs:
        raise UserError(
            f"none of {len(pairs)} pairs can be trained on: {selection.dropped}. Where they are "
            f"too long, "
            "raise train.max_length, or lower video.num_frames or video.max_pixels"
        )
    reference = ReferenceLogps(
        policy, run.recipe.video, selection.requests, adapter=run.recipe.reference_adapter
    )
    return TrainingJob(
        selection=selection,
        checkpoints=folder,
        resume=resume,
        bad_clips=noted if alone else {},
        reference=stored_logps(rows, reference, selection.pairs),
    )


def _try_bad_clips_again(
    run: Run,
    policy: Policy,
    pairs: Sequence[Pair],
    requests: Mapping[str, ClipRequest],
    folder: Path,
) -> None:
    """Forget clips that could not be read where they can be now.

    A training that has ended, or not begun, starts over with them. One that is under way goes on
    as it began, for its steps ran without them; with several processes it stopped before any did.
    """
    noted, resume = noted_bad_clips(folder), last_checkpoint(folder)
    if resume is None and not (folder / SELECTION).exists():
        start_over(folder)  # the pairs are selected anew, and every clip is tried with them
        return
    under_way = resume is not None and not is_done(resume)
    if under_way and world_size() == 1:
        return
    if under_way:
        stored = _stored_selection(folder / SELECTION, num_pairs=len(pairs))
        selected = [pairs[index] for index in stored[0]] if stored is not None else []
        selected_clips = clip_requests(selected, run.video_root)
        noted = {clip: bad for clip, bad in noted.items() if clip in selected_clips}
    readable = readable_again(policy, run.recipe, folder, noted, requests)
    if not readable:
        return
    log.warning(
        "train: %d clips that could not be read can be now, first %r", len(readable), readable[0]
    )
    if under_way:
        forget_bad_clips(folder, readable)
        return
    if resume is not None:
        log.warning("train: starting over with them; the adapter stays until the new one is done")
    start_over(folder)


def _selection(
    run: Run,
    policy: Policy,
    pairs: Sequence[Pair],
    requests: Mapping[str, ClipRequest],
    folder: Path,
) -> Selection:
    """Return the pairs to train on; a resumed run takes those of before, so that its steps stay the
    same.
    """
    file = folder / SELECTION
    stored = _stored_selection(file, num_pairs=len(pairs)) if file.is_file() else None
    if stored is not None:
        indices, dropped = stored
        return read_selection(policy, pairs, root=run.video_root, indices=indices, dropped=dropped)

    def set_aside(clip: str, error: UserError) -> None:
        bad = bad_clip(error, requests.get(clip))
        note_bad_clip(folder, clip, bad)
        run.set_aside(clip, bad)

    selection = select_pairs(policy, run.recipe, pairs, root=run.video_root, on_bad_clip=set_aside)
    content = {"places": selection.indices, "dropped": selection.dropped}
    write_atomic(file, strict_json.dumps({**content, "sha256": row_key(**content)}) + "\n")
    return selection


def _stored_selection(file: Path, *, num_pairs: int) -> tuple[list[int], dict[str, int]] | None:
    """Return the positions of the pairs and what was dropped; None for a damaged file that no
    checkpoint goes with.
    """
    try:
        content = strict_json.loads(file.read_text(encoding="utf-8"))
        sha256 = content.pop("sha256", None)  # earlier versions wrote none
        indices, dropped = content["places"], content["dropped"]
        if sha256 is not None and sha256 != row_key(**content):
            raise ValueError("it has other bytes than were written")
        if not all(type(index) is int and 0 <= index < num_pairs for index in indices):
            raise ValueError(f"a position is none of {num_pairs} pairs")
        return list(indices), dict(dropped)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if last_checkpoint(file.parent) is None:
            log.warning("train: %s is damaged (%s) and made again", file, error)
            return None
        raise UserError(
            f"{str(file)!r} is damaged ({error}): which pairs the checkpoints beside it were "
            f"trained on is not known. Remove the folder {str(file.parent)!r}, and training "
            "starts from the beginning"
        ) from error


def _log_line(row: Mapping[str, Any]) -> str:
    """Return a line of train_log.jsonl; JSON has no word for a number that is not finite."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
    return strict_json.dumps(finite) + "\n"


def _summary(
    pairs: Sequence[Pair],
    job: TrainingJob,
    noted: Mapping[str, BadClip],
    history: Sequence[dict[str, Any]],
    *,
    sound: str | None,
) -> dict[str, Any]:
    # without steps of which no clip could be read
    steps = [row for row in history if "rewards/margins" in row]
    first, last = (steps[0], steps[-1]) if steps else ({}, {})
    names = ("loss", "rewards/margins", "rewards/accuracies")
    lost_clips = {clip for clip in noted if clip in job.selection.requests}
    num_lost = sum(not lost_clips.isdisjoint(pair.clips) for pair in job.selection.pairs)
    not_seen = {"pairs": num_lost, "clips": len(lost_clips)}
    return {
        "pairs": len(pairs),
        "trained": len(job.selection.pairs) - num_lost,
        "dropped": job.selection.dropped,
        "clips": len(job.selection.requests) - len(lost_clips),
        **({"not_seen": not_seen} if lost_clips else {}),
        "steps": history[-1]["step"],
        **({} if sound is None else {"sound": sound}),
        "processes": world_size(),
        "resumed_from": None if job.resume is None else job.resume.name,
        "first": {name: first[name] for name in names if name in first},
        "last": {name: last[name] for name in names if name in last},
        **_chosen_reward(steps),
    }


def _chosen_reward(steps: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the chosen answers' reward at the last logged step, and the highest after the first,
    where policy and reference may be one; empty where too little was logged to tell.
    """
    rewards = [row["rewards/chosen"] for row in steps if "rewards/chosen" in row][1:]
    if len(rewards) < 2:
        return {}
    return {"chosen_reward": {"highest": max(rewards), "last": rewards[-1]}}
