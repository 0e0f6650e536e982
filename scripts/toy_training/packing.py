"""Several questions on one clip (or caption) in one sequence: each sees it and itself only.

B rows, T tokens, P prefix tokens, V video tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from toy_training.policies import Policy

Ids = list[int]


class Row(NamedTuple):
    """Prefix ids and, for every branch, the ids asked and the ids to be learnt."""

    prefix: Ids
    branches: list[tuple[Ids, Ids]]


class Packed(NamedTuple):
    """ids and labels (B, T) int64, labels -100 outside what is learnt; offset (B, T) counts
    from 0 in the prefix and anew in each branch; mask (B, 1, T, T) float, 0 where a token
    may look; branch (B, T) counts branches from 1, 0 in the prefix and -1 in padding."""

    ids: Tensor
    labels: Tensor
    offset: Tensor
    mask: Tensor
    branch: Tensor


def pack(rows: Sequence[Row], *, pad: int) -> Packed:
    """Return rows of a prefix and its branches as one right-padded batch."""
    columns: tuple[list[Ids], ...] = ([], [], [], [])
    for prefix, branches in rows:
        n = len(prefix)
        ids, labels, offset, branch = list(prefix), [-100] * n, list(range(n)), [0] * n
        for k, (asked, said) in enumerate(branches):
            ids += asked + said
            labels += [-100] * len(asked) + said
            offset += range(len(asked) + len(said))
            branch += [k + 1] * (len(asked) + len(said))
        for column, values in zip(columns, (ids, labels, offset, branch), strict=True):
            column.append(values)
    longest = max(map(len, columns[0]))
    ids_, labels_, offset_, branch_ = (
        torch.tensor([values + [fill] * (longest - len(values)) for values in column])
        for column, fill in zip(columns, (pad, -100, 0, -1), strict=True)
    )
    same = (branch_[:, :, None] == branch_[:, None, :]) | (branch_ == 0)[:, None, :]
    seen = same & torch.ones(longest, longest, dtype=torch.bool).tril()
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    return Packed(ids_, labels_, offset_, mask[:, None], branch_)


def pack_clips(policy: Policy, clips: Sequence[Sequence[tuple[str, str]]]) -> Packed:
    """Return the packed batch of the questions, with answers, put to each clip."""

    def ids(text: str) -> Ids:
        return list(policy.tokenizer(text, add_special_tokens=False).input_ids)

    prefix = policy.prefix.tolist()
    rows = [
        Row(prefix, [(ids(policy.ask(q)), ids(policy.answer(a))) for q, a in branches])
        for branches in clips
    ]
    return pack(rows, pad=policy.tokenizer.pad_token_id)


def run(policy: Policy, batch: Packed, features: Tensor) -> Tensor:
    """Return the last hidden states (B, T, D) of a packed batch with features (B, V, D)."""
    video = BaseModelOutputWithPooling(pooler_output=list(features))  # type: ignore[arg-type]
    if policy.frame_group == 1:  # LLaVA-NeXT-Video wants one flat row of features
        flat = features.reshape(1, -1, features.shape[-1])
        video = BaseModelOutputWithPooling(pooler_output=flat)
    positions = (batch.offset + policy.next_position).repeat(len(policy.positions), 1, 1)
    positions[:, :, : len(policy.prefix)] = policy.positions[:, None]
    return policy.model.model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=positions if len(positions) == 3 else positions[0],
        mm_encoder_outputs={"video": video},
        use_cache=False,
    ).last_hidden_state
