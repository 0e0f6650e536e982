"""Attention over packed trees without a mask of N x N: each segment sees its ancestors, and itself
causally.

N tokens of the packed sequence, H query heads, G groups of keys and values, D width of a head.

A root is plain causal attention. What is below it uses, off the CPU, one call per segment with
`causal_lower_right(segment, path)`: no mask exists, and torch's FlashAttention runs, with grouped
keys; the keys of the path are copied together for each segment. On the CPU there is no such kernel,
so that torch would make a mask of segment x path in every call; there all of a tree's lower
segments go in one call with one mask of lower x tree, made once a step, and no key is copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dpo_video.models.shared_prefix.cascade import CascadePlan, cascade_attention
from dpo_video.models.shared_prefix.tree import Segment

OVER = {
    "sdpa": "dpo_video_tree_sdpa",
    "flash_attention_2": "dpo_video_tree_fa2",
    "flash_attention_3": "dpo_video_tree_fa3",
}
"""By the implementation that serves a model's other forwards, what stands over it. transformers
looks on the hub for a kernel of any name that holds "flash"."""
MAX_MASK = 1 << 25
"""Numbers in a mask of lower x tree, 128 MiB in float32; above it segments are called one by one on
the CPU too.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tree:
    """A root and all that is below it, as spans of the packed sequence counted from the root's
    first token.
    """

    sizes: Sequence[int]
    """Tokens of each segment, the root first."""
    paths: Sequence[tuple[int, ...]]
    """For each segment, the positions of its ancestors in `sizes`."""
    self_masks: Sequence[Tensor | None]
    """For each segment (its tokens, its tokens) float32, as `mask`; None: it is causal."""
    mask: Tensor | None
    """(lower tokens, tokens of the tree) float32, 0 where a token sees another, -inf elsewhere;
    None: no mask.
    """


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TreePlan:
    """Who sees whom in a packed sequence. It travels to the attention function as the keyword
    `tree_plan`.

    As a keyword it is also there when a checkpointed layer runs again in the backward pass, and no
    other forward can meet it.
    """

    trees: Sequence[Tree]

    @property
    def sizes(self) -> list[int]:
        """Tokens of each tree."""
        return [sum(tree.sizes) for tree in self.trees]


def tree_plan(
    segments: Sequence[Segment],
    *,
    device: torch.device,
    masked: bool | None = None,
    block: Tensor | None = None,
) -> TreePlan:
    """Return the plan of a packed sequence, its masks on `device`.

    Args:
        masked: one call with a mask for all lower segments of a tree; None chooses by device and
            size.
        block: (N,), True where tokens of a segment see each other in both directions; None is
            causal throughout. A clip's tokens stand in one segment, so that no shared state depends
            on what only one branch holds.
    """
    roots = [index for index, segment in enumerate(segments) if not segment.ancestors]
    return TreePlan(
        trees=[
            _tree(segments[first:last], first, device=device, masked=masked, block=block)
            for first, last in pairwise([*roots, len(segments)])
        ]
    )


def _tree(
    segments: Sequence[Segment],
    first: int,
    *,
    device: torch.device,
    masked: bool | None,
    block: Tensor | None,
) -> Tree:
    """Return the tree of its segments; `first` is the root's position among all."""
    sizes = [segment.end - segment.begin for segment in segments]
    paths: list[tuple[int, ...]] = []
    self_masks: list[Tensor | None] = []
    for segment in segments:
        paths.append(tuple(ancestor - first for ancestor in segment.ancestors))
        self_masks.append(None if block is None else _self_mask(block[segment.begin : segment.end]))
    lower, tokens = sum(sizes[1:]), sum(sizes)
    if masked is None:
        masked = device.type == "cpu" and lower * tokens <= MAX_MASK
    mask = _mask(sizes, paths, self_masks)[sizes[0] :].to(device) if masked and lower else None
    return Tree(
        sizes=sizes,
        paths=paths,
        self_masks=[None if own_mask is None else own_mask.to(device) for own_mask in self_masks],
        mask=mask,
    )


