"""The connector of VideoLLaMA 2 written out plainly, under timm's and the published names."""

from typing import Any

import torch
from torch import Tensor, nn


class LayerNorm2d(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, grid: Tensor) -> Tensor:
        mean = grid.mean(1, keepdim=True)
        spread = grid.var(1, keepdim=True, unbiased=False)
        normed = (grid - mean) / (spread + 1e-5).sqrt()
        return normed * self.weight[:, None, None] + self.bias[:, None, None]


class ConvNorm(nn.Module):
    def __init__(self, before: int, after: int, side: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, side, padding=side // 2, groups=groups, bias=False)
        self.bn = LayerNorm2d(after)

    def forward(self, grid: Tensor) -> Tensor:
        return self.bn(self.conv(grid))


class SE(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, inner, 1)
        self.fc2 = nn.Conv2d(inner, width, 1)

    def forward(self, grid: Tensor) -> Tensor:
        whole = grid.flatten(2).mean(2)[:, :, None, None]
        return grid * self.fc2(nn.functional.silu(self.fc1(whole))).sigmoid()


class Bottleneck(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(before, after)
        self.conv2 = ConvNorm(after, after, side=3, groups=after)
        self.se = SE(after, round(before * 0.25))
        self.conv3 = ConvNorm(after, after)
        self.downsample = nn.Identity() if before == after else ConvNorm(before, after)

    def forward(self, grid: Tensor) -> Tensor:
        inner = nn.functional.silu(self.conv1(grid))
        inner = self.se(nn.functional.silu(self.conv2(inner)))
        return nn.functional.silu(self.conv3(inner) + self.downsample(grid))


def stage(before: int, after: int, depth: int = 4) -> nn.Sequential:
    blocks = nn.Sequential()
    for number in range(1, depth + 1):
        blocks.add_module(f"b{number}", Bottleneck(before if number == 1 else after, after))
    return blocks


class STCConnector(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        width, hidden = config.mm_hidden_size, config.hidden_size
        self.kind = config.mm_projector_type
        self.s1 = stage(width, hidden)
        self.sampler = nn.Sequential(
            nn.AvgPool3d(2)
            if self.kind == "stp_connector"
            else nn.Conv3d(hidden, hidden, 2, stride=2, padding=int(self.kind == "stc_connector")),
            nn.SiLU(),
        )
        self.s2 = stage(hidden, hidden)
        self.readout = nn.Sequential(
            nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """Return the rows (1, n, D) of one clip's patches (1, F, S x S, C)."""
        side = int(patches.shape[2] ** 0.5)
        frames = [frame.reshape(side, side, -1).permute(2, 0, 1) for frame in patches[0]]
        volume = torch.stack([self.s1(frame[None])[0] for frame in frames], dim=1)  # D, F, S, S
        steps = self.sampler(volume[None])[0]
        merged = [self.s2(step[None])[0] for step in steps.unbind(1)]
        rows = [
            step[:, row, column]
            for step in merged
            for row in range(step.shape[1])
            for column in range(step.shape[2])
        ]
        return self.readout(torch.stack(rows))[None]
