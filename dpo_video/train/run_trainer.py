"""What every process of a training does: order, clips, trainer, reference, steps."""

import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from transformers import TrainerCallback

from dpo_video.core.errors import UserError
from dpo_video.core.library_warnings import quiet_libraries
from dpo_video.core.ranks import is_main_process, rank, world_size
from dpo_video.models.adapter import with_reference
from dpo_video.models.clip_source import ClipSource, ReadyClip, open_source
from dpo_video.models.encoded_clip import EncodedClip, move
from dpo_video.models.features import pending_features
from dpo_video.models.load import Policy
from dpo_video.models.lora import (
    LANGUAGE_ONLY,
    adapter_parameters,
    check_tuned,
    lora_config,
    lora_shapes,
    lora_targets,
)
from dpo_video.models.peft_library import PeftModel
from dpo_video.recipe import Recipe, TrainSettings
from dpo_video.train.callbacks import StepBar
from dpo_video.train.checkpoints import WholeCheckpoints, is_done
from dpo_video.train.distributed import StopForBadClips
from dpo_video.train.dpo_config import dpo_config, pairs_per_read
from dpo_video.train.forward import Engine, rows_engine
from dpo_video.train.fsdp import is_fsdp
from dpo_video.train.micro_batches import MicroBatchSplitter, single_micro_batch, split_by_tokens
from dpo_video.train.pair_batches import read_batch
from dpo_video.train.prefetch import ClipPrefetcher, OnBadClip
from dpo_video.train.reference import Logps, ReferenceLogps, complete_reference
from dpo_video.train.sampler import ClipSampler
from dpo_video.train.selection import Selection, length_limit
from dpo_video.train.shared_prefix import choose_engine
from dpo_video.train.trainer import TrainingData, VideoDPOTrainer
from dpo_video.video.bad_clips import BadClip

