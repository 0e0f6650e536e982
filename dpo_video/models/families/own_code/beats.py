"""BEATs (arXiv:2212.09058), the audio tower of VideoLLaMA 2.1-7B-AV: a transformer over the patches
of a spectrogram, whose attention knows how far apart two patches stand.

Published code: DAMO-NLP-SG/VideoLLaMA2, videollama2/model/beats/; parts are named as there. Shapes:
B sounds, T frames of a spectrogram, M mel bins, L patches, H heads, E width.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

FBANK_MEAN = 15.41663
FBANK_DEVIATION = 6.55582
"""Of the spectrograms that BEATs was trained on, in natural logarithms."""


@dataclass(frozen=True, kw_only=True)
class BeatsSizes:
    """Sizes of a tower, named as published. The defaults are those of every published checkpoint,
    as its code takes no others.
    """

    input_patch_size: int = 16
    """Frames, and mel bins, on a patch's side."""
    embed_dim: int = 512
    """Width of a patch before the encoder."""
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    conv_pos: int = 128
    """Patches that the convolution of positions sees."""
    conv_pos_groups: int = 16
    num_buckets: int = 320
    """Distances that are told apart, half of them for patches before and half for those behind."""
    max_distance: int = 800
    """From here on all distances are one."""
    predictor_class: int = 527
    """Sounds that it was trained to name."""


class Beats(nn.Module):
    """The tower; its `predictor` is held for the checkpoint's sake, nothing reads it."""

    def __init__(self, sizes: BeatsSizes) -> None:
        super().__init__()
        patch, width = sizes.input_patch_size, sizes.encoder_embed_dim
        self.patch_embedding = nn.Conv2d(1, sizes.embed_dim, patch, stride=patch, bias=False)
        self.layer_norm = nn.LayerNorm(sizes.embed_dim)
        self.post_extract_proj = (
            nn.Identity() if sizes.embed_dim == width else nn.Linear(sizes.embed_dim, width)
        )
        self.encoder = BeatsEncoder(sizes)
        self.predictor = nn.Linear(width, sizes.predictor_class)

    def forward(self, fbank: Tensor) -> Tensor:
        """Return the patches (B, L, E) of log mel spectrograms (B, T, M), those of one time after
        another, low notes first.
        """
        normed = (fbank.float() - FBANK_MEAN) / (2 * FBANK_DEVIATION)
        patches = self.patch_embedding(normed.to(self.patch_embedding.weight)[:, None])
        encoded: Tensor = self.encoder(
            self.post_extract_proj(self.layer_norm(patches.flatten(2).transpose(1, 2)))
        )
        return encoded


class BeatsEncoder(nn.Module):
    """Positions by a convolution, and layers."""

    def __init__(self, sizes: BeatsSizes) -> None:
        super().__init__()
        width = sizes.encoder_embed_dim
        convolution = nn.Conv1d(
            width,
            width,
            sizes.conv_pos,
            padding=sizes.conv_pos // 2,
            groups=sizes.conv_pos_groups,
        )
        parametrize.register_parametrization(convolution, "weight", NormedKernel())
        self.pos_conv = nn.Sequential(convolution, nn.GELU())
        self.layer_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(BeatsLayer(sizes) for _ in range(sizes.encoder_layers))
        self.num_buckets = sizes.num_buckets
        self.max_distance = sizes.max_distance

    def forward(self, patches: Tensor) -> Tensor:
        """Return patches (B, L, E) as the last layer has them."""
        length = patches.shape[1]
        # An even kernel makes one patch more than it is given.
        positions = self.pos_conv(patches.transpose(1, 2))[..., :length].transpose(1, 2)
        states: Tensor = self.layer_norm(patches + positions)
        buckets = distance_buckets(
            length, num_buckets=self.num_buckets, max_distance=self.max_distance
        ).to(states.device)
        distances = self.tables()[0](buckets).permute(2, 0, 1).contiguous()  # (H, L, L)
        for layer in self.layers:
            states = layer(states, distances)
        return states

    def tables(self) -> list[nn.Embedding]:
        """Return each layer's table of distances, see BeatsAttention."""
        layers = cast("list[BeatsLayer]", self.layers)
        return [layer.self_attn.relative_attention_bias for layer in layers]


