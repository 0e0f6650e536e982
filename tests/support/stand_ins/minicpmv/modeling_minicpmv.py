"""A stand-in for the published MiniCPMV: `forward(data)`, pictures as strips of patches."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from stand_ins.siglip import SiglipEncoderLayer


class SiglipVisionEmbeddings(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, self.patch = config["hidden_size"], config["patch_size"]
        self.side = config["image_size"] // self.patch
        self.patch_embedding = nn.Conv2d(3, width, self.patch, stride=self.patch)
        self.position_embedding = nn.Embedding(self.side**2, width)

    def forward(self, strip: Tensor, rows: int, columns: int) -> Tensor:
        """Patches of a strip (3, patch, L x patch), at the places of a grid stretched to theirs."""
        patches = self.patch_embedding(strip[None]).flatten(2).transpose(1, 2)
        edges = torch.arange(1 / self.side, 1.0, 1 / self.side)
        places = [
            torch.bucketize(torch.arange(0, 1 - 1e-6, 1 / torch.tensor(count)), edges, right=True)
            for count in (rows, columns)
        ]
        cells = places[0][:, None] * self.side + places[1]
        return patches + self.position_embedding(cells.flatten())


class SiglipEncoder(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SiglipEncoderLayer(config) for _ in range(config["num_hidden_layers"])
        )


class SiglipVisionTransformer(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.embeddings = SiglipVisionEmbeddings(config)
        self.encoder = SiglipEncoder(config)
        self.post_layernorm = nn.LayerNorm(config["hidden_size"], eps=1e-6)

    def forward(self, strip: Tensor, rows: int, columns: int) -> Tensor:
        states = self.embeddings(strip, rows, columns)
        for layer in self.encoder.layers:
            states = layer(states)
        return self.post_layernorm(states)


class CrossAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.randn(3 * width, width) * width**-0.5)
        self.in_proj_bias = nn.Parameter(torch.randn(3 * width) * 0.1)
        self.out_proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        parts = (
            nn.functional.linear(part, weight, bias)
            for part, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
        )
        heads = [part.unflatten(-1, (-1, 128)).transpose(0, 1) for part in parts]
        scores = heads[0] @ heads[1].transpose(1, 2) / 128**0.5
        return self.out_proj((scores.softmax(-1) @ heads[2]).transpose(0, 1).flatten(1))


class Resampler(nn.Module):
    def __init__(self, queries: int, width: int, tower: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(queries, width))
        self.kv_proj = nn.Linear(tower, width, bias=False)
        self.attn = CrossAttention(width)
        self.ln_q = nn.LayerNorm(width, eps=1e-6)
        self.ln_kv = nn.LayerNorm(width, eps=1e-6)
        self.ln_post = nn.LayerNorm(width, eps=1e-6)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, width))

    def forward(self, patches: Tensor, rows: int, columns: int) -> Tensor:
        values = self.ln_kv(self.kv_proj(patches))
        width = values.shape[-1]
        places = torch.empty(rows * columns, width)
        for row in range(rows):
            for column in range(columns):
                for number in range(width // 4):
                    speed = 1 / 10000 ** (number / (width / 4))
                    turns = torch.tensor([column * speed, row * speed])
                    at = torch.tensor([number, number + width // 2])
                    places[row * columns + column, at] = turns.sin()
                    places[row * columns + column, at + width // 4] = turns.cos()
        seen = self.attn(self.ln_q(self.query), values + places, values)
        return self.ln_post(seen) @ self.proj


class MiniCPMV(nn.Module):
    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.config = config
        own = config.to_dict()
        tower = dict(own["vision_config"])
        tower["num_hidden_layers"] -= own["drop_vision_last_layer"]
        self.llm = Qwen2ForCausalLM(config)
        self.vpm = SiglipVisionTransformer(tower)
        self.resampler = Resampler(own["query_num"], config.hidden_size, tower["hidden_size"])

    def prepare_inputs_for_generation(self, *values: Any, **named: Any) -> Any:
        """PEFT asks each causal model for it."""
        return self.llm.prepare_inputs_for_generation(*values, **named)

    def get_vllm_embedding(self, data: Mapping[str, Any]) -> Tensor:
        embeddings = self.llm.model.embed_tokens(data["input_ids"])
        rows = []
        for index, strips in enumerate(data["pixel_values"]):
            features = [
                self.resampler(self.vpm(strip, *size)[0], *size)
                for strip, size in zip(strips, data["tgt_sizes"][index].tolist(), strict=True)
            ]
            bounds = data["image_bound"][index].tolist()
            places = torch.cat([torch.arange(begin, end) for begin, end in bounds])
            rows.append(embeddings[index].index_copy(0, places, torch.cat(features)))
        return torch.stack(rows)

    def forward(self, data: Mapping[str, Any], **kwargs: Any) -> Any:
        return self.llm(
            input_ids=None,
            position_ids=data["position_ids"],
            inputs_embeds=self.get_vllm_embedding(data),
            **kwargs,
        )
