"""The trainers: stock TRL on pixels, one pair per micro-batch; the engine on one tree per clip; and
plain rows of features, one pair per micro-batch.

All are TRL's DPOTrainer with the same model, adapter, loss and pairs. A step is what an optimizer
step takes of forwards and backwards; reading clips and the optimizer's own update, equal in both,
are left out.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from bench.case import Case, make_clip, make_pairs, make_policy
from dpo_video.models.families import ClipFeatures
from dpo_video.models.features import encode_video
from dpo_video.models.load import Policy
from dpo_video.models.lora import adapter_parameters, lora_config
from dpo_video.models.prompts import ClipInputs, encode_prompt
from dpo_video.recipe import LoraSettings
from dpo_video.train.forward import install_engine, rows_engine
from dpo_video.train.pair_batches import PairBatch, PairTokens, loss_inputs, pair_rows
from dpo_video.train.shared_prefix import shared_prefix_engine

Batch = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimedTrainer:
    """What is timed, each a function of nothing; `step` returns the mean loss of the pairs and
    leaves gradients.
    """

    step: Callable[[], float]
    """With the reference inside the step."""
    cached_step: Callable[[], float]
    """With the reference's log-probs at hand."""
    reference: Callable[[], list[tuple[Tensor, Tensor]]]
    """The pass that makes them, over all pairs."""
    gradients: Callable[[], Tensor]
    """The adapter's after a step, flat, float32."""


class _Trainer(DPOTrainer):
    """TRL's trainer on batches that are ready; its two data hooks do nothing."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["video"]


def make_trainer(case: Case, name: str) -> TimedTrainer:
    """Return the trainer called `stock`, `ours` or `rows`."""
    policy = make_policy(case)
    clip = make_clip(policy, case)
    pairs = make_pairs(case)
    args = DPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=case.device == "cpu",
        bf16=case.device != "cpu",
        report_to=[],
        activation_checkpointing=case.checkpointing,
        max_length=None,
        per_device_train_batch_size=1,
        save_strategy="no",
        disable_tqdm=True,
        activation_checkpointing_kwargs={"use_reentrant": False},
        remove_unused_columns=False,
    )
    trainer = _Trainer(
        model=policy.model,
        args=args,
        processing_class=policy.processor,
        data_collator=lambda rows: rows,
        train_dataset=Dataset.from_dict({"video": [0]}),
        peft_config=lora_config(LoraSettings(rank=16, alpha=32), policy.family),
    )
    if case.checkpointing:  # as `train()` does; the settings alone switch nothing on
        trainer.model.activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": False}
        )
    torch.manual_seed(2)
    for parameter_name, parameter in adapter_parameters(trainer.model):
        if (
            "lora_B" in parameter_name
        ):  # so that policy and reference differ, and a wrong reference shows in the loss
            torch.nn.init.normal_(parameter, std=0.02)

    def stock_batches() -> Iterator[Batch]:
        for pair in pairs:
            yield stock_batch(policy, clip, pair)

    def our_batches() -> Iterator[Batch]:
        prompts = [encode_prompt(policy, pair.pair.prompt, clip) for pair in pairs]
        features = encode_video(policy, clip)
        yield loss_inputs(
            policy, pair_rows(_pair_batch(clip, features, prompts, pairs), [features])
        )

    def row_batches() -> Iterator[Batch]:
        features = encode_video(policy, clip)
        for pair in pairs:
            prompt = encode_prompt(policy, pair.pair.prompt, clip)
            batch = _pair_batch(clip, features, [prompt], [pair])
            yield loss_inputs(policy, pair_rows(batch, [features]))

    if name != "stock":
        engine = shared_prefix_engine if name == "ours" else rows_engine
        install_engine(policy.bare, policy.family, engine)
    batches = {"stock": stock_batches, "ours": our_batches, "rows": row_batches}[name]
    return _timed(trainer, batches, 1 if name == "ours" else len(pairs))


def _pair_batch(
    clip: ClipInputs, features: Any, prompts: list[Any], pairs: list[PairTokens]
) -> PairBatch:
    return PairBatch(
        clips=[clip],
        features=[features],
        clip_of_pair=[0] * len(pairs),
        rejected_clip_of_pair=[0] * len(pairs),
        prompts=prompts,
        rejected_prompts=prompts,
        pairs=pairs,
        indices=list(range(len(pairs))),
        num_requested=len(pairs),
    )


def stock_batch(policy: Policy, clip: ClipInputs, pair: PairTokens) -> Batch:
    """Return what the best collator for stock TRL gives: a pair's two rows, its clip's pixels for
    each of them.

    Without position_ids: the model makes them itself, by the rule that is installed on it.
    """
    prompt = encode_prompt(policy, pair.pair.prompt, clip)
    stand_in = ClipFeatures(
        torch.empty(int((prompt.input_ids == policy.bare.config.video_token_id).sum()), 0)
    )
    batch = loss_inputs(
        policy, pair_rows(_pair_batch(clip, stand_in, [prompt], [pair]), [stand_in])
    )
    del batch["rows"], batch["position_ids"]
    return {
        **batch,
        **{
            name: torch.cat([tensor, tensor]).to(policy.device)
            for name, tensor in clip.pixels.items()
        },
    }


def _timed(trainer: DPOTrainer, batches: Callable[[], Iterator[Batch]], count: int) -> TimedTrainer:
    trainer.current_gradient_accumulation_steps = count

    def run(ref_logps: list[tuple[Tensor, Tensor]] | None) -> float:
        trainer.precompute_ref_logps = ref_logps is not None
        trainer.model.zero_grad()
        total = 0.0
        for index, batch in enumerate(batches()):
            if ref_logps is not None:
                batch["ref_chosen_logps"], batch["ref_rejected_logps"] = ref_logps[index]
            total += float(trainer.training_step(trainer.model, batch)) * count
        return total / count

    def reference() -> list[tuple[Tensor, Tensor]]:
        trainer.model.eval()
        return [trainer.compute_ref_log_probs(trainer.model, batch) for batch in batches()]

    stored: list[tuple[Tensor, Tensor]] = []

    def cached() -> float:
        if not stored:
            stored.extend(reference())
        return run(stored)

    def gradients() -> Tensor:
        grads = [parameter.grad for _, parameter in adapter_parameters(trainer.model)]
        return torch.cat([grad.flatten().float() for grad in grads if grad is not None])

    return TimedTrainer(
        step=lambda: run(None), cached_step=cached, reference=reference, gradients=gradients
    )
