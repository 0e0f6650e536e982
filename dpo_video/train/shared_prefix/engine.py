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
from transformers import PretrainedConfig, PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

from dpo_video.models.collate import TokenRow
from dpo_video.models.families import ClipFeatures, Family
from dpo_video.models.features import pack_features
from dpo_video.models.load import Policy
from dpo_video.train.forward import Engine, Fused, rows_engine
from dpo_video.train.shared_prefix.attention import (
    OVER,
    dense_mask,
    install_tree_attention,
    own_attention,
    tree_plan,
)
from dpo_video.train.shared_prefix.tree import IntArray, Packing, pack_rows

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

    def base_model(self, **kwargs: Any) -> Any:
        """Run the backbone on the packed sequence; its last hidden states become (1, S, D)."""
        output = self.model.base_model(**kwargs)
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
    types = batch.pop("mm_token_type_ids", None)
    batch = {name: value for name, value in batch.items() if name not in family.clip_inputs}
    ids, labels = batch.pop("input_ids"), batch.pop("labels")  # (R, T)
    positions = batch.pop("position_ids").reshape(family.position_axes, *ids.shape)  # (axes, R, T)
    tokens = _tokens(ids, positions, batch.pop("attention_mask"))
    packing = pack_rows(tokens, _clips(rows))
    scored = _scored(packing, labels)
    source = _source(packing, ids.shape[1]).to(ids.device)  # (N,)
    block = None
    if family.block_type is not None:
        types = types.flatten()[source][None]  # (1, N)
        block, batch["mm_token_type_ids"] = (types[0] == family.block_type).cpu(), types
    plan = tree_plan(packing.segments, device=ids.device, block=block)
    # A mask of four axes passes through transformers as it is. With a plan nothing reads it: it is
    # empty, so that an attention function that knows no plan stops on its shape.
    attend = (
        {"attention_mask": dense_mask(plan).to(ids.device)}
        if dense
        else {"attention_mask": torch.empty(1, 1, 0, 0, device=ids.device), "tree_plan": plan}
    )
    install_tree_attention(model.get_decoder())
    packed_positions = positions.flatten(1)[:, source][:, None]  # (axes, 1, N)
    output = fused.__func__(
        _AnswerStates(model, scored.states),
        input_ids=ids.flatten()[source][None],
        shift_labels=scored.labels[None],
        position_ids=packed_positions if family.position_axes == 3 else packed_positions[0],
        fused_lm_head=True,
        mm_encoder_outputs=pack_features(
            family, _packed_features(packing, tokens, rows, family, model.config)
        ),
        **attend,
        **batch,
    )
    return _unpacked(output, scored)


def _tokens(ids: Tensor, positions: Tensor, mask: Tensor) -> list[IntArray]:
    """Return each row's tokens (length, 1 + axes) without padding: id, then positions."""
    lengths = mask.sum(1).tolist()
    assert bool(mask[:, 0].all()), "rows are padded on the right"
    tokens = torch.cat([ids[None], positions]).permute(1, 2, 0).cpu().numpy()  # (R, T, 1 + axes)
    return [row[:length] for row, length in zip(tokens, lengths, strict=True)]


def _clips(rows: Sequence[TokenRow]) -> list[int]:
    """Return (R,) numbers of the rows' clips: rows of a clip hold the same features."""
    clip_number: dict[int, int] = {}
    return [clip_number.setdefault(id(row.features), len(clip_number)) for row in rows]


def _source(packing: Packing, width: int) -> Tensor:
    """Return (N,) where each packed token stands among the R x T tokens of the batch, row by
    row.
    """
    return torch.cat(
        [
            torch.arange(segment.row * width + segment.start, segment.row * width + segment.stop)
            for segment in packing.segments
        ]
    )


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


def _packed_features(
    packing: Packing,
    tokens: Sequence[IntArray],
    rows: Sequence[TokenRow],
    family: Family,
    config: PretrainedConfig,
) -> list[ClipFeatures]:
    """Return the features of the packed sequence's placeholders, segment by segment.

    A clip stands in its tree once, unless questions come before it: then each of them has it again.
    """
    placeholder = family.placeholder(config)
    features = []
    for segment in packing.segments:
        holes = tokens[segment.row][: segment.stop, 0] == placeholder
        begin, end = int(holes[: segment.start].sum()), int(holes.sum())
        if begin < end:
            clip = rows[segment.row].features
            features.append(
                ClipFeatures(
                    clip.embeddings[begin:end], tuple(layer[begin:end] for layer in clip.layers)
                )
            )
    return features


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


def why_not_shared(policy: Policy) -> str | None:
    """Return why a policy's prefixes cannot be shared; None where they can."""
    implementation = own_attention(policy.bare.get_decoder())
    settings = policy.bare.get_decoder().config.to_dict()
    layers = settings.get("layer_types") or ["full_attention"]
    sliding = settings.get("sliding_window") is not None and "layer_types" not in settings
    if not policy.family.shared_prefix:
        return (
            f"the language model of {policy.family.title} is recurrent or masks attention in its "
            f"own way"
        )
    if sliding or set(layers) != {"full_attention"}:
        return (
            "the language model has layers that do not see the whole prefix "
            "(sliding window or recurrent)"
        )
    if implementation not in OVER:
        return f"model.attention is {implementation!r}; sharing works with {', '.join(OVER)}"
    if settings.get("attention_dropout"):
        return f"the language model has attention_dropout {settings['attention_dropout']}"
    return None
