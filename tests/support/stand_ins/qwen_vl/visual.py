"""A stand-in for Qwen-VL 1's tower and resampler, which open the pictures themselves."""

import math
from collections import OrderedDict
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode


def get_abs_pos(abs_pos: Tensor, tgt_size: int) -> Tensor:
    """Stretch positions of one square grid to another of `tgt_size` tokens."""
    source, target = math.isqrt(len(abs_pos)), math.isqrt(tgt_size)
    if source == target:
        return abs_pos
    grid = abs_pos.float().unflatten(0, (source, source)).permute(2, 0, 1)[None]
    stretched = nn.functional.interpolate(
        grid, size=(target, target), mode="bicubic", align_corners=False
    )
    return stretched[0].permute(1, 2, 0).flatten(0, 1).to(abs_pos.dtype)


class Resampler(nn.Module):
    def __init__(self, grid_size: int, embed_dim: int, num_heads: int, kv_dim: int) -> None:
        super().__init__()
        self.num_queries = grid_size**2
        self.pos_embed = nn.Parameter(torch.randn(self.num_queries, embed_dim), requires_grad=False)
        self.query = nn.Parameter(torch.randn(self.num_queries, embed_dim))
        self.kv_proj = nn.Linear(kv_dim, embed_dim, bias=False)
        self.attn = nn.MultiheadAttention(embed_dim, num_heads)
        self.ln_q = nn.LayerNorm(embed_dim, eps=1e-6)
        self.ln_kv = nn.LayerNorm(embed_dim, eps=1e-6)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        positions = get_abs_pos(self.pos_embed, x.shape[1])
        source = self.ln_kv(self.kv_proj(x)).transpose(0, 1)
        queries = self.ln_q(self.query)[:, None].expand(-1, len(x), -1)
        mixed, _ = self.attn(
            queries + self.pos_embed[:, None],
            source + positions[:, None],
            source,
            attn_mask=attn_mask,
        )
        return mixed.transpose(0, 1)


class VisualAttention(nn.Module):
    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(embed_dim, 3 * embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, query: Tensor) -> Tensor:
        # each head's query, key and value stand together, as the published weights have them
        heads = self.in_proj(query).unflatten(-1, (self.num_heads, -1)).permute(1, 2, 0, 3)
        mixed = nn.functional.scaled_dot_product_attention(*heads.chunk(3, dim=-1))
        return self.out_proj(mixed.permute(2, 0, 1, 3).flatten(2))


class VisualAttentionBlock(nn.Module):
    def __init__(self, d_model: int, n_head: int, mlp_ratio: float) -> None:
        super().__init__()
        inner = int(d_model * mlp_ratio)
        self.ln_1 = nn.LayerNorm(d_model, eps=1e-6)
        self.ln_2 = nn.LayerNorm(d_model, eps=1e-6)
        self.attn = VisualAttention(d_model, n_head)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(d_model, inner), gelu=nn.GELU(), c_proj=nn.Linear(inner, d_model)
            )
        )

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.attn(self.ln_1(states))
        return states + self.mlp(self.ln_2(states))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            VisualAttentionBlock(width, heads, mlp_ratio) for _ in range(layers)
        )

    def forward(self, states: Tensor) -> Tensor:
        for block in self.resblocks:
            states = block(states)
        return states


class VisionTransformer(nn.Module):
    def __init__(
        self,
        image_size: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        mlp_ratio: float,
        n_queries: int = 256,
        output_dim: int = 512,
        **more: Any,
    ) -> None:
        super().__init__()
        self.image_transform = transforms.Compose(
            [
                transforms.Resize((image_size, image_size), InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize(
                    mean=(0.48145466, 0.4578275, 0.40821073),
                    std=(0.26862954, 0.26130258, 0.27577711),
                ),
            ]
        )
        self.conv1 = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        self.positional_embedding = nn.Parameter(torch.randn(256, width))
        self.ln_pre = nn.LayerNorm(width, eps=1e-6)
        self.transformer = TransformerBlock(width, layers, heads, mlp_ratio)
        self.attn_pool = Resampler(math.isqrt(n_queries), output_dim, output_dim // 64, width)
        self.ln_post = nn.LayerNorm(output_dim, eps=1e-6)
        self.proj = nn.Parameter(output_dim**-0.5 * torch.randn(output_dim, output_dim))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv1(x.to(self.conv1.weight)).flatten(2).transpose(1, 2)
        states = patches + get_abs_pos(self.positional_embedding, patches.shape[1])
        states = self.transformer(self.ln_pre(states).transpose(0, 1)).transpose(0, 1)
        return self.ln_post(self.attn_pool(states)) @ self.proj

    def encode(self, image_paths: list[str]) -> Tensor:
        pictures = [Image.open(path).convert("RGB") for path in image_paths]
        return self(torch.stack([self.image_transform(picture) for picture in pictures]))
