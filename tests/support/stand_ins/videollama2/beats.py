"""VideoLLaMA 2's audio tower written out plainly, under the published names: one table of positions
that all layers hold, norms of the kernel kept apart, attention an entry after another.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

SIZES: dict[str, int] = {
    "input_patch_size": 64,
    "embed_dim": 32,
    "encoder_layers": 2,
    "encoder_embed_dim": 48,
    "encoder_ffn_embed_dim": 96,
    "encoder_attention_heads": 2,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "num_buckets": 16,
    "max_distance": 24,
    "predictor_class": 5,
}
"""A tower that makes 46 x 2 patches of half a minute."""


def bucket(offset: int, num_buckets: int, max_distance: int) -> int:
    """Return where a distance stands in the table of positions."""
    half = num_buckets // 2
    exact = half // 2
    distance = abs(offset)
    if distance >= exact:
        far = math.log(distance / exact) / math.log(max_distance / exact)
        distance = min(exact + int(far * (half - exact)), half - 1)
    return distance + half * (offset > 0)


class PositionConvolution(nn.Module):
    def __init__(self, cfg: dict[str, int]) -> None:
        super().__init__()
        plain = nn.Conv1d(
            cfg["encoder_embed_dim"],
            cfg["encoder_embed_dim"],
            cfg["conv_pos"],
            groups=cfg["conv_pos_groups"],
        )
        self.groups = cfg["conv_pos_groups"]
        self.bias = plain.bias
        self.weight_g = nn.Parameter(torch.rand(1, 1, cfg["conv_pos"]) + 0.5)
        self.weight_v = nn.Parameter(plain.weight.detach().clone())

    def forward(self, patches: Tensor) -> Tensor:
        """Return one more patch than (B, C, L) has, where the kernel is even."""
        kernel = torch.empty_like(self.weight_v)
        for place in range(kernel.shape[2]):
            direction = self.weight_v[:, :, place]
            length = (direction.pow(2).sum() + 1e-6).sqrt()
            kernel[:, :, place] = self.weight_g[0, 0, place] * direction / length
        before = kernel.shape[2] // 2
        padded = nn.functional.pad(patches, (before, before))
        return nn.functional.conv1d(padded, kernel, self.bias, groups=self.groups)


class SamePad(nn.Module):
    def forward(self, patches: Tensor) -> Tensor:
        return patches[:, :, :-1]


class MultiheadAttention(nn.Module):
    def __init__(self, cfg: dict[str, int], table: nn.Embedding) -> None:
        super().__init__()
        width = cfg["encoder_embed_dim"]
        self.cfg = cfg
        self.heads = cfg["encoder_attention_heads"]
        self.relative_attention_bias = table
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.grep_linear = nn.Linear(width // self.heads, 8)
        self.grep_a = nn.Parameter(torch.rand(1, self.heads, 1, 1) + 0.5)

    def forward(self, patches: Tensor) -> Tensor:
        return torch.stack([self.one(sound) for sound in patches])

    def one(self, patches: Tensor) -> Tensor:
        """Return the patches (L, E) of one sound."""
        length, size = len(patches), patches.shape[1] // self.heads
        out = torch.zeros_like(patches)
        for head in range(self.heads):
            part = slice(head * size, (head + 1) * size)
            keys, values = self.k_proj(patches)[:, part], self.v_proj(patches)[:, part]
            for row, query in enumerate(self.q_proj(patches)[:, part]):
                eight = self.grep_linear(query)
                first, second = eight[:4].sum().sigmoid(), eight[4:].sum().sigmoid()
                gate = first * (second * self.grep_a[0, head, 0, 0] - 1.0) + 2.0
                wanted = [
                    bucket(column - row, self.cfg["num_buckets"], self.cfg["max_distance"])
                    for column in range(length)
                ]
                positions = self.relative_attention_bias.weight[wanted, head]
                weights = (keys @ query / math.sqrt(size) + gate * positions).softmax(0)
                out[row, part] = weights @ values
        return self.out_proj(out)


class TransformerSentenceEncoderLayer(nn.Module):
    def __init__(self, cfg: dict[str, int], table: nn.Embedding) -> None:
        super().__init__()
        width, inner = cfg["encoder_embed_dim"], cfg["encoder_ffn_embed_dim"]
        self.deep_norm_alpha = math.pow(2 * cfg["encoder_layers"], 1 / 4)
        self.self_attn = MultiheadAttention(cfg, table)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, patches: Tensor) -> Tensor:
        patches = self.self_attn_layer_norm(
            patches * self.deep_norm_alpha + self.self_attn(patches)
        )
        inner = self.fc2(nn.functional.gelu(self.fc1(patches)))
        return self.final_layer_norm(patches * self.deep_norm_alpha + inner)


class TransformerEncoder(nn.Module):
    def __init__(self, cfg: dict[str, int]) -> None:
        super().__init__()
        table = nn.Embedding(cfg["num_buckets"], cfg["encoder_attention_heads"])
        self.pos_conv = nn.Sequential(PositionConvolution(cfg), SamePad(), nn.GELU())
        self.layers = nn.ModuleList(
            TransformerSentenceEncoderLayer(cfg, table) for _ in range(cfg["encoder_layers"])
        )
        self.layer_norm = nn.LayerNorm(cfg["encoder_embed_dim"])

    def forward(self, patches: Tensor) -> Tensor:
        positions = self.pos_conv(patches.transpose(1, 2)).transpose(1, 2)
        patches = self.layer_norm(patches + positions)
        for layer in self.layers:
            patches = layer(patches)
        return patches


class BEATs(nn.Module):
    def __init__(self, cfg: dict[str, int]) -> None:
        super().__init__()
        side = cfg["input_patch_size"]
        self.post_extract_proj = nn.Linear(cfg["embed_dim"], cfg["encoder_embed_dim"])
        self.patch_embedding = nn.Conv2d(1, cfg["embed_dim"], side, stride=side, bias=False)
        self.encoder = TransformerEncoder(cfg)
        self.layer_norm = nn.LayerNorm(cfg["embed_dim"])
        self.predictor = nn.Linear(cfg["encoder_embed_dim"], cfg["predictor_class"])

    def extract_features(
        self, source: Tensor, padding_mask: Tensor | None = None, **more: Any
    ) -> tuple[Tensor, int, int]:
        """Return the patches of spectrograms (B, T, M), and how many there are of times and of
        mel bins; no mask says anything in the published calls.
        """
        assert padding_mask is None or not padding_mask.any()
        grid = self.patch_embedding(((source - 15.41663) / (2 * 6.55582)).unsqueeze(1))
        times, bins = grid.shape[2:]
        patches = [grid[:, :, time, mel] for time in range(times) for mel in range(bins)]
        normed = self.layer_norm(torch.stack(patches, dim=1))
        return self.encoder(self.post_extract_proj(normed)), times, bins
