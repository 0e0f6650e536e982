"""A batch of rows packed as trees: the language model's inputs, what rows have in common once.

R rows, T tokens of the longest, N tokens of the packed sequence.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from dpo_video.models.collate import TokenRow
from dpo_video.models.families import ClipFeatures, Family
from dpo_video.models.features import pack_features
from dpo_video.models.hearing import placeholders
from dpo_video.models.load import Policy
from dpo_video.models.shared_prefix.attention import (
    OVER,
    dense_mask,
    install_tree_attention,
    own_attention,
    tree_plan,
)
from dpo_video.models.shared_prefix.tree import IntArray, Packing, pack_rows

NONE = slice(0, 0)


def pack_batch(
    model: PreTrainedModel,
    family: Family,
    rows: Sequence[TokenRow],
    batch: dict[str, Any],
    *,
    dense: bool = False,
) -> tuple[Packing, dict[str, Any]]:
    """Return how rows are packed, and the bare model's keyword arguments for the packed sequence.

    `input_ids` (1, N), `position_ids` (1, N) or (3, 1, N), features in place of pixels, and who
    sees whom; entries of `batch` that are not about its tokens stay.

    Args:
        batch: the rows, collated and padded on the right.
        dense: attend with one mask of N x N, the slow reference.
    """
    batch = {name: value for name, value in batch.items() if name not in family.clip_inputs}
    types = batch.pop("mm_token_type_ids", None)
    batch.pop("mm_encoder_outputs", None)  # those of the rows, one by one
    ids = batch.pop("input_ids")  # (R, T)
    positions = batch.pop("position_ids").reshape(family.position_axes, *ids.shape)  # (axes, R, T)
    tokens = _tokens(ids, positions, batch.pop("attention_mask"))
    packing = pack_rows(tokens, _clips(rows))
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
    return packing, {
        "input_ids": ids.flatten()[source][None],
        "position_ids": packed_positions if family.position_axes == 3 else packed_positions[0],
        "mm_encoder_outputs": pack_features(
            family, _packed_features(packing, tokens, rows, family, model.config)
        ),
        **attend,
        **batch,
    }


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
    tokens_of_rows = placeholders(family, config)
    features = []
    for segment in packing.segments:
        ids = tokens[segment.row][: segment.stop, 0]
        ranges = [_range(ids == token, segment.start) for token in tokens_of_rows]
        if any(part.start < part.stop for part in ranges):
            features.append(_part(rows[segment.row].features, *ranges))
    return features


def _range(holes: NDArray[np.bool_], start: int) -> slice:
    """Return which of a clip's placeholders stand from `start` on."""
    return slice(int(holes[:start].sum()), int(holes.sum()))


def _part(clip: ClipFeatures, seen: slice, heard: slice = NONE) -> ClipFeatures:
    """Return the features of some of a clip's placeholders."""
    return ClipFeatures(
        clip.embeddings[seen],
        tuple(layer[seen] for layer in clip.layers),
        None if clip.sound is None or heard.start == heard.stop else clip.sound[heard],
    )


def why_not_shared(policy: Policy) -> str | None:
    """Return why a policy's prefixes cannot be shared; None where they can."""
    if not policy.family.shared_prefix:
        return f"{policy.family.title}: {policy.family.why_not_shared}"
    return why_no_tree(policy.bare.get_decoder(), setting="model.attention")


def why_answered_alone(policy: Policy) -> str | None:
    """Return why a policy's answers cannot be written on trees; None where they can.

    Beyond what speaks against trees as such: they read the cache, which holds other keys than
    attention sees under multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, sec. 2.1).
    """
    if policy.bare.get_decoder().config.to_dict().get("kv_lora_rank") is not None:
        return "the language model's cache holds compressed keys (multi-head latent attention)"
    return why_not_shared(policy)


def why_no_tree(decoder: PreTrainedModel, *, setting: str) -> str | None:
    """Return why a text model's attention cannot follow a tree; None where nothing in its
    configuration speaks against it.

    Args:
        setting: what chooses its attention, for the words.
    """
    implementation = own_attention(decoder)
    settings = decoder.config.to_dict()
    layers = settings.get("layer_types") or ["full_attention"]
    sliding = settings.get("sliding_window") is not None and "layer_types" not in settings
    if sliding or set(layers) != {"full_attention"}:
        return (
            "the language model has layers that do not see the whole prefix "
            "(sliding window or recurrent)"
        )
    if implementation not in OVER:
        return f"{setting} is {implementation!r}; sharing works with {', '.join(OVER)}"
    if settings.get("attention_dropout"):
        return f"the language model has attention_dropout {settings['attention_dropout']}"
    return None


def pack_texts(
    model: PreTrainedModel, texts: Sequence[Sequence[int]]
) -> tuple[Packing, dict[str, Any]]:
    """Return how token ids of texts are packed as trees, and a language model's keyword arguments
    for the packed sequence: `input_ids` and `position_ids` (1, N), and who sees whom.
    """
    rows = [np.stack([np.asarray(text), np.arange(len(text))], axis=1) for text in texts]
    packing = pack_rows(rows, [0] * len(rows))
    packed = np.concatenate(
        [rows[segment.row][segment.start : segment.stop] for segment in packing.segments]
    )
    ids, positions = torch.from_numpy(packed.T.copy()).to(model.device)[:, None]
    install_tree_attention(model.get_decoder())
    return packing, {
        "input_ids": ids,
        "position_ids": positions,
        "attention_mask": torch.empty(1, 1, 0, 0, device=model.device),
        "tree_plan": tree_plan(packing.segments, device=model.device),
    }