class NormedKernel(nn.Module):
    """Weight normalization (arXiv:1602.07868) of a kernel (out, in, K), one norm for each of its K
    places; in float32, with 1e-6 under the root, as published.
    """

    def forward(self, norm: Tensor, direction: Tensor) -> Tensor:
        """Return the kernel of norms (1, 1, K) and directions (out, in, K)."""
        exact = direction.float()
        scale = torch.rsqrt(exact.square().sum((0, 1), keepdim=True) + 1e-6)
        return norm * (exact * scale).to(direction)

    def right_inverse(self, kernel: Tensor) -> tuple[Tensor, Tensor]:
        """Return norms and directions of a kernel."""
        return kernel.square().sum((0, 1), keepdim=True).sqrt(), kernel


class BeatsLayer(nn.Module):
    """Attention and an MLP, each normed after its sum with what came in, which DeepNorm
    (arXiv:2203.00555) scales.
    """

    def __init__(self, sizes: BeatsSizes) -> None:
        super().__init__()
        width, inner = sizes.encoder_embed_dim, sizes.encoder_ffn_embed_dim
        self.scale = (2 * sizes.encoder_layers) ** 0.25
        self.self_attn = BeatsAttention(sizes)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, states: Tensor, distances: Tensor) -> Tensor:
        """Return states (B, L, E); distances (H, L, L) as BeatsAttention takes them."""
        attended = self.self_attn(states, distances)
        states = self.self_attn_layer_norm(states * self.scale + attended)
        inner = functional.gelu(self.fc1(states))
        normed: Tensor = self.final_layer_norm(states * self.scale + self.fc2(inner))
        return normed


class BeatsAttention(nn.Module):
    """Attention with gated relative positions (WavLM, arXiv:2110.13900).

    All layers of a published model hold one table of distances, which is in a checkpoint under the
    name of each, or of the first alone. It is looked up there once for all layers, as published.
    """

    def __init__(self, sizes: BeatsSizes) -> None:
        super().__init__()
        width = sizes.encoder_embed_dim
        self.heads = sizes.encoder_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.relative_attention_bias = nn.Embedding(sizes.num_buckets, self.heads)
        self.grep_linear = nn.Linear(width // self.heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))

    def forward(self, states: Tensor, distances: Tensor) -> Tensor:
        """Return what each of the states (B, L, E) gathers from all.

        Args:
            distances: what each head's table has for a query's row and a key's column, (H, L, L).
        """
        queries, keys, values = (
            projection(states).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        update, reset = self.grep_linear(queries).unflatten(3, (2, 4)).sum(4).sigmoid().split(1, 3)
        gate = update * (reset * self.grep_a - 1) + 2  # (B, H, L, 1)
        gathered = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=gate * distances
        )
        mixed: Tensor = self.out_proj(gathered.transpose(1, 2).flatten(2))
        return mixed


@torch.no_grad()
def fill_tables(tower: Beats, missing: set[str], *, prefix: str) -> None:
    """Give the layers whose table of distances a checkpoint lacks that of the first, and take it
    out of the names of weights that are `missing`, which begin with `prefix` in the tower.
    """
    first, *others = tower.encoder.tables()
    for number, table in enumerate(others, start=1):
        name = f"{prefix}encoder.layers.{number}.self_attn.relative_attention_bias.weight"
        if name in missing:
            table.weight.copy_(first.weight)
            missing.remove(name)


def distance_buckets(length: int, *, num_buckets: int, max_distance: int) -> Tensor:
    """Return the bucket (L, L) of each distance, from a query's row to a key's column, int64.

    Of each direction's half, one part is for small distances, a bucket each, the other for the
    logarithm of larger ones up to `max_distance` (T5, arXiv:1910.10683, sec. 2.1).

    >>> distance_buckets(5, num_buckets=8, max_distance=8)[0]
    tensor([0, 5, 6, 6, 7])
    """
    places = torch.arange(length)
    offsets = places[None, :] - places[:, None]
    half = num_buckets // 2
    exact = half // 2
    distances = offsets.abs()
    far = torch.log(distances.clamp(min=exact) / exact) / math.log(max_distance / exact)
    large = (exact + (far * (half - exact)).long()).clamp(max=half - 1)
    return (offsets > 0) * half + torch.where(distances < exact, distances, large)
