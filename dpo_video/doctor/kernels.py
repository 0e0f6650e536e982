"""Attention and 4-bit kernels against slow references of our own.

Q query heads, G groups of keys and values, N tokens, D width of a head.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dpo_video.doctor.finding import Finding, compared, looked_at, not_checked
from dpo_video.models.shared_prefix.attention import OVER, TreePlan, dense_mask, tree_plan
from dpo_video.models.shared_prefix.tree import pack_rows

ALLOWED = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""How far results may lie from the reference, as a share of its largest value."""
HEADS, GROUPS, WIDTH = 4, 2, 64
BLOCK = 64
"""Weights that share a scale in 4 bit."""
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""The 16 values of NormalFloat4: QLoRA, arXiv 2305.14314, appendix E."""
UPDATE = "reinstall torch and transformers as in constraints.txt, or set model.attention=eager"


def attention_findings(device: torch.device) -> Iterator[Finding]:
    """Yield whether each attention that training may use gives the reference's results and
    gradients.
    """
    dtypes = [torch.float32]
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        dtypes.append(torch.bfloat16)
    for dtype in dtypes:
        for name, function in (("rows", "sdpa"), ("tree", OVER["sdpa"])):
            title = f"attention {function.partition('dpo_video_')[2] or function} {_short(dtype)}"
            look = partial(_attention, title, name, function, device, dtype)
            yield looked_at(title, look, UPDATE)
    yield from _flash(device)


def _flash(device: torch.device) -> Iterator[Finding]:
    name = "attention flash_attention_2"
    if device.type != "cuda":
        yield not_checked(name, "it runs on a GPU only, and there is none here")
        return
    try:
        import flash_attn  # noqa: F401
    except ImportError:
        yield not_checked(
            name, "flash-attn is not installed; sdpa is used", "pip install flash-attn, if wanted"
        )
        return
    fix = "reinstall flash-attn for this torch, or set model.attention=sdpa"
    for kind, function in (("rows", "flash_attention_2"), ("tree", OVER["flash_attention_2"])):
        title = f"{name} {kind}"
        yield looked_at(
            title, partial(_attention, title, kind, function, device, torch.bfloat16), fix
        )


def _attention(
    title: str, kind: str, function: str, device: torch.device, dtype: torch.dtype
) -> Finding:
    """Return how far outputs and gradients of a registered attention lie from the reference's."""
    plan = _plan()
    tokens = sum(plan.sizes)
    mask = dense_mask(plan)[0, 0] if kind == "tree" else _causal(tokens)
    states = _random_states(tokens)
    upstream = torch.randn(1, tokens, HEADS, WIDTH, generator=torch.Generator().manual_seed(9))
    expected = _with_gradients(
        lambda query, key, value: _reference(query, key, value, mask),
        [each.double() for each in states],
        upstream.double(),
    )
    module = _module(function)

    def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        extra: dict[str, Any] = {"tree_plan": plan} if kind == "tree" else {}
        output = ALL_ATTENTION_FUNCTIONS[function](
            module, query, key, value, None, dropout=0.0, scaling=WIDTH**-0.5, **extra
        )[0]
        result: Tensor = output
        return result

    moved = [each.to(device, dtype) for each in states]
    computed = _with_gradients(run, moved, upstream.to(device, dtype))
    distance = max(map(_distance, computed, expected))
    against = "a float64 reference, outputs and gradients"
    return compared(title, distance, ALLOWED[dtype], against, UPDATE)


def _plan() -> TreePlan:
    """Return the plan of two clips, a root with two questions of two answers and a row alone; it
    holds no mask, so that it is the same on every device.
    """
    rows = [
        [0] * 40 + [1] * 9 + [2] * 5,
        [0] * 40 + [1] * 9 + [3] * 7,
        [0] * 40 + [4] * 5,
        [8] * 11,
    ]
    tokens = [np.stack([np.array(row), np.arange(len(row))], axis=1) for row in rows]
    segments = list(pack_rows(tokens, [0, 0, 0, 1]).segments)
    return tree_plan(segments, device=torch.device("cpu"), masked=False)


def _random_states(tokens: int) -> list[Tensor]:
    """Return query (1, Q, N, D), key and value (1, G, N, D)."""
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(1, heads, tokens, WIDTH, generator=generator)
        for heads in (HEADS, GROUPS, GROUPS)
    ]


