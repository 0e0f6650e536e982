"""Token positions of a prompt, and the M-RoPE rule that published Qwen2-VL and 2.5-VL checkpoints
were trained with.

Shapes: B rows, T tokens, P prompt tokens; M-RoPE positions have 3 axes: time, height, width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

TEXT, IMAGE, VIDEO = 0, 1, 2
"""Values of `mm_token_type_ids`."""


def plain_positions(model: Any, input_ids: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return (1, P) positions that count the tokens from 0."""
    return torch.arange(len(input_ids))[None]


def mrope_positions(model: Any, input_ids: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return (3, P) positions of one prompt by the rule that is installed on the model."""
    clip = {
        name: inputs[name] for name in ("video_grid_thw", "second_per_grid_ts") if name in inputs
    }
    return model.model.get_rope_index(
        input_ids[None],
        inputs["mm_token_type_ids"][None],
        **clip,
        attention_mask=torch.ones_like(input_ids)[None],
    )[0][:, 0]


def install_mrope_rule(model: Any, rule: str) -> None:
    """Make forward and generate of a bare Qwen2/2.5-VL model use the rule `checkpoint` or
    `transformers`.
    """
    if rule == "checkpoint":
        model.model.get_rope_index = MethodType(checkpoint_rope_index, model.model)


def checkpoint_rope_index(
    self: Any,
    input_ids: Tensor,
    mm_token_type_ids: Tensor,
    image_grid_thw: Tensor | None = None,
    video_grid_thw: Tensor | None = None,
    second_per_grid_ts: Tensor | Sequence[float] | None = None,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Return positions (3, B, T) and deltas (B, 1) by the rule of transformers <= 5.2 (the
    families' release code).

    There, text after a video starts above the largest position of any axis. transformers >= 5.3
    starts it above the video's larger side only, so text after a long clip falls back among the
    clip's own time steps. Both agree while the clip extends less in time than in space.
    Qwen2.5-VL's time steps are as long as the clip's; Qwen2-VL counts them. The signature is that
    of Qwen2_5_VLModel.get_rope_index.
    """
    keep = (
        torch.ones_like(input_ids, dtype=torch.bool)
        if attention_mask is None
        else attention_mask.bool()
    )
    seconds = iter(
        [] if second_per_grid_ts is None else [float(value) for value in second_per_grid_ts]
    )
    grids = {IMAGE: _rows(image_grid_thw), VIDEO: _rows(video_grid_thw)}
    positions = torch.zeros(3, *input_ids.shape, dtype=torch.long, device=input_ids.device)
    deltas = []
    for row, attended in enumerate(keep):
        types = mm_token_type_ids[row][attended].tolist()
        row_positions = _row_positions(
            types, grids, _intervals(self.config, seconds), self.config
        )  # (3, tokens attended)
        positions[:, row, attended] = row_positions.to(positions.device)
        deltas.append(int(row_positions.max()) + 1 - len(types))
    return positions, torch.tensor(deltas, device=input_ids.device)[:, None]


def _rows(grid: Tensor | None) -> Iterator[list[int]]:
    return iter([] if grid is None else grid.tolist())


def _intervals(config: PretrainedConfig, seconds: Iterator[float]) -> Callable[[], float]:
    """Return a function that gives the next video's time step in position units; 1 where no time is
    known.
    """
    if config.model_type in ("qwen2_vl", "ernie4_5_vl_moe"):
        return lambda: 1.0
    return lambda: config.vision_config.tokens_per_second * next(seconds, 1.0)


def _row_positions(
    types: list[int],
    grids: dict[int, Iterator[list[int]]],
    interval: Callable[[], float],
    config: PretrainedConfig,
) -> Tensor:
    """Return (3, tokens) positions of one row without padding, from its token types."""
    merge = config.vision_config.spatial_merge_size
    parts: list[Tensor] = []
    start = 0
    for kind, group in groupby(types):
        num_tokens = len(list(group))
        if kind == TEXT:
            parts.append(torch.arange(start, start + num_tokens).expand(3, -1))
            start += num_tokens
            continue
        while num_tokens > 0:  # videos that touch share one run of placeholder tokens
            steps, height, width = next(grids[kind])
            step = interval() if kind == VIDEO else 1.0
            axes = (
                (torch.arange(steps) * step).long(),
                torch.arange(height // merge),
                torch.arange(width // merge),
            )
            block = torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(3, -1) + start
            parts.append(block)
            start = int(block.max()) + 1
            num_tokens -= block.shape[1]
    return torch.cat(parts, dim=1)