def _self_mask(block: Tensor) -> Tensor | None:
    """Return the mask of a segment whose tokens in `block` (tokens,) see each other; None where
    there are none.
    """
    if not block.any():
        return None
    return _causal(len(block)).masked_fill(block[:, None] & block, 0.0)


def _causal(size: int) -> Tensor:
    return torch.full((size, size), float("-inf")).triu(1)


def _mask(
    sizes: Sequence[int], paths: Sequence[tuple[int, ...]], self_masks: Sequence[Tensor | None]
) -> Tensor:
    """Return (tokens, tokens) float32 of one tree, 0 where the row's token sees the column's, -inf
    elsewhere.
    """
    ends = torch.tensor(sizes).cumsum(0).tolist()
    spans = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    mask = torch.full((ends[-1], ends[-1]), float("-inf"))
    for span, path, self_mask in zip(spans, paths, self_masks, strict=True):
        mask[span, span] = _causal(span.stop - span.start) if self_mask is None else self_mask.cpu()
        for ancestor in path:
            mask[span, spans[ancestor]] = 0.0
    return mask


def dense_mask(plan: TreePlan) -> Tensor:
    """Return (1, 1, N, N) float32 of a whole plan: the slow reference of the split attention.

    Numbers and not booleans: transformers' eager attention adds its mask, and would add True as 1.
    """
    sizes = plan.sizes
    mask = torch.full((sum(sizes), sum(sizes)), torch.finfo(torch.float32).min)
    begin = 0
    for tree, size in zip(plan.trees, sizes, strict=True):
        mask[begin : begin + size, begin : begin + size] = _mask(
            tree.sizes, tree.paths, tree.self_masks
        ).clamp(min=mask.min())
        begin += size
    return mask[None, None]


def tree_attention(
    query: Tensor, key: Tensor, value: Tensor, plan: TreePlan, *, scale: float | None = None
) -> Tensor:
    """Return (1, H, N, D) attention of a packed sequence; query (1, H, N, D), key and value (1, G,
    N, D).
    """
    outputs: list[Tensor] = []
    for tree, q, k, v in zip(
        plan.trees,
        *(states.split(plan.sizes, dim=2) for states in (query, key, value)),
        strict=True,
    ):
        run = _lower_by_mask if tree.mask is not None else _segment_by_segment
        outputs += run(q, k, v, tree, scale)
    return torch.cat(outputs, dim=2)


def _lower_by_mask(
    query: Tensor, key: Tensor, value: Tensor, tree: Tree, scale: float | None
) -> list[Tensor]:
    size = tree.sizes[0]
    assert tree.mask is not None
    return [
        _root(query[:, :, :size], key[:, :, :size], value[:, :, :size], tree, scale),
        _sdpa(query[:, :, size:], key, value, scale=scale, attn_mask=tree.mask.to(query.dtype)),
    ]


def _segment_by_segment(
    query: Tensor, key: Tensor, value: Tensor, tree: Tree, scale: float | None
) -> list[Tensor]:
    queries, keys, values = (
        states.split(list(tree.sizes), dim=2) for states in (query, key, value)
    )
    outputs = [_root(queries[0], keys[0], values[0], tree, scale)]
    for index, path in list(enumerate(tree.paths))[1:]:
        visible = (*path, index)
        k = torch.cat([keys[segment] for segment in visible], dim=2)
        v = torch.cat([values[segment] for segment in visible], dim=2)
        self_mask = tree.self_masks[index]
        bias = (
            causal_lower_right(tree.sizes[index], k.shape[2])
            if self_mask is None
            else pad(self_mask, (k.shape[2] - len(self_mask), 0)).to(query.dtype)
        )
        outputs.append(_sdpa(queries[index], k, v, scale=scale, attn_mask=bias))
    return outputs


