"""TRL's DPOTrainer on video: its two data hooks, micro-batches by tokens, the reference through one
function.

B pairs, R = 2B rows (chosen, then rejected), T tokens.
"""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.utils import FusedCausalLMOutput

from dpo_video.core.errors import UserError
from dpo_video.models.adapter import load_weights
from dpo_video.models.collate import encode_rows
from dpo_video.models.encoded_clip import move
from dpo_video.models.load import Policy
from dpo_video.models.lora import assert_fp32_adapter, keep_adapter_fp32, tunes_tower
from dpo_video.models.peft_library import PeftConfig, PeftModel
from dpo_video.train.callbacks import EpochStart, TrainBegin
from dpo_video.train.forward import Engine, install_engine, rows_engine
from dpo_video.train.fsdp import install_fsdp, is_fsdp, shard_language_only, whole_adapter
from dpo_video.train.guards import (
    check_reference,
    check_step_zero,
    disk_error,
    is_disk_error,
    not_finite,
)
from dpo_video.train.metrics import Meter, average_forwards
from dpo_video.train.micro_batches import MicroBatchSplitter, single_micro_batch
from dpo_video.train.pair_batches import PairBatch, loss_inputs, pair_rows
from dpo_video.train.reference import Logps, ReferenceLogps
from dpo_video.train.sampler import ClipSampler

ReadBatch = Callable[[Sequence[int]], PairBatch | None]
"""Makes a batch of positions in the list of pairs; None when no clip of it can be read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingData:
    """What the trainer runs: which pairs, read how, in which forwards."""

    order: ClipSampler
    """Gives positions in the list of pairs, batch by batch."""
    read: ReadBatch
    split_batch: MicroBatchSplitter = single_micro_batch
    """Makes forwards of a batch; see micro_batches.py."""
    engine: Engine = rows_engine
    """Answers TRL's forward for the loss; see forward.py."""


