"""Rows of a batch run as trees: what rows of a clip have in common goes through the language model
once.

R rows, T tokens of the longest, N tokens of the packed sequence, S scored tokens, D hidden size.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from dpo_video.models.collate import TokenRow
from dpo_video.models.families import Family
from dpo_video.models.load import Policy
from dpo_video.models.shared_prefix.packed_rows import pack_batch, why_not_shared
from dpo_video.models.shared_prefix.tree import Packing
from dpo_video.train.forward import Engine, Fused, rows_engine

log = logging.getLogger(__name__)
IGNORED = -100
"""Label of a token that is not scored."""
PER_TOKEN = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
"""Fields of FusedCausalLMOutput that have a number for each token."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoredTokens:
    """The answers' tokens of a packing, each once however many rows hold it."""

    states: Tensor
    """(S,) positions in the packed sequence of the tokens before them."""
    labels: Tensor
    """(S,) their ids."""
    index: Tensor
    """(R, T - 1) positions in the above; 0 where nothing is scored."""
    mask: Tensor
    """(R, T - 1), True where a row's next token is scored."""


@dataclass(frozen=True, slots=True, eq=False)
class _AnswerStates:
    """Stands for the bare model inside TRL's fused forward, which then scores the answers' tokens
    and no other.

    TRL asks it for the backbone's states and for the head (trl/trainer/utils.py:1617-1624, 1.16).
    """

    model: PreTrainedModel
    positions: Tensor
    attend: dict[str, Any]
    """Who sees whom: TRL takes an `attention_mask` for one of padding, and there is none."""

    def base_model(self, **kwargs: Any) -> Any:
        """Run the backbone on the packed sequence; its last hidden states become (1, S, D)."""
        output = self.model.base_model(**kwargs, **self.attend)
        output.last_hidden_state = output.last_hidden_state[:, self.positions]
        return output

    def get_output_embeddings(self) -> nn.Module:
        return self.model.get_output_embeddings()


def shared_prefix_engine(
    fused: Fused, *, family: Family, rows: Sequence[TokenRow], dense: bool = False, **batch: Any
) -> FusedCausalLMOutput:
    """Run the rows of each clip as one tree: video, questions, answers; equal rows once.

    Log-probs and gradients are those of `rows_engine` up to rounding. A mixture of experts' balance
    loss counts each packed token once, where rows count a shared token in every row.

    Args:
        dense: attend with one mask of N x N, the slow reference.
    """
    assert isinstance(fused, MethodType), (
        "TRL's add_fused_lm_head binds its forward to the bare model"
    )
    model: Any = fused.__self__
    labels = batch.pop("labels")  # (R, T)
    packing, inputs = pack_batch(model, family, rows, batch, dense=dense)
    scored = _scored(packing, labels)
    attend: dict[str, Any] = {"attention_mask": inputs.pop("attention_mask")}
    if "tree_plan" in inputs:
        attend["tree_plan"] = inputs.pop("tree_plan")
    output = fused.__func__(
        _AnswerStates(model, scored.states, attend),
        shift_labels=scored.labels[None],
        fused_lm_head=True,
        **inputs,
    )
    return _unpacked(output, scored)


def _scored(packing: Packing, labels: Tensor) -> ScoredTokens:
    """Return what is scored: a token of an answer stands in the tree once, whatever rows it stands
    in.
    """
    next_labels = labels[:, 1:].cpu().numpy()  # (R, T - 1)
    mask = next_labels != IGNORED
    packed_index = np.zeros(labels.shape, dtype=np.int64)  # (R, T)
    for row, row_index in enumerate(packing.packed_index):
        packed_index[row, : len(row_index)] = row_index
    _, first, inverse = np.unique(packed_index[:, 1:][mask], return_index=True, return_inverse=True)
    index = np.zeros_like(next_labels)
    index[mask] = inverse

    def on_device(array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(labels.device)

    return ScoredTokens(
        states=on_device(packed_index[:, :-1][mask][first]),
        labels=on_device(next_labels[mask][first]),
        index=on_device(index),
        mask=on_device(mask),
    )


def _unpacked(output: FusedCausalLMOutput, scored: ScoredTokens) -> FusedCausalLMOutput:
    """Return per-token results (1, S) as TRL's rows (R, T - 1), 0 where nothing is scored."""
    fields = {
        name: output[name][0][scored.index].masked_fill(~scored.mask, 0)
        for name in PER_TOKEN
        if output.get(name) is not None
    }
    return FusedCausalLMOutput(
        loss=-fields["log_probs"].sum() / scored.mask.sum().clamp(min=1),
        **fields,
        label_mask=scored.mask,
        aux_loss=output.aux_loss,
    )


def choose_engine(policy: Policy, *, share_prefix: bool = True) -> Engine:
    """Return `shared_prefix_engine`, or `rows_engine` with a line in the log that says why."""
    if not share_prefix:
        return rows_engine
    reason = why_not_shared(policy)
    if reason is None:
        return shared_prefix_engine
    log.warning(
        "train.share_prefix: %s, so every answer runs with its own copy of the clip", reason
    )
    return rows_engine
