"""The train stage: pairs and clips in, a LoRA adapter out."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import TrainerCallback

from dpo_video.errors import UserError
from dpo_video.models.clip_source import ClipSource, EncodedClip, ReadyClip, move, open_source
from dpo_video.models.features import pending_features
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import LANGUAGE_ONLY, adapter_parameters, lora_config, lora_targets
from dpo_video.quiet import quiet_libraries
from dpo_video.recipe import Recipe, TrainSettings
from dpo_video.records import Pair, read_jsonl, write_atomic
from dpo_video.training.batches import read_batch
from dpo_video.training.checkpoints import (
    WholeCheckpoints,
    checkpoint_folder,
    last_checkpoint,
    other_checkpoints,
    publish_adapter,
    read_state,
    remove_torn,
    training_key,
)
from dpo_video.training.clips import ClipReader, OnBadClip, note_bad_clip, noted_bad_clips
from dpo_video.training.forward import Engine, rows_engine
from dpo_video.training.fsdp import check_fsdp, is_fsdp, sharding
from dpo_video.training.micro_batches import Cut, cut_by_tokens, whole
from dpo_video.training.order import ClipOrder
from dpo_video.training.processes import (
    PATIENCE_SECONDS,
    StopForBadClips,
    is_follower,
    num_processes,
    process_number,
    share,
)
from dpo_video.training.reference import (
    Logps,
    ReferenceLogps,
    complete_reference,
    keep_logps,
    stored_logps,
)
from dpo_video.training.reference_store import RowStore, open_rows
from dpo_video.training.selection import (
    Selection,
    length_limit,
    read_selection,
    select_pairs,
    without_clips,
)
from dpo_video.training.settings import check_train_settings, dpo_config, pairs_per_read
from dpo_video.training.shared_prefix import choose_engine
from dpo_video.training.step_bar import StepBar
from dpo_video.training.trainer import Feed, VideoDPOTrainer

if TYPE_CHECKING:
    from dpo_video.run import Run


log = logging.getLogger(__name__)

PRECISIONS: dict[torch.dtype, Literal["no", "bf16", "fp16"]] = {
    torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the process that owns the run folder decides, and every process trains by."""

    selection: Selection
    checkpoints: Path
    resume: Path | None
    bad_clips: dict[str, str]
    """Clips that failed earlier in this training, with the reasons: their batches stay short."""
    reference: Logps
    """What is stored of the reference's log-probs."""


def train(run: "Run") -> dict[str, Any]:
    """Tune the policy on `pairs.jsonl`; write `adapter/` (PEFT) and `train_log.jsonl`; return counts and metrics.

    Under `accelerate launch` this runs in the process of rank 0, which alone opens the run folder; the others call
    `follow`. A run that was killed goes on from its last checkpoint and ends with the same adapter.
    """
    check_train_settings(run.recipe)
    check_fsdp(run.recipe)
    pairs = list(read_jsonl(run.folder / "pairs.jsonl", Pair))
    if not pairs:
        raise UserError(f"no pairs in {str(run.folder / 'pairs.jsonl')!r}: nothing to train on. See why they were "
                        "dropped: dpo-video pair RECIPE")
    policy = load_policy(run.recipe.model, to_shard=is_fsdp())
    key = training_key(run.recipe, pairs, revision=policy.revision, num_processes=num_processes(), sharding=sharding())
    with open_rows(run.recipe, run.store) as rows:
        job = share(_plan(run, policy, pairs, rows, key=key), use_cpu=policy.device.type == "cpu",
                    patience=_patience(run.recipe))

        def set_aside(clip: str, error: UserError) -> None:
            note_bad_clip(job.checkpoints, clip, str(error))
            run.set_aside(clip, error)

        trainable = train_adapter(policy, run.recipe, job, on_bad_clip=set_aside, report_to=[run.tracker.report_to],
                                  keep=lambda logps: keep_logps(rows, logps))
    final = last_checkpoint(job.checkpoints)
    assert final is not None, "training ended without a checkpoint"
    publish_adapter(final, run.folder / "adapter")
    history = read_state(final)["log_history"]
    write_atomic(run.folder / "train_log.jsonl", (json.dumps(row) + "\n" for row in history))
    return _summary(pairs, job, history) | {"trainable_parameters": trainable}