def _root(query: Tensor, key: Tensor, value: Tensor, tree: Tree, scale: float | None) -> Tensor:
    mask = tree.self_masks[0]
    if mask is None:
        return _sdpa(query, key, value, scale=scale, is_causal=True)
    return _sdpa(query, key, value, scale=scale, attn_mask=mask.to(query.dtype))


def _sdpa(query: Tensor, key: Tensor, value: Tensor, **kwargs: Any) -> Tensor:
    """Return (1, H, Q, D) of fewer heads of keys than of queries, without copying keys."""
    if query.device.type != "cpu":
        if (
            type(kwargs.get("attn_mask")) is Tensor
        ):  # with grouped keys and a mask no fused kernel runs
            heads = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(heads, dim=1), value.repeat_interleave(heads, dim=1)
        return scaled_dot_product_attention(
            query, key, value, enable_gqa=query.shape[1] != key.shape[1], **kwargs
        )
    # On the CPU enable_gqa copies the keys for each query head; a view with the groups as the batch
    # does not.
    groups = key.shape[1]
    query = query[0].unflatten(0, (groups, -1))  # (G, H / G, Q, D)
    key, value = (states[0][:, None].expand(-1, query.shape[1], -1, -1) for states in (key, value))
    return scaled_dot_product_attention(query, key, value, **kwargs).flatten(0, 1)[None]


def install_tree_attention(decoder: PreTrainedModel) -> None:
    """Let the text model's attention follow a `tree_plan` or `cascade_plan`; forwards without one
    keep its own implementation.
    """
    implementation = decoder.config._attn_implementation
    if implementation not in OVER.values():
        assert implementation in OVER, (
            f"no tree attention over {implementation!r}; choose_engine must refuse it"
        )
        decoder.set_attn_implementation(OVER[implementation])
        assert decoder.config._attn_implementation == OVER[implementation]


def own_attention(decoder: PreTrainedModel) -> str:
    """Return the name of the implementation that serves a text model's forwards without a plan."""
    name = decoder.config._attn_implementation
    below = {over: implementation for implementation, over in OVER.items()}
    return below.get(name, name)


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    implementation: str,
    tree_plan: TreePlan | None = None,
    cascade_plan: CascadePlan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Answer as transformers' attention functions do: (1, N, H, D), or (R, 1, H, D) under a cascade
    plan, and no weights.
    """
    if tree_plan is None and cascade_plan is None:
        config = cast(PreTrainedConfig, module.config)
        config._attn_implementation = implementation  # flash attention chooses its kernel by it
        try:
            return ALL_ATTENTION_FUNCTIONS[implementation](
                module, query, key, value, attention_mask, **kwargs
            )
        finally:
            config._attn_implementation = OVER[implementation]
    unknown = [
        name
        for name in ("softcap", "s_aux", "sliding_window", "position_bias")
        if kwargs.get(name) is not None
    ]
    assert not unknown and not kwargs.get("dropout"), (
        f"tree attention knows no {unknown or 'dropout'}"
    )
    if cascade_plan is not None:
        scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
        layer = cast(int, module.layer_idx)
        output = cascade_attention(query, key, value, cascade_plan, layer=layer, scale=scale)
        return output.transpose(1, 2), None
    assert tree_plan is not None
    assert query.shape[:3:2] == (1, sum(tree_plan.sizes)), "the packed sequence is not the plan's"
    if torch.is_autocast_enabled(query.device.type):
        # Autocast casts the public call; `causal_lower_right` goes to the kernel below it, which
        # wants equal types.
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    output = tree_attention(query, key, value, tree_plan, scale=kwargs.get("scaling"))
    return output.transpose(1, 2).contiguous(), None


for _implementation, _over in OVER.items():
    AttentionInterface.register(_over, partial(_forward, implementation=_implementation))
    AttentionMaskInterface.register(_over, ALL_MASK_ATTENTION_FUNCTIONS[_implementation])
