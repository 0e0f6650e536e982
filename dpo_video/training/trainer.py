"""TRL's DPOTrainer on video: its two data hooks, clips encoded once a step, the reference through one function.

B pairs, R = 2B rows (chosen, then rejected), T tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from dpo_video.errors import UserError
from dpo_video.models.features import encode_video
from dpo_video.models.load import Policy
from dpo_video.models.lora import assert_fp32_adapter, keep_adapter_fp32
from dpo_video.training.batches import PairBatch, loss_inputs, pair_rows
from dpo_video.training.forward import Engine, install_engine, rows_engine
from dpo_video.training.order import ClipOrder

ReadBatch = Callable[[Sequence[int]], PairBatch | None]
"""Makes a batch of positions in the list of pairs; None when no clip of it can be read."""

MARGIN_PER_TOKEN: dict[torch.dtype, float] = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Nats per answer token by which policy and reference may differ at step 0, where the adapter changes nothing.

Both run the same kernels on the same rows, so 0 is expected; kernels chosen by batch or by gradient mode may round
differently, by about one unit in the last place of the logits (2e-2 at a logit of 4 in bfloat16).
"""


class VideoDPOTrainer(DPOTrainer):
    """TRL's losses, metrics and loop over batches of video pairs."""

    def __init__(self, policy: Policy, *, args: DPOConfig, peft_config: PeftConfig, order: ClipOrder,
                 read: ReadBatch, callbacks: Sequence[TrainerCallback] = (), engine: Engine = rows_engine) -> None:
        """Train `policy` with a new adapter on the pairs that `read` makes batches of, in `order`.

        Args:
            order: gives positions in the list of pairs, batch by batch.
            read: makes a batch of such positions.
            engine: answers TRL's forward for the loss; see forward.py.
        """
        self._policy = policy
        self._order = order
        self._read = read
        self._started = False
        try:
            super().__init__(
                model=policy.model, args=args, data_collator=self._collate, processing_class=policy.processor,
                train_dataset=Dataset.from_dict({"pair": list(range(len(order.clips)))}), callbacks=[*callbacks],
                peft_config=peft_config)
        except (ValueError, NotImplementedError) as error:
            raise UserError(f"TRL refuses the training settings: {error}") from error
        self.remove_callback(PrinterCallback)
        self.add_callback(_EpochStart(order))
        # TRL casts the adapter of a 4-bit model to bfloat16 (dpo_trainer.py:726), where a small learning rate's
        # updates are lost to rounding. The optimizer does not exist yet.
        assert isinstance(self.model, PeftModel)
        keep_adapter_fp32(self.model)
        assert_fp32_adapter(self.model)
        self._base = policy.bare  # PEFT puts its layers into it
        install_engine(self._base, policy.family, engine)
        # read in _compute_loss (dpo_trainer.py:1318): take the reference's log-probs from the batch, where
        # `reference_logps` puts them
        self.precompute_ref_logps = True

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["pair"]  # type: ignore[assignment]

    def _precompute_ref_logps(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the batches of this process; `order` already is this process's share, so accelerate adds nothing."""
        positions = list(range(len(self._order.clips)))
        return DataLoader(positions, batch_sampler=self._order, collate_fn=self._collate)  # type: ignore[arg-type]

    def reference_logps(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the reference's log-probs of the chosen and the rejected answers, (B,) float32 nats each.

        The reference is the model without its adapter. TRL switches gradient checkpointing off for it and on again
        after; transformers 5.23 then adds hooks to the embeddings each time without removing the last ones
        (modeling_utils.py:2131), so the new ones are removed here.
        """
        chosen, rejected = self.compute_ref_log_probs(self.model, inputs)
        if self._base.is_activation_checkpointing:
            self._base.disable_input_require_grads()
        return chosen, rejected

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool) -> Any:
        batch = self._encode(inputs["pairs"])
        batch["ref_chosen_logps"], batch["ref_rejected_logps"] = self.reference_logps(batch)
        first, self._started = not self._started, True
        if first and self.state.log_history:  # resumed: TRL would count tokens from 0 again
            self._total_train_tokens = int(self.state.log_history[-1]["num_tokens"])
        loss = super()._compute_loss(model, batch, return_outputs)
        if first and self.state.global_step == 0:
            self._check_step_zero(batch)
        return loss

    def _encode(self, pairs: PairBatch) -> dict[str, Any]:
        """Return TRL's batch: the tower runs here, once per clip and without gradients, for all rows and forwards."""
        features = [encode_video(self._policy, clip) for clip in pairs.clips]
        return loss_inputs(self._policy, pair_rows(pairs, features))

    def _check_step_zero(self, batch: Mapping[str, Any]) -> None:
        """Raise unless policy and reference agree before the first step: a new adapter changes nothing."""
        metrics = self._metrics["train"]
        worst = max(abs(metrics[f"rewards/{side}"][-1]) for side in ("chosen", "rejected")) / self.beta
        longest = int(batch["completion_mask"].sum(1).max())
        allowed = MARGIN_PER_TOKEN[self._policy.dtype] * longest
        if not worst <= allowed:
            raise RuntimeError(
                f"before the first step, policy and reference differ by {worst:.3g} nats on an answer of {longest} "
                f"tokens (at most {allowed:.3g} is rounding in {self._policy.dtype}). A new adapter changes nothing, "
                "so the reference is not the model being tuned, and no result could be trusted. With `train.trl."
                "disable_dropout: false` the model's own dropout does this; otherwise please report it")

    def _collate(self, positions: Sequence[int]) -> dict[str, PairBatch | None]:
        return {"pairs": self._read(positions)}

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Run one batch forward and backward; a batch of which no clip could be read adds nothing."""
        if inputs["pairs"] is None:
            self._metrics["train"]["skipped_batches"].append(1.0)
            return torch.zeros((), device=self.args.device)
        return super().training_step(model, inputs, *args, **kwargs)

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """Return 0: transformers' estimate counts neither the tower nor the frozen weights."""
        return 0


class _EpochStart(TrainerCallback):
    """Tells the order its epoch; transformers would tell only samplers that accelerate wrapped."""

    def __init__(self, order: ClipOrder) -> None:
        self._order = order

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                       **kwargs: Any) -> None:
        """Shuffle for the epoch that begins, or, after a resume, the one it was killed in."""
        self._order.set_epoch(int(state.epoch or 0))
