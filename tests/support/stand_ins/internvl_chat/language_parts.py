"""What the stand-ins for InternLM2 and Phi-3 share: norms, rotation, attention, as in 2024."""

import torch
from torch import Tensor, nn

if __name__.startswith("transformers_modules."):
    raise ImportError("cannot import name '_prepare_4d_causal_attention_mask'")


class Norm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, states: Tensor) -> Tensor:
        return self.weight * states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.eps)


def rotated(states: Tensor, frequencies: Tensor, scale: float = 1.0) -> Tensor:
    """Return (B, H, T, D) states turned by their positions 0 .. T - 1."""
    angles = torch.arange(states.shape[2])[:, None] * frequencies.repeat(2)
    first, second = states.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (states * angles.cos() + turned * angles.sin()) * scale


def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return (B, T, H * D); keys and values may have fewer heads than queries."""
    repeats = queries.shape[1] // keys.shape[1]
    keys, values = (part.repeat_interleave(repeats, dim=1) for part in (keys, values))
    weights = queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5
    later = torch.ones(weights.shape[-2:], dtype=torch.bool).triu(1)
    weights = weights.masked_fill(later, float("-inf")).softmax(-1)
    return (weights @ values).transpose(1, 2).flatten(2)
