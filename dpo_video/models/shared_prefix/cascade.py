"""Attention of answers that are being written: to the prefix that many of them share, stored once,
and to what each has written itself.

R answers with one new token each, r of them under one prefix, H query heads, G groups of keys and
values, h = H / G, N tokens of a prefix, T tokens written so far, D width of a head.

Attention over both together is the mean of the attention over each, weighted by the exponential of
its log-sum-exp (Juravsky et al. 2024, "Hydragen", arXiv 2402.05099, sec. 3.1; cascade inference in
FlashInfer, arXiv 2501.01005): all answers under a prefix become the rows of one matrix product with
its keys, and no key is copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prefix:
    """What the language model keeps of the packed prompts about one clip."""

    keys: Sequence[Tensor]
    """By layer, (G, N, D)."""
    values: Sequence[Tensor]
    """By layer, (G, N, D)."""
    visible: Tensor
    """(prompts, N), True where a token belongs to a prompt."""

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.visible.shape[1]

    @property
    def num_bytes(self) -> int:
        """Memory of keys and values."""
        return sum(states.nbytes for states in (*self.keys, *self.values))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Readers:
    """The answers under one prefix; in the batch they stand one after another."""

    prefix: Prefix
    prompts: Tensor
    """(r,), the prompt of each."""
    mask: Tensor | None
    """(r, N) float32, 0 where an answer sees a token, -inf elsewhere; None: they see all of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CascadePlan:
    """Who reads what in a batch of answers. It travels to the attention function as the keyword
    `cascade_plan`.
    """

    readers: Sequence[Readers]


def readers(prefix: Prefix, prompts: Tensor) -> Readers:
    """Return the answers to `prompts` (r,) as readers of a prefix."""
    visible = prefix.visible[prompts]  # (r, N)
    if bool(visible.all()):
        return Readers(prefix=prefix, prompts=prompts, mask=None)
    mask = torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, float("-inf"))
    return Readers(prefix=prefix, prompts=prompts, mask=mask)


def keep_answers(plan: CascadePlan, kept: Tensor) -> CascadePlan:
    """Return the plan of the answers where `kept` (R,) is True."""
    sizes = [len(group.prompts) for group in plan.readers]
    left = [
        readers(group.prefix, group.prompts[own])
        for group, own in zip(plan.readers, kept.split(sizes), strict=True)
        if bool(own.any())
    ]
    return CascadePlan(readers=left)


def cascade_attention(
    query: Tensor, key: Tensor, value: Tensor, plan: CascadePlan, *, layer: int, scale: float
) -> Tensor:
    """Return (R, H, 1, D): query (R, H, 1, D) on its prefix in `layer`, and on its own tokens key
    and value (R, G, T, D).
    """
    groups = key.shape[1]
    q = query[:, :, 0].unflatten(1, (groups, -1))  # (R, G, h, D)
    shared = [
        _on_prefix(own, group, layer, scale)
        for own, group in zip(
            q.split([len(group.prompts) for group in plan.readers]), plan.readers, strict=True
        )
    ]
    on_prefix = torch.cat([output for output, _ in shared])  # (R, G, h, D)
    prefix_lse = torch.cat([lse for _, lse in shared])  # (R, G, h)
    own_scores = _scores(q.flatten(0, 1), key.flatten(0, 1), scale).unflatten(0, key.shape[:2])
    on_own, own_lse = _attend(own_scores, value)
    weight = torch.sigmoid(prefix_lse - own_lse)[..., None].to(value.dtype)
    return torch.lerp(on_own, on_prefix, weight).flatten(1, 2)[:, :, None]


def _on_prefix(q: Tensor, group: Readers, layer: int, scale: float) -> tuple[Tensor, Tensor]:
    """Return attention (r, G, h, D) and its log-sum-exp (r, G, h) of q (r, G, h, D)."""
    num_answers = len(q)
    folded = q.transpose(0, 1).flatten(1, 2)  # (G, r h, D)
    scores = _scores(folded, group.prefix.keys[layer], scale)  # (G, r h, N)
    if group.mask is not None:
        scores.unflatten(1, (num_answers, -1)).add_(group.mask[:, None])
    output, lse = _attend(scores, group.prefix.values[layer])
    return (
        output.unflatten(1, (num_answers, -1)).transpose(0, 1),
        lse.unflatten(1, (num_answers, -1)).transpose(0, 1),
    )


def _scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Return (batch, queries, keys) in float32 of query (batch, queries, D) and key (batch, keys,
    D): sums of half precision would lose what the softmax needs.
    """
    key = key.transpose(1, 2)
    if query.dtype == torch.float32:
        return torch.bmm(query, key).mul_(scale)
    if query.device.type == "cuda":
        return torch.bmm(query, key, out_dtype=torch.float32).mul_(scale)
    return torch.bmm(query.float(), key.float()).mul_(scale)


def _attend(scores: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the attention of scores (..., queries, keys) to value (..., keys, D), and its
    log-sum-exp (..., queries); `scores` is used up.
    """
    top = scores.amax(-1, keepdim=True)
    weights = scores.sub_(top).exp_()  # once, not for the sum and again for the weights
    total = weights.sum(-1, keepdim=True)
    weights = weights.mul_(total.reciprocal()).to(value.dtype)
    return weights @ value, (top + total.log())[..., 0]
