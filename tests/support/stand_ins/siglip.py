"""A SigLIP tower written out plainly, with the names of weights that towers had before transformers
5, as LLaVA's descendants hold them.
"""

from typing import Any

import torch
from torch import Tensor, nn


class SiglipEmbeddings(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch)
        self.position_embedding = nn.Embedding((config["image_size"] // patch) ** 2, width)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        return patches + self.position_embedding.weight


class SiglipAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        keys, values, queries = (
            projection(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.k_proj, self.v_proj, self.q_proj)
        )
        scores = queries @ keys.transpose(2, 3) * queries.shape[-1] ** -0.5
        return self.out_proj((scores.softmax(-1) @ values).transpose(1, 2).flatten(2))


class SiglipMLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, states: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(states), approximate="tanh"))


class SiglipEncoderLayer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.self_attn = SiglipAttention(width, config["num_attention_heads"])
        self.layer_norm1 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = SiglipMLP(width, config["intermediate_size"])
        self.layer_norm2 = nn.LayerNorm(width, eps=1e-6)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.self_attn(self.layer_norm1(states))
        return states + self.mlp(self.layer_norm2(states))


class SiglipEncoder(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SiglipEncoderLayer(config) for _ in range(config["num_hidden_layers"])
        )


class SiglipHead(nn.Module):
    """The pooling head, whose weights a whole tower has and nothing reads."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.probe = nn.Parameter(torch.randn(1, 1, width))
        self.attention = nn.MultiheadAttention(
            width, config["num_attention_heads"], batch_first=True
        )
        self.layernorm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = SiglipMLP(width, config["intermediate_size"])


class SiglipTransformer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.embeddings = SiglipEmbeddings(config)
        self.encoder = SiglipEncoder(config)
        self.post_layernorm = nn.LayerNorm(config["hidden_size"], eps=1e-6)
        self.head: nn.Module = SiglipHead(config)


class SiglipVisionModel(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.vision_model = SiglipTransformer(config)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return what goes into the first layer and what comes out of each."""
        states = self.vision_model.embeddings(pixels)
        every = [states]
        for layer in self.vision_model.encoder.layers:
            states = layer(states)
            every.append(states)
        return every