def _causal(tokens: int) -> Tensor:
    return torch.full((tokens, tokens), float("-inf")).triu(1)


def _reference(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Return (1, N, Q, D): softmax(q k / sqrt(D) + mask) v, written out, in float64."""
    key, value = (each.repeat_interleave(HEADS // GROUPS, 1) for each in (key, value))
    scores = query @ key.transpose(2, 3) * WIDTH**-0.5 + mask.double()
    return (scores.softmax(-1) @ value).transpose(1, 2)


def _with_gradients(run: Any, states: Sequence[Tensor], upstream: Tensor) -> list[Tensor]:
    """Return the output and the gradients of query, key and value, in float64 on the CPU."""
    leaves = [each.detach().clone().requires_grad_() for each in states]
    output = run(*leaves)
    output.backward(upstream)
    grads = [leaf.grad for leaf in leaves if leaf.grad is not None]
    return [each.detach().double().cpu() for each in (output, *grads)]


def _module(function: str) -> Any:
    """Return what an attention function reads of its layer."""
    return SimpleNamespace(
        num_key_value_groups=HEADS // GROUPS,
        is_causal=True,
        training=False,
        layer_idx=0,
        scaling=WIDTH**-0.5,
        config=SimpleNamespace(_attn_implementation=function),
    )


def _distance(computed: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest expected value."""
    return float(((computed - expected).abs().max() / expected.abs().max()).detach())


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def bf16_finding(device: torch.device) -> Finding:
    """Return whether products in bfloat16 are those of float64, rounded."""
    name = f"bfloat16 on the {device.type}"

    def look() -> Finding:
        generator = torch.Generator().manual_seed(5)
        first, second = (torch.randn(128, 128, generator=generator) for _ in range(2))
        first, second = first.bfloat16(), second.bfloat16()
        result = (first.to(device) @ second.to(device)).double().cpu()
        expected = first.double() @ second.double()
        fix = "update the driver, or set model.dtype=float32"
        return compared(name, _distance(result, expected), 1e-2, "float64", fix)

    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return not_checked(name, "this GPU has none; float32 is used")
    return looked_at(name, look, "update the driver, or set model.dtype=float32")


def four_bit_findings(device: torch.device) -> Iterator[Finding]:
    """Yield whether a 4-bit layer's forward and backward are those of the weights that its codes
    stand for.
    """
    fix = "install the bitsandbytes of constraints.txt for this CUDA, or set model.quantize=none"
    for name in ("4-bit forward", "4-bit backward"):
        title = f"{name} on the {device.type}"
        yield looked_at(title, partial(_four_bit, title, name, device, fix), fix)
    if device.type != "cuda":
        yield not_checked(
            "4-bit kernels of the GPU", "there is none here: those of the CPU were checked"
        )


def _four_bit(title: str, name: str, device: torch.device, fix: str) -> Finding:
    from bitsandbytes.nn import Linear4bit, Params4bit  # type: ignore[attr-defined]

    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(96, 128, generator=generator) / 8
    layer = Linear4bit(128, 96, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    layer.weight = Params4bit(
        weight.clone(), requires_grad=False, quant_type="nf4", compress_statistics=False
    )
    layer = layer.to(device)
    layer.support_avx512bf16_for_cpu = False
    stored = _dequantised(layer.weight, weight)
    inputs = torch.randn(5, 128, generator=generator)
    leaf = inputs.to(device).requires_grad_()
    outputs = layer(leaf)
    upstream = torch.randn(5, 96, generator=generator)
    if name == "4-bit forward":
        result, expected = outputs.detach(), inputs.double() @ stored.T
    else:
        outputs.backward(upstream.to(device))
        assert leaf.grad is not None
        result, expected = leaf.grad, upstream.double() @ stored
    distance = _distance(result.double().cpu(), expected)
    return compared(title, distance, 1e-4, "its codes read by hand, in float64", fix)


def _dequantised(stored: Any, weight: Tensor) -> Tensor:
    """Return (out, in) float64: what the codes of a 4-bit weight stand for, read one by one: two to
    a byte, the first in the upper half, each times the largest value of its block.
    """
    packed = stored.data.flatten().cpu().to(torch.int64)
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()
    scales = weight.double().flatten().view(-1, BLOCK).abs().amax(1)
    values = torch.tensor(NF4, dtype=torch.float64)[codes]
    return (values.view(-1, BLOCK) * scales[:, None]).view(weight.shape)
