"""Attention to a shared prefix and own tokens is that of plain softmax over the two together."""

import pytest
import torch
from torch import Tensor

from dpo_video.models.shared_prefix.cascade import (
    CascadePlan,
    Prefix,
    cascade_attention,
    keep_answers,
    readers,
)

HEADS, GROUPS, WIDTH, OWN = 6, 2, 8, 3
SCALE = 0.3
PROMPTS = [[0, 0, 1], [0]]
"""Of each prefix, the prompt of each of its answers."""


def two_prefixes(dtype: torch.dtype) -> list[Prefix]:
    """Two layers each; the first has 7 tokens, of which its prompts see the first 4 and their own
    ones.
    """
    draw = torch.Generator().manual_seed(0)
    prefixes = []
    for tokens, visible in ((7, [[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 1, 1]]), (4, [[1] * 4])):
        states = [
            [torch.randn(GROUPS, tokens, WIDTH, generator=draw).to(dtype) for _ in range(2)]
            for _ in range(2)
        ]
        prefixes.append(
            Prefix(keys=states[0], values=states[1], visible=torch.tensor(visible).bool())
        )
    return prefixes


def plan_of(prefixes: list[Prefix]) -> CascadePlan:
    return CascadePlan(
        readers=[
            readers(prefix, torch.tensor(prompts))
            for prefix, prompts in zip(prefixes, PROMPTS, strict=True)
        ]
    )


def slowly(query: Tensor, key: Tensor, value: Tensor, prefixes: list[Prefix]) -> Tensor:
    """Return the attention of each answer and head alone, over its keys put together."""
    owners = [(prefix, prompt) for prefix in range(2) for prompt in PROMPTS[prefix]]
    output = torch.empty(query.shape)
    for row, (prefix, prompt) in enumerate(owners):
        seen = prefixes[prefix].visible[prompt]
        for head in range(HEADS):
            group = head // (HEADS // GROUPS)
            keys = torch.cat([prefixes[prefix].keys[1][group][seen], key[row, group]]).double()
            values = torch.cat([prefixes[prefix].values[1][group][seen], value[row, group]])
            weights = (keys @ query[row, head, 0].double() * SCALE).softmax(0)
            output[row, head, 0] = (weights @ values.double()).float()
    return output


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_it_is_the_softmax_over_prefix_and_own_tokens(dtype: torch.dtype, tolerance: float) -> None:
    prefixes = two_prefixes(dtype)
    draw = torch.Generator().manual_seed(1)
    query = torch.randn(4, HEADS, 1, WIDTH, generator=draw).to(dtype)
    key, value = (torch.randn(4, GROUPS, OWN, WIDTH, generator=draw).to(dtype) for _ in range(2))
    output = cascade_attention(query, key, value, plan_of(prefixes), layer=1, scale=SCALE)
    assert output.shape == query.shape and output.dtype == dtype
    torch.testing.assert_close(
        output.float(), slowly(query, key, value, prefixes), atol=tolerance, rtol=0
    )


def test_answers_that_have_ended_leave_and_the_others_stay_as_they_are() -> None:
    prefixes = two_prefixes(torch.float32)
    draw = torch.Generator().manual_seed(2)
    query = torch.randn(4, HEADS, 1, WIDTH, generator=draw)
    key, value = (torch.randn(4, GROUPS, OWN, WIDTH, generator=draw) for _ in range(2))
    plan = plan_of(prefixes)
    whole = cascade_attention(query, key, value, plan, layer=0, scale=SCALE)
    for kept in (
        [True, False, True, True],
        [False, True, False, False],
        [False, False, False, True],
    ):
        rows = torch.tensor(kept)
        rest = cascade_attention(
            query[rows], key[rows], value[rows], keep_answers(plan, rows), layer=0, scale=SCALE
        )
        torch.testing.assert_close(rest, whole[rows], atol=1e-6, rtol=0)