class VideoDPOTrainer(DPOTrainer):
    """TRL's losses, metrics and loop over batches of video pairs."""

    def __init__(
        self,
        policy: Policy,
        *,
        args: DPOConfig,
        peft_config: PeftConfig,
        data: TrainingData,
        callbacks: Sequence[TrainerCallback] = (),
        reference: "Callable[[VideoDPOTrainer], ReferenceLogps] | None" = None,
        start: Path | None = None,
    ) -> None:
        """Train `policy` with a new adapter on what `data` gives.

        Args:
            reference: makes `self.reference` right before the first step; under FSDP no forward can
                run before.
            start: folder of an adapter whose weights the new one begins with.
        """
        self._policy = policy
        self.order = data.order
        self.engine = data.engine
        self._read = data.read
        self._split_batch = data.split_batch
        self._started = False
        self._weight = 1.0
        self._last_logps: Tensor | None = None
        self.meter = Meter(shared=self.engine is not rows_engine)
        self.reference: ReferenceLogps | None = None
        """Where the reference's log-probs come from; None runs it in every step."""
        self.first_step: ReferenceLogps | None = None
        """What the policy must say in the first step, where that is not what its reference says."""
        try:
            super().__init__(
                model=policy.model,
                args=args,
                data_collator=self._collate,
                processing_class=policy.processor,
                train_dataset=Dataset.from_dict({"pair": list(range(len(self.order.clips)))}),
                callbacks=[*callbacks],
                peft_config=peft_config,
            )
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"TRL refuses the training settings: {error}") from error
        self.remove_callback(PrinterCallback)
        self.add_callback(EpochStart(self.order))
        if reference is not None:
            self.add_callback(TrainBegin(lambda: setattr(self, "reference", reference(self))))
        self._base = policy.bare  # PEFT puts its layers into it
        self._prepare_model(start)

    def _prepare_model(self, start: Path | None) -> None:
        # TRL casts the adapter of a 4-bit model to bfloat16 (dpo_trainer.py:726), where a small
        # learning rate's updates are lost to rounding. The optimizer does not exist yet.
        assert isinstance(self.model, PeftModel)
        keep_adapter_fp32(self.model)
        assert_fp32_adapter(self.model)
        if start is not None:
            load_weights(self.model, start)
        in_forward = self._policy.family.encode == "in_forward" or tunes_tower(self.model)
        install_engine(
            self._base,
            self._policy.family,
            self._watch(self.engine),
            encode=partial(encode_rows, self._policy) if in_forward else None,
        )
        # read in _compute_loss (dpo_trainer.py:1318): take the reference's log-probs from the
        # batch, where `reference_logps` puts them
        self.precompute_ref_logps = True
        if self.is_fsdp_enabled:
            shard_language_only(self.accelerator.state.fsdp_plugin, self._base)

    def create_accelerator_and_postprocess(self) -> None:
        """Also shard on CPUs where the launcher asks for it."""
        super().create_accelerator_and_postprocess()
        if is_fsdp():
            install_fsdp(self.accelerator)
            self.is_fsdp_enabled = True

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["pair"]  # type: ignore[assignment]

    def _precompute_ref_logps(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of this process; `order` already is this process's share, so
        accelerate adds nothing.
        """
        positions = list(range(len(self.order.clips)))
        return DataLoader(positions, batch_sampler=self.order, collate_fn=self._collate)  # type: ignore[arg-type]

    def _watch(self, engine: Engine) -> Engine:
        """Return an engine that leaves its log-probs (R, T - 1) in `_last_logps`: TRL keeps their
        sums only.

        It runs under autocast, which accelerate 1.15 puts around every forward but FSDP2's.
        """

        def watched(*args: Any, **kwargs: Any) -> FusedCausalLMOutput:
            with self.accelerator.autocast():
                output = engine(*args, **kwargs)
            self._last_logps = output.log_probs
            return output

        return watched

    def reference_logps(
        self, inputs: Mapping[str, Any], pairs: PairBatch, *, known: ReferenceLogps | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the reference's log-probs of the chosen and the rejected answers, (B,) float32
        nats each.

        They come out of TRL's own function, which weighs them by `trl.ld_alpha`: it asks the model
        with the adapter of its reference or without any, or, where the log-probs of the answers are
        `known`, something that answers with these. TRL switches gradient checkpointing off for it
        and on again after; transformers 5.23 then adds hooks to the embeddings each time without
        removing the last ones (modeling_utils.py:2131), so the new ones are removed here.
        """
        model: Any = self.model
        if known is not None:
            scored = inputs["completion_mask"][:, 1:].bool()
            self._last_logps = known.rows(pairs.pairs, scored)
            stored = FusedCausalLMOutput(log_probs=self._last_logps)

            def model(**kwargs: Any) -> FusedCausalLMOutput:
                return stored

        chosen, rejected = self.compute_ref_log_probs(model, inputs)
        if self._base.is_activation_checkpointing:
            self._base.disable_input_require_grads()
        return chosen, rejected

    def compute_reference(
        self,
        positions: Sequence[int],
        *,
        split_batch: MicroBatchSplitter,
        reference: ReferenceLogps,
    ) -> Logps:
        """Return the reference's log-probs of the answers of a batch, by key, from the forward that
        training uses.
        """
        pairs, logps = self._read(positions), Logps()
        assert self.model is not None
        self.model.eval()
        for micro_batch in split_batch(pairs) if pairs is not None else []:
            batch = self._encode(micro_batch.pairs)
            self.reference_logps(batch, micro_batch.pairs)
            assert self._last_logps is not None
            scored = batch["completion_mask"][:, 1:].bool()
            check_reference(micro_batch.pairs, self._last_logps, scored, dtype=self._policy.dtype)
            logps |= reference.split(micro_batch.pairs.pairs, self._last_logps, scored)
        return logps

    def _compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool
    ) -> Any:
        pairs: PairBatch = inputs["pairs"]
        batch = self._encode(pairs)
        batch["ref_chosen_logps"], batch["ref_rejected_logps"] = self.reference_logps(
            batch, pairs, known=self.reference
        )
        reference = self._last_logps
        first, self._started = not self._started, True
        if first and self.state.log_history:  # resumed: TRL would count tokens from 0 again
            counts = [row["num_tokens"] for row in self.state.log_history if "num_tokens" in row]
            self._total_train_tokens = (
                int(counts[-1]) if counts else 0
            )  # steps without a readable clip count none
        loss = super()._compute_loss(model, batch, return_outputs)
        if not torch.isfinite(loss):
            raise self._not_finite("loss", float(loss.detach()))
        if first and self.state.global_step == 0:
            self._check_first_step(batch, pairs)
        assert reference is not None and self._last_logps is not None
        self.meter.add(pairs)
        self.meter.add_divergence(
            self._last_logps, reference, batch["completion_mask"][:, 1:].bool()
        )
        self._last_logps = None  # it holds the graph of the forward
        return loss * self._weight if self._weight != 1.0 else loss

    def _check_first_step(self, batch: Mapping[str, Any], pairs: PairBatch) -> None:
        """Raise unless the rewards that TRL noted are those of the policy that training starts
        from: 0 where that is the reference, else what the two log-probs of each answer say.
        """
        metrics, policy_logps = self._metrics["train"], self._last_logps
        reference = (batch["ref_chosen_logps"], batch["ref_rejected_logps"])
        expected = [torch.zeros_like(logps) for logps in reference]
        if self.first_step is not None:
            start = self.reference_logps(batch, pairs, known=self.first_step)
            expected = [logps - base for logps, base in zip(start, reference, strict=True)]
            self._last_logps = policy_logps
        check_step_zero(
            [
                metrics[f"rewards/{side}"][-1] / self.beta
                - float(self.accelerator.gather(logratios).mean())
                for side, logratios in zip(("chosen", "rejected"), expected, strict=True)
            ],
            num_tokens=int(batch["completion_mask"].sum(1).max()),
            dtype=self._policy.dtype,
        )

    def _encode(self, pairs: PairBatch) -> dict[str, Any]:
        """Return TRL's batch; a frozen tower has run before, once per clip, a tuned one runs in the
        forward.
        """
        features = [move(clip, self._policy.device) for clip in pairs.features]
        return loss_inputs(self._policy, pair_rows(pairs, features))

    def _not_finite(self, name: str, value: float) -> UserError:
        step = self.state.global_step + 1
        return not_finite(name, value, step=step, dtype=self._policy.dtype, args=self.args)

    def _get_grad_norm(
        self, model: torch.nn.Module, grad_norm: Tensor | float | None = None
    ) -> Tensor | float | None:
        """Return the gradient's norm; raise UserError where it is not finite.

        In float16 a scaler skips such a step and halves its scale, so only many in a row are an
        error there.
        """
        norm: Tensor | float | None = super()._get_grad_norm(model, grad_norm=grad_norm)
        scaler = self.accelerator.scaler
        must_be_finite = scaler is None or scaler.get_scale() < 1
        if norm is not None and must_be_finite and not math.isfinite(float(norm)):
            raise self._not_finite("norm of the gradient", float(norm))
        return norm

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write a checkpoint; where the disk refuses, remove what was written and say so."""
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            checkpoints = Path(str(self.args.output_dir))
            if not is_disk_error(error, checkpoints):
                raise
            folder = checkpoints / f"checkpoint-{self.state.global_step}"
            shutil.rmtree(folder, ignore_errors=True)
            raise disk_error(error, folder) from error

    def _collate(self, positions: Sequence[int]) -> dict[str, list[int]]:
        """Return a batch unread: the trainer asks for all batches of a step before it runs the
        first.
        """
        return {"positions": list(positions)}

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Read one batch and run it forward and backward; one of which no clip can be read adds
        nothing.
        """
        self.meter.start()
        pairs = self._read(inputs["positions"])
        if pairs is None:
            model.train()  # TRL logs what belongs to the mode
            self.meter.add_skipped(len(inputs["positions"]))
            self.meter.add_batch(0.0, share_of_step=1 / self.current_gradient_accumulation_steps)
            return torch.zeros((), device=self.args.device)
        self.meter.add_wait(pairs.waited)
        self.meter.add_skipped(pairs.num_requested - len(pairs.pairs))
        micro_batches = self._split_batch(pairs)
        before = {name: len(values) for name, values in self._metrics["train"].items()}
        total = torch.zeros((), device=self.args.device)
        for index, micro_batch in enumerate(micro_batches):
            self._weight = micro_batch.weight
            with self._sync(model, last=index == len(micro_batches) - 1):
                total += super().training_step(model, {"pairs": micro_batch.pairs}, *args, **kwargs)
        self._weight = 1.0
        self.meter.add_batch(
            sum(micro_batch.weight for micro_batch in micro_batches),
            share_of_step=1 / self.current_gradient_accumulation_steps,
        )
        if len(micro_batches) > 1:
            weights = [micro_batch.weight for micro_batch in micro_batches]
            noted = self._metrics["train"]
            noted.update(average_forwards(noted, before, weights))
        return total

    def _sync(self, model: torch.nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Let processes exchange gradients after the last forward only, as transformers does
        (trainer.py:1887).
        """
        state = self.accelerator.gradient_state
        if not last:
            state._set_sync_gradients(False)
            if self.accelerator.distributed_type != DistributedType.DEEPSPEED:
                return self.accelerator.no_sync(model=model)
        elif self._split_batch is not single_micro_batch:
            state._set_sync_gradients(True)
        return nullcontext()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what TRL does not measure to a line about training steps."""
        if "loss" in logs:
            logs = {**self.meter.over_what_ran(logs), **self.meter.take()}
        # the mean that transformers takes in the end counts neither a resume nor what was skipped
        logs = {name: value for name, value in logs.items() if name != "train_loss"}
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the adapter; under FSDP too, where transformers would gather the whole model, or
        write shards only.
        """
        if self.is_fsdp_enabled:
            assert isinstance(self.model, PeftModel)
            self._save(output_dir, state_dict=whole_adapter(self.model))
        else:
            super().save_model(output_dir, _internal_call)

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """Return 0: transformers' estimate counts neither the tower nor the frozen weights."""
        return 0