def follow(recipe: Recipe) -> None:
    """Train along in a process of rank > 0, which never opens the run folder; return when there is nothing to do."""
    check_fsdp(recipe)
    policy = load_policy(recipe.model, to_shard=is_fsdp())
    job: Job | None = share(None, use_cpu=policy.device.type == "cpu", patience=_patience(recipe))
    if job is None:
        return
    train_adapter(policy, recipe, job, on_bad_clip=lambda clip, error: note_bad_clip(job.checkpoints, clip, str(error)))


def _patience(recipe: Recipe) -> float:
    return float(recipe.train.trl.get("ddp_timeout") or PATIENCE_SECONDS)


def dismiss_followers() -> None:
    """Tell the processes that wait in `follow` that there is nothing to do; for rank 0, instead of `train`."""
    share(None, use_cpu=not torch.cuda.is_available())


def train_adapter(policy: Policy, recipe: Recipe, job: Job, *, on_bad_clip: OnBadClip,
                  keep: Callable[[Logps], None] = lambda logps: None, report_to: Sequence[str] = (),
                  callbacks: Sequence[TrainerCallback] = ()) -> int:
    """Run DPO in this process until the last step; checkpoints end up in `job.checkpoints`.

    Args:
        on_bad_clip: told of clips that cannot be read; with several processes training then stops.
        keep: stores log-probs of the reference that were not known.
        report_to: transformers' names of trackers.
        callbacks: further callbacks of the trainer.

    Returns:
        The number of trainable parameters.
    """
    pairs, train_settings = job.selection.pairs, recipe.train
    args = dpo_config(recipe, output_dir=job.checkpoints, precision=PRECISIONS[policy.dtype],
                      use_cpu=policy.device.type == "cpu", report_to=report_to,
                      num_parameters=policy.bare.num_parameters())
    order = ClipOrder([pair.clip for pair in pairs], rejected_clips=[pair.rejected_clip for pair in pairs],
                      batch_size=pairs_per_read(train_settings), seed=recipe.seed, process=process_number(),
                      num_processes=num_processes())
    order.num_epochs = _num_epochs(train_settings, len(order))
    limit = length_limit(policy, recipe)
    engine = choose_engine(policy, share_prefix=train_settings.share_prefix)
    cut = _cut(train_settings, engine)
    stop = StopForBadClips(on_bad_clip) if num_processes() > 1 else None
    with quiet_libraries(), open_source(policy, recipe) as source:
        reader = ClipReader(source, job.selection.requests, order.clips_ahead, bad=set(job.bad_clips),
                            encode=_encode(policy, source, train_settings), on_bad_clip=stop or on_bad_clip)
        feed = Feed(order=order, cut=cut, engine=engine, read=lambda places: read_batch(
            policy, reader, [pairs[place] for place in places], max_length=limit))
        targets = lora_targets(policy.bare, policy.family, train_settings.tune)
        trainer = VideoDPOTrainer(
            policy, args=args, peft_config=lora_config(train_settings.lora, targets=targets), feed=feed,
            callbacks=[WholeCheckpoints()],
            reference=lambda trainer: _reference(policy, recipe, job, trainer, keep=keep, stop=stop))
        for callback in (*([] if is_follower() else [StepBar()]), *callbacks):  # the reference has a bar of its own
            trainer.add_callback(callback)
        if not _is_done(job.resume):
            trainer.train(resume_from_checkpoint=None if job.resume is None else str(job.resume))
        return sum(weight.numel() for _, weight in adapter_parameters(policy.model))


def _num_epochs(settings: TrainSettings, num_batches: int) -> int:
    """Return how many epochs are begun, as transformers counts them."""
    if settings.max_steps is None:
        return math.ceil(settings.epochs)
    accumulated = settings.gradient_accumulation if settings.tokens_per_batch is None else 1
    return math.ceil(settings.max_steps / math.ceil(num_batches / accumulated))


def _cut(settings: TrainSettings, engine: Engine, *, agree: bool = True) -> Cut:
    if settings.tokens_per_batch is None:
        return whole
    return cut_by_tokens(settings.tokens_per_batch, shared=engine is not rows_engine, batch_size=settings.batch_size,
                         agree=agree)