PRECISIONS: dict[torch.dtype, Literal["no", "bf16", "fp16"]] = {
    torch.float32: "no",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """What the process that owns the run folder decides, and every process trains by."""

    selection: Selection
    checkpoints: Path
    resume: Path | None
    bad_clips: Mapping[str, BadClip]
    """Clips that failed earlier in this training, with the reasons: their batches stay short."""
    reference: Logps
    """What is stored of the reference's log-probs."""


def train_adapter(
    policy: Policy,
    recipe: Recipe,
    job: TrainingJob,
    *,
    on_bad_clip: OnBadClip,
    keep: Callable[[Logps], None] = lambda logps: None,
    callbacks: Sequence[TrainerCallback] = (),
) -> int:
    """Run DPO in this process until the last step; checkpoints end up in `job.checkpoints`.

    Args:
        on_bad_clip: told of clips that cannot be read; with several processes training then stops.
        keep: stores log-probs of the reference that were not known.
        callbacks: further callbacks of the trainer.

    Returns:
        The number of trainable parameters.
    """
    args = dpo_config(
        recipe,
        output_dir=job.checkpoints,
        precision=PRECISIONS[policy.dtype],
        use_cpu=policy.device.type == "cpu",
        num_parameters=policy.bare.num_parameters(),
    )
    order = _clip_order(recipe, job)
    stop = StopForBadClips(on_bad_clip) if world_size() > 1 else None
    with quiet_libraries(), open_source(policy, recipe) as source, ExitStack() as bars:
        reader = ClipPrefetcher(
            source,
            job.selection.requests,
            order.clips_ahead,
            bad=set(job.bad_clips),
            encode=_encode(policy, source, recipe.train),
            on_bad_clip=stop or on_bad_clip,
        )
        tuned = (policy.bare, policy.family, recipe.train.tune)
        targets, shapes = lora_targets(*tuned), lora_shapes(*tuned, recipe.train.lora)
        trainer = VideoDPOTrainer(
            policy,
            args=args,
            peft_config=lora_config(recipe.train.lora, policy.family, targets=targets),
            data=_training_data(policy, recipe, job, order, reader),
            callbacks=[WholeCheckpoints()],
            reference=lambda trainer: _reference(
                policy, recipe, job, trainer, keep=keep, stop=stop
            ),
            start=recipe.start_adapter,
        )
        check_tuned(policy.bare, shapes, recipe.train.tune, policy.family)
        # added last: the reference has a bar of its own
        for callback in (*([StepBar(bars)] if is_main_process() else []), *callbacks):
            trainer.add_callback(callback)
        if not is_done(job.resume):
            _train(trainer, job.resume)
        return sum(weight.numel() for _, weight in adapter_parameters(policy.model))


def _train(trainer: VideoDPOTrainer, resume: Path | None) -> None:
    try:
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    except pickle.UnpicklingError as error:  # what transformers reads holds numbers only
        raise UserError(
            f"the checkpoint {str(resume)!r} cannot be resumed from: "
            f"{str(error).strip().splitlines()[0][:200]} Remove that folder, and training goes on "
            "from the checkpoint before"
        ) from error


def _clip_order(recipe: Recipe, job: TrainingJob) -> ClipSampler:
    """Return this process's order of the pairs."""
    order = ClipSampler(
        [pair.clip for pair in job.selection.pairs],
        rejected_clips=[pair.rejected_clip for pair in job.selection.pairs],
        batch_size=pairs_per_read(recipe.train),
        seed=recipe.seed,
        process=rank(),
        num_processes=world_size(),
    )
    order.num_epochs = _num_epochs(recipe.train, len(order))
    return order


def _training_data(
    policy: Policy, recipe: Recipe, job: TrainingJob, order: ClipSampler, reader: ClipPrefetcher
) -> TrainingData:
    pairs = job.selection.pairs
    limit = length_limit(policy, recipe)
    engine = choose_engine(policy, share_prefix=recipe.train.share_prefix)
    return TrainingData(
        order=order,
        split_batch=_splitter(recipe.train, engine),
        engine=engine,
        read=lambda indices: read_batch(
            policy, reader, [pairs[index] for index in indices], max_length=limit
        ),
    )


def _num_epochs(settings: TrainSettings, num_batches: int) -> int:
    """Return how many epochs are begun, as transformers counts them."""
    if settings.max_steps is None:
        return math.ceil(settings.epochs)
    accumulated = settings.gradient_accumulation if settings.tokens_per_batch is None else 1
    return math.ceil(settings.max_steps / math.ceil(num_batches / accumulated))


def _splitter(settings: TrainSettings, engine: Engine, *, agree: bool = True) -> MicroBatchSplitter:
    if settings.tokens_per_batch is None:
        return single_micro_batch
    return split_by_tokens(
        settings.tokens_per_batch,
        shared=engine is not rows_engine,
        batch_size=settings.batch_size,
        agree=agree,
    )


def _encode(
    policy: Policy, source: ClipSource, settings: TrainSettings
) -> Callable[[ReadyClip], EncodedClip]:
    """Return what becomes of a clip that was read: its features, or, where each forward makes
    these, its pixels.
    """
    if set(settings.tune) != set(LANGUAGE_ONLY) or policy.family.encode == "in_forward":
        return lambda clip: EncodedClip(
            inputs=clip.inputs,
            features=pending_features(policy, clip.inputs),
            frames_dropped=clip.frames_dropped,
        )
    if settings.tokens_per_batch is None:
        return source.encode

    def encode_and_wait(clip: ReadyClip) -> EncodedClip:
        """All clips of a step are read before its first forward: their features wait in main
        memory.
        """
        encoded = source.encode(clip)
        return replace(encoded, features=move(encoded.features, torch.device("cpu")))

    return encode_and_wait


def _reference(
    policy: Policy,
    recipe: Recipe,
    job: TrainingJob,
    trainer: VideoDPOTrainer,
    *,
    keep: Callable[[Logps], None],
    stop: StopForBadClips | None,
) -> ReferenceLogps:
    """Return the reference's log-probs of all answers; those that are not stored are computed
    first.

    The batches are those of the first epoch, so that its first step meets the very same forwards:
    where training starts from the reference, the margin there is exactly 0 in float32. Where it
    starts from another policy, the first batch is run with that one's adapter too, read from its
    folder, for the margin that must then be met.
    """
    adapter, start = recipe.reference_adapter, recipe.start_adapter
    logps_under = partial(ReferenceLogps, policy, recipe.video, job.selection.requests)
    reference = logps_under(adapter=adapter)
    reference.add(job.reference)
    assert isinstance(trainer.model, PeftModel)
    together = is_fsdp()
    split_batch = _splitter(recipe.train, trainer.engine, agree=together)
    trainer.order.set_epoch(0, next_epoch=0)  # training begins where this pass did
    batches = list(trainer.order)
    pairs_of_batch = [[job.selection.pairs[index] for index in batch] for batch in batches]
    with (
        nullcontext() if stop is None or together else stop.collected(),
        with_reference(trainer.model, adapter),
    ):
        complete_reference(
            reference,
            pairs_of_batch,
            keep=keep,
            together=together,
            compute=lambda index: trainer.compute_reference(
                batches[index], split_batch=split_batch, reference=reference
            ),
        )
    if start is not None and start != adapter and job.resume is None:
        trainer.first_step = logps_under(adapter=start)
        with with_reference(trainer.model, start):
            _add_first(trainer, batches, split_batch, trainer.first_step)
    return reference


def _add_first(
    trainer: VideoDPOTrainer,
    batches: Sequence[Sequence[int]],
    split_batch: MicroBatchSplitter,
    logps: ReferenceLogps,
) -> None:
    """Make `logps` know the pairs of the first step: those of the first batch that can be read."""
    for batch in batches:
        computed = trainer.compute_reference(batch, split_batch=split_batch, reference=logps)
        logps.add(computed)
        if computed:
            return
