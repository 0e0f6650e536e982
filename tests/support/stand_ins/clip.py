"""A CLIP tower written out plainly, under the names of weights that towers had before transformers
5.
"""

from typing import Any

import torch
from torch import Tensor, nn

from stand_ins.siglip import SiglipAttention


class CLIPEmbeddings(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, patch = config["hidden_size"], config["patch_size"]
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        count = (config["image_size"] // patch) ** 2
        self.position_embedding = nn.Embedding(count + 1, width)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class CLIPMLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, states: Tensor) -> Tensor:
        states = self.fc1(states)
        return self.fc2(states * torch.sigmoid(1.702 * states))


class CLIPEncoderLayer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.self_attn = SiglipAttention(width, config["num_attention_heads"])
        self.layer_norm1 = nn.LayerNorm(width)
        self.mlp = CLIPMLP(width, config["intermediate_size"])
        self.layer_norm2 = nn.LayerNorm(width)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.self_attn(self.layer_norm1(states))
        return states + self.mlp(self.layer_norm2(states))


class CLIPEncoder(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            CLIPEncoderLayer(config) for _ in range(config["num_hidden_layers"])
        )


class CLIPTransformer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.embeddings = CLIPEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config["hidden_size"])
        self.encoder = CLIPEncoder(config)
        self.post_layernorm = nn.LayerNorm(config["hidden_size"])


class CLIPVisionModel(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.vision_model = CLIPTransformer(config)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return what goes into the first layer and what comes out of each."""
        states = self.vision_model.pre_layrnorm(self.vision_model.embeddings(pixels))
        every = [states]
        for layer in self.vision_model.encoder.layers:
            states = layer(states)
            every.append(states)
        return every
