"""A stand-in for QWenLMHeadModel: the paths of pictures stand in the token ids, and its forward
opens them; attention is its own, with fused weights and without 4D masks.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_qwen import QWenConfig
from .visual import VisionTransformer


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Turn (B, heads, T, D) by angles (T, D)."""
    first, second = x.chunk(2, dim=-1)
    return x * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()


class QWenAttention(nn.Module):
    def __init__(self, config: QWenConfig) -> None:
        super().__init__()
        self.config = config
        size = config.kv_channels * config.num_attention_heads
        self.c_attn = nn.Linear(config.hidden_size, 3 * size)
        self.c_proj = nn.Linear(config.hidden_size, size, bias=not config.no_bias)

    def forward(self, states: Tensor, angles: Tensor) -> Tensor:
        heads = self.c_attn(states).chunk(3, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.config.num_attention_heads, -1)).transpose(1, 2)
            for part in heads
        )
        query, key = rotated(query, angles), rotated(key, angles)
        if self.config.use_logn_attn and not self.training:
            length = self.config.seq_length
            scale = [math.log(max(i, length), length) for i in range(1, query.shape[2] + 1)]
            query = query * torch.tensor(scale)[:, None].to(query)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).flatten(2))


class QWenMLP(nn.Module):
    def __init__(self, config: QWenConfig) -> None:
        super().__init__()
        inner, bias = config.intermediate_size // 2, not config.no_bias
        self.w1 = nn.Linear(config.hidden_size, inner, bias=bias)
        self.w2 = nn.Linear(config.hidden_size, inner, bias=bias)
        self.c_proj = nn.Linear(inner, config.hidden_size, bias=bias)

    def forward(self, states: Tensor) -> Tensor:
        return self.c_proj(self.w1(states) * nn.functional.silu(self.w2(states)))


class QWenBlock(nn.Module):
    def __init__(self, config: QWenConfig) -> None:
        super().__init__()
        self.ln_1 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.attn = QWenAttention(config)
        self.ln_2 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = QWenMLP(config)

    def forward(self, states: Tensor, angles: Tensor) -> Tensor:
        states = states + self.attn(self.ln_1(states), angles)
        return states + self.mlp(self.ln_2(states))


class QWenModel(PreTrainedModel):
    config_class = QWenConfig
    base_model_prefix = "transformer"

    def __init__(self, config: QWenConfig) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.h = nn.ModuleList(QWenBlock(config) for _ in range(config.num_hidden_layers))
        self.ln_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.visual = VisionTransformer(**config.visual)

    def angles(self, length: int) -> Tensor:
        config = self.config
        alpha = 1.0
        if config.use_dynamic_ntk and not self.training:
            doublings = math.ceil(math.log2(length / config.seq_length) + 1)
            alpha = max(2**doublings - 1, 1)
        size = config.kv_channels
        base = config.rotary_emb_base * alpha ** (size / (size - 2))
        steps = base ** -(torch.arange(0, size, 2, device=self.device).float() / size)
        turned = torch.arange(length, device=self.device).float()[:, None] * steps
        return torch.cat([turned, turned], dim=-1)

    def forward(self, input_ids: Tensor) -> Tensor:
        start = self.config.visual["image_start_id"]
        states = self.wte(input_ids).clone()
        opened, closed = (torch.where(input_ids == start + place) for place in (0, 1))
        places, paths = [], []
        for row, begin, end in zip(*opened, closed[1], strict=True):
            inside = input_ids[row, begin + 1 : end - 1].tolist()
            paths.append(bytes(inside[: inside.index(start + 2)]).decode("utf-8"))
            places.append((row, slice(begin + 1, end)))
        if paths:
            for (row, inside), picture in zip(places, self.visual.encode(paths), strict=True):
                states[row, inside] = picture
        angles = self.angles(input_ids.shape[1])
        for block in self.h:
            states = block(states, angles)
        return self.ln_f(states)


class QWenLMHeadModel(PreTrainedModel):
    config_class = QWenConfig
    base_model_prefix = "transformer"

    def __init__(self, config: QWenConfig) -> None:
        super().__init__(config)
        self.transformer = QWenModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids: Tensor, **more: Any) -> CausalLMOutputWithPast:
        return CausalLMOutputWithPast(logits=self.lm_head(self.transformer(input_ids)))
