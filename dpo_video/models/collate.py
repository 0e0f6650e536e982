"""Rows of a batch: prompts with or without answers, padded on either side, with the features of
their clips.

Shapes: B rows, T tokens of the longest row, P prompt tokens, axes 3 under M-RoPE, else 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from dpo_video.core.errors import UserError
from dpo_video.models.families import ClipFeatures
from dpo_video.models.features import pack_features, video_features
from dpo_video.models.hearing import feature_rows
from dpo_video.models.load import Policy
from dpo_video.models.prompts import ClipInputs, Prompt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenRow:
    """One sequence of tokens about one clip."""

    prompt: Prompt
    clip: ClipInputs
    features: ClipFeatures
    answer: tuple[int, ...] = ()
    """Ids after the prompt; empty where the model is to write them."""

    def __len__(self) -> int:
        return len(self.prompt.input_ids) + len(self.answer)


def row_ids(row: TokenRow) -> Tensor:
    """Return (T,) ids of prompt and answer."""
    return torch.cat([row.prompt.input_ids, torch.tensor(row.answer, dtype=torch.long)])


def row_positions(row: TokenRow) -> Tensor:
    """Return (axes, T) positions; an answer goes on one by one from the prompt's last position, on
    every axis.
    """
    last = row.prompt.positions[:, -1:]
    return torch.cat([row.prompt.positions, last + 1 + torch.arange(len(row.answer))], dim=1)


def encode_rows(policy: Policy, rows: Sequence[TokenRow]) -> list[TokenRow]:
    """Return rows whose clips still have their pixels with features in this forward's graph: each
    clip once, or each question about it where features depend on that.
    """
    by_question = policy.family.encode == "in_forward"
    features: dict[tuple[int, int], ClipFeatures] = {}
    encoded = []
    for row in rows:
        key = (id(row.features), id(row.prompt) if by_question else 0)
        if key not in features:
            features[key] = video_features(policy, row.clip, row.prompt.inputs)
        encoded.append(replace(row, features=features[key]))
    return encoded


def collate(
    policy: Policy,
    rows: Sequence[TokenRow],
    side: Literal["left", "right"],
    *,
    with_features: bool = True,
) -> dict[str, Any]:
    """Return the forward's keyword arguments for rows of any lengths and frame counts, on the
    policy's device.

    `input_ids` and `attention_mask` (B, T), `position_ids` (B, T) or (3, B, T) under M-RoPE, the
    family's per-clip inputs, `mm_token_type_ids` (B, T) where it has them, and `mm_encoder_outputs`
    in place of pixels.

    Args:
        with_features: False leaves these out, for an engine that packs its own.
    """
    for row in rows:
        _check_features(policy, row)
    ids = _pad([row_ids(row) for row in rows], side, policy.pad_id)
    mask = _pad([torch.ones(len(row), dtype=torch.long) for row in rows], side, 0)
    positions = [row_positions(row) for row in rows]
    axes = [_pad(list(axis), side, 0) for axis in zip(*positions, strict=True)]
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": torch.stack(axes) if policy.family.position_axes == 3 else axes[0],
    }
    types = [
        torch.cat([row.prompt.token_types, torch.zeros(len(row.answer), dtype=torch.long)])
        for row in rows
        if row.prompt.token_types is not None
    ]
    if types:
        batch["mm_token_type_ids"] = _pad(types, side, 0)
    for name in policy.family.clip_inputs:
        batch[name] = torch.cat([row.clip.clip_inputs[name] for row in rows])
    moved: dict[str, Any] = {name: tensor.to(policy.device) for name, tensor in batch.items()}
    if not with_features:
        return moved
    if policy.family.encode == "in_forward":
        rows = encode_rows(policy, rows)
    return {
        **moved,
        "mm_encoder_outputs": pack_features(policy.family, [row.features for row in rows]),
    }


def _check_features(policy: Policy, row: TokenRow) -> None:
    for rows in feature_rows(policy.family, policy.bare.config, row.features):
        num_placeholders = rows.holes(row.prompt.input_ids)
        if num_placeholders != rows.made:
            raise UserError(
                f"the family {policy.family.name!r}: `features` makes {rows.made} rows of "
                f"{rows.of}, and its prompt has {num_placeholders} placeholders (`{rows.field}`) "
                f"of the id {rows.token}: they must be as many"
            )


def _pad(rows: Sequence[Tensor], side: Literal["left", "right"], value: int) -> Tensor:
    """Return (B, T) of rows filled up with `value`."""
    return torch.nn.utils.rnn.pad_sequence(
        list(rows), batch_first=True, padding_value=value, padding_side=side
    )
