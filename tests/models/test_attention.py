"""Split attention equals one dense mask over the packed sequence, and a model's other forwards keep
their own.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from policies import each_kind, make_frames, make_row, policy
from tiny_models import Kind
from torch import Tensor
from transformers import GenerationConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from trees import tuned_policy

from dpo_video.models.collate import collate
from dpo_video.models.shared_prefix.attention import (
    TreePlan,
    dense_mask,
    install_tree_attention,
    own_attention,
    tree_attention,
    tree_plan,
)
from dpo_video.models.shared_prefix.packed_rows import why_not_shared
from dpo_video.models.shared_prefix.tree import Segment, pack_rows

CPU = torch.device("cpu")
modes = pytest.mark.parametrize("masked", [True, False], ids=["by mask", "segment by segment"])


def some_segments() -> list[Segment]:
    """Return two clips' trees and a row alone: 3 levels, a leaf beside a fork, segments of 1
    token.
    """
    rows = [
        [0] * 20 + [1] * 9 + [2] * 3,
        [0] * 20 + [1] * 9 + [3],
        [0] * 20 + [4] * 5,
        [0] * 7 + [5] * 9 + [6],
        [0] * 7 + [5] * 9 + [7] * 4,
        [8] * 6,
    ]
    tokens = [np.stack([np.array(row), np.arange(len(row))], axis=1) for row in rows]
    return list(pack_rows(tokens, [0, 0, 0, 1, 1, 2]).segments)


def states(length: int, heads: int, dtype: torch.dtype = torch.float32) -> Tensor:
    made = torch.randn(1, length, heads, 16, generator=torch.Generator().manual_seed(heads)).to(
        dtype
    )
    return made.transpose(1, 2).detach().requires_grad_()  # as a model's projections give them


def slow_visible(segments: list[Segment]) -> Tensor:
    """Return (N, N) booleans, True where a row's token sees a column's, token by token."""
    length = segments[-1].end
    owner = [
        number for number, segment in enumerate(segments) for _ in range(segment.begin, segment.end)
    ]
    return torch.tensor(
        [
            [
                (owner[seen] in segments[owner[token]].ancestors or owner[seen] == owner[token])
                and seen <= token
                for seen in range(length)
            ]
            for token in range(length)
        ]
    )


def dense_attention(query: Tensor, key: Tensor, value: Tensor, plan: TreePlan) -> Tensor:
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 + dense_mask(plan)
    return scores.softmax(-1) @ value


def test_the_dense_mask_is_additive_and_shows_ancestors_and_the_segment_s_own_past() -> None:
    segments = some_segments()
    mask = dense_mask(tree_plan(segments, device=CPU))
    assert mask.dtype == torch.float32
    assert torch.equal(mask[0, 0] == 0, slow_visible(segments))
    assert mask.min() == torch.finfo(torch.float32).min


def some_block(segments: list[Segment]) -> Tensor:
    """Return (N,) booleans: some tokens of a root, of a lower segment and of a row alone, with
    gaps.
    """
    block = torch.zeros(segments[-1].end, dtype=torch.bool)
    for segment in (segments[0], segments[1], segments[-1]):
        block[segment.begin + 1 : segment.end] = True
        block[segment.begin + 3] = False
    return block


def test_tokens_of_a_block_see_each_other_inside_their_segment_and_no_further() -> None:
    segments = some_segments()
    block = some_block(segments)
    owner = torch.tensor(
        [
            number
            for number, segment in enumerate(segments)
            for _ in range(segment.begin, segment.end)
        ]
    )
    wanted = slow_visible(segments) | (block[:, None] & block & (owner[:, None] == owner))
    assert torch.equal(dense_mask(tree_plan(segments, device=CPU, block=block))[0, 0] == 0, wanted)
    assert not torch.equal(wanted, slow_visible(segments))


@modes
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("blocked", [False, True], ids=["causal", "with a block"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_split_attention_and_its_gradients_equal_the_dense_mask(
    masked: bool, groups: int, blocked: bool, dtype: torch.dtype
) -> None:
    """In float32 to its rounding, which differs from CPU to CPU; in float64 a million times
    closer.
    """
    segments = some_segments()
    plan = tree_plan(
        segments, device=CPU, masked=masked, block=some_block(segments) if blocked else None
    )
    query, key, value = (states(segments[-1].end, heads, dtype) for heads in (4, groups, groups))
    target = torch.randn(query.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    attended = tree_attention(query, key, value, plan)
    expected = dense_attention(query, key, value, plan)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(attended, expected, atol=tolerance, rtol=10 * tolerance)
    for gradient, expected_gradient in zip(
        torch.autograd.grad(attended, (query, key, value), target),
        torch.autograd.grad(expected, (query, key, value), target),
        strict=True,
    ):
        # a gradient is a sum over rows and heads: where it cancels, the rounding of its terms stays
        largest = expected_gradient.abs().max().item()
        torch.testing.assert_close(
            gradient, expected_gradient, atol=tolerance * max(1.0, largest), rtol=10 * tolerance
        )


@modes
def test_bfloat16_stays_near_float32(masked: bool) -> None:
    segments = some_segments()
    plan = tree_plan(segments, device=CPU, masked=masked)
    full = [states(segments[-1].end, heads) for heads in (4, 2, 2)]
    half = tree_attention(*(made.bfloat16() for made in full), plan)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), tree_attention(*full, plan), atol=3e-2, rtol=0)


def test_without_a_mask_no_tensor_of_a_plan_grows_with_the_sequence() -> None:
    plan = tree_plan(some_segments(), device=torch.device("meta"))
    assert all(tree.mask is None for tree in plan.trees)


def test_a_mask_covers_the_lower_segments_only() -> None:
    plan = tree_plan(some_segments(), device=CPU)
    shapes = [None if tree.mask is None else tuple(tree.mask.shape) for tree in plan.trees]
    assert shapes == [(9 + 3 + 1 + 5, 20 + 18), (1 + 4, 16 + 5), None]


@each_kind
def test_only_the_text_model_is_changed_and_its_other_forwards_stay_exactly_the_same(
    kind: Kind,
) -> None:
    policy = tuned_policy(kind)
    model = policy.bare
    rows = [
        make_row(policy, make_frames(4), "what ?"),
        make_row(policy, make_frames(6), "describe the video"),
    ]
    tower = {
        name: module.config._attn_implementation
        for name, module in model.named_modules()
        if "vision" in name or "visual" in name
        if hasattr(module, "config")
    }

    def others() -> tuple[Tensor, Tensor]:
        batch = collate(policy, rows, "left")
        settings = GenerationConfig(
            max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=policy.pad_id
        )
        with torch.no_grad():
            logits = model(**collate(policy, rows, "left"), use_cache=False).logits
            return logits, model.generate(**batch, generation_config=settings)

    before = others()
    for _ in range(2):  # a second time changes nothing
        install_tree_attention(model.get_decoder())
    assert model.get_decoder().config._attn_implementation == "dpo_video_tree_sdpa"
    after = others()
    assert tower == {
        name: module.config._attn_implementation
        for name, module in model.named_modules()
        if name in tower
    }
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new)


@each_kind
def test_over_flash_attention_trees_run_and_other_forwards_reach_it_under_its_own_name(
    kind: Kind, monkeypatch
) -> None:
    """flash_attention_2 picks its kernel by the configuration's name at the call. SDPA stands for
    it on a CPU.
    """
    model = policy.__wrapped__(kind).bare
    decoder, names = model.get_decoder(), set()
    batch = collate(policy(kind), [make_row(policy(kind), make_frames(4), answer="yes")], "right")
    with torch.no_grad():
        expected = model(**batch).logits
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def flash(module, *states, **kwargs):
        names.add(module.config._attn_implementation)
        return sdpa(module, *states, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_attention_2", flash)
    decoder.config._attn_implementation = "flash_attention_2"
    install_tree_attention(decoder)
    assert (
        own_attention(decoder) == "flash_attention_2"
        and why_not_shared(replace(policy(kind), model=model)) is None
    )
    with torch.no_grad():
        assert torch.allclose(model(**batch).logits, expected, atol=1e-5)
    assert names == {"flash_attention_2"}
    assert decoder.config._attn_implementation == "dpo_video_tree_fa2"


@each_kind
def test_an_attention_function_that_knows_no_plan_stops_instead_of_mixing_answers(
    kind: Kind,
) -> None:
    """The empty mask that travels with a plan is what stops it."""
    policy = tuned_policy(kind)
    batch = collate(policy, [make_row(policy, make_frames(4), answer="yes")], "right")
    batch["attention_mask"] = torch.empty(1, 1, 0, 0)
    with pytest.raises(RuntimeError, match="size"):
        policy.bare(**batch, use_cache=False)