def _encode(policy: Policy, source: ClipSource, settings: TrainSettings) -> Callable[[ReadyClip], EncodedClip]:
    """Return what becomes of a clip that was read: its features, or, where each forward makes these, its pixels."""
    if set(settings.tune) != set(LANGUAGE_ONLY):
        return lambda clip: EncodedClip(inputs=clip.inputs, features=pending_features(policy, clip.inputs),
                                        frames_dropped=clip.frames_dropped)
    if settings.tokens_per_batch is None:
        return source.encode

    def encode_and_wait(clip: ReadyClip) -> EncodedClip:
        """All clips of a step are read before its first forward: their features wait in main memory."""
        encoded = source.encode(clip)
        return replace(encoded, features=move(encoded.features, torch.device("cpu")))

    return encode_and_wait


def _reference(policy: Policy, recipe: Recipe, job: Job, trainer: VideoDPOTrainer, *,
               keep: Callable[[Logps], None], stop: StopForBadClips | None) -> ReferenceLogps:
    """Return the reference's log-probs of all answers; those that are not stored are computed first.

    The batches are those of the first epoch, so that its first step meets the very same forwards: the margin there is
    exactly 0 in float32.
    """
    pairs = job.selection.pairs
    reference = ReferenceLogps(policy, recipe.video, job.selection.requests)
    reference.add(job.reference)
    together = is_fsdp()
    cut = _cut(recipe.train, trainer.engine, agree=together)
    trainer.order.set_epoch(0, next_epoch=0)  # training begins where this pass did
    batches = list(trainer.order)
    with nullcontext() if stop is None or together else stop.collected():
        complete_reference(
            reference, [[pairs[place] for place in batch] for batch in batches], keep=keep, together=together,
            compute=lambda number: trainer.compute_reference(batches[number], cut=cut, reference=reference))
    return reference


def _plan(run: "Run", policy: Policy, pairs: Sequence[Pair], rows: RowStore, *, key: str) -> Job:
    folder = checkpoint_folder(run.folder, key)
    folder.mkdir(parents=True, exist_ok=True)
    remove_torn(folder)
    for other in other_checkpoints(run.folder, key):
        log.warning("train: leaving the checkpoints in %s alone: they are of other settings or pairs", other)
    resume = last_checkpoint(folder)
    if resume is not None:
        log.warning("train: going on from %s", resume)
    bad = noted_bad_clips(folder)
    for clip, reason in bad.items():
        run.set_aside(clip, UserError(reason))
    selection = _selection(run, policy, pairs, folder)
    alone = num_processes() == 1
    if not alone:  # every batch must be full there: a clip that failed leaves the list of pairs
        selection = without_clips(selection, bad)
    if not selection.pairs:
        raise UserError(f"none of {len(pairs)} pairs can be trained on: {selection.dropped}. Where they are too long, "
                        "raise train.max_length, or lower video.num_frames or video.max_pixels")
    reference = ReferenceLogps(policy, run.recipe.video, selection.requests)
    return Job(selection=selection, checkpoints=folder, resume=resume, bad_clips=bad if alone else {},
               reference=stored_logps(rows, reference, selection.pairs))


def _selection(run: "Run", policy: Policy, pairs: Sequence[Pair], folder: Path) -> Selection:
    """Return the pairs to train on; a resumed run takes those of before, so that its steps stay the same."""
    file = folder / "selection.json"
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        return read_selection(policy, pairs, root=run.video_root, **before)
    selection = select_pairs(policy, run.recipe, pairs, root=run.video_root, on_bad_clip=run.set_aside)
    write_atomic(file, json.dumps({"places": selection.places, "dropped": selection.dropped}) + "\n")
    return selection


def _is_done(checkpoint: Path | None) -> bool:
    """Return whether a checkpoint is of the last step: the process was killed between it and the adapter."""
    if checkpoint is None:
        return False
    state = read_state(checkpoint)
    return bool(state["global_step"] >= state["max_steps"])


def _summary(pairs: Sequence[Pair], job: Job, history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    steps = [row for row in history if "rewards/margins" in row]  # without steps of which no clip could be read
    first, last = (steps[0], steps[-1]) if steps else ({}, {})
    names = ("loss", "rewards/margins", "rewards/accuracies")
    return {
        "pairs": len(pairs), "trained": len(job.selection.pairs), "dropped": job.selection.dropped,
        "clips": len(job.selection.requests), "steps": history[-1]["step"], "processes": num_processes(),
        "resumed_from": None if job.resume is None else job.resume.name,
        "first": {name: first[name] for name in names if name in first},
        "last": {name: last[name] for name in names if name in last},
    }
