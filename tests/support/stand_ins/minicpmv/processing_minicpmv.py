"""Frames and prompts as the published processor makes them, on PIL images."""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

TOKENS, SIDE, PATCH = 4, 56, 14
"""Smaller than published: of a picture, of the square whose area it gets, of a patch."""


def ensure_divide(length: float, unit: int) -> int:
    return max(round(length / unit) * unit, unit)


def find_best_resize(size: tuple[float, float], *, upscale: bool) -> tuple[int, int]:
    width, height = size
    if width * height > SIDE * SIDE or upscale:
        ratio = width / height
        height = int(SIDE / math.sqrt(ratio))
        width = int(height * ratio)
    return ensure_divide(width, PATCH), ensure_divide(height, PATCH)


def get_sliced_grid(size: tuple[int, int], max_slice_nums: int) -> tuple[int, int] | None:
    """Return columns and rows."""
    width, height = size
    multiple = min(math.ceil(width * height / (SIDE * SIDE)), max_slice_nums)
    if multiple <= 1:
        return None
    best, error = (1, 1), math.inf
    for count in (multiple - 1, multiple, multiple + 1):
        if count == 1 or count > max_slice_nums:
            continue
        for columns in range(1, count + 1):
            if count % columns:
                continue
            rows = count // columns
            off = abs(math.log(width / height) - math.log(columns / rows))
            if off < error:
                best, error = (columns, rows), off
    return best


def slice_image(image: Image.Image, max_slice_nums: int) -> list[Image.Image]:
    grid = get_sliced_grid(image.size, max_slice_nums)
    bicubic = Image.Resampling.BICUBIC
    if grid is None:
        return [image.resize(find_best_resize(image.size, upscale=True), bicubic)]
    columns, rows = grid
    cell = (
        ensure_divide(image.width, columns) / columns,
        ensure_divide(image.height, rows) / rows,
    )
    width, height = find_best_resize(cell, upscale=True)
    fine = image.resize((width * columns, height * rows), bicubic)
    return [
        image.resize(find_best_resize(image.size, upscale=False), bicubic),
        *(
            fine.crop((x, y, x + width, y + height))
            for y in range(0, fine.height, height)
            for x in range(0, fine.width, width)
        ),
    ]


def strip(image: Image.Image) -> Tensor:
    """Return (3, patch, L x patch) of a picture, normalized: its patches side by side."""
    levels = torch.from_numpy(np.array(image))
    values = (levels / 255 - 0.5) / 0.5
    tiles = [
        values[y : y + PATCH, x : x + PATCH]
        for y in range(0, image.height, PATCH)
        for x in range(0, image.width, PATCH)
    ]
    return torch.cat(tiles, dim=1).permute(2, 0, 1)


def placeholder(size: tuple[int, int], max_slice_nums: int) -> str:
    text = f"<image>{'<unk>' * TOKENS}</image>"
    grid = get_sliced_grid(size, max_slice_nums)
    if grid is not None:
        row = f"<slice>{'<unk>' * TOKENS}</slice>" * grid[0]
        text += "\n".join([row] * grid[1])
    return text


def process(
    tokenizer: Any, frames: list[Image.Image], question: str, max_slice_nums: int
) -> dict[str, Any]:
    """As `chat` with `use_image_id=False`, up to the model's inputs."""
    parts = [placeholder(frame.size, max_slice_nums) for frame in frames]
    message = {"role": "user", "content": "\n".join([*parts, question])}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    pictures = [part for frame in frames for part in slice_image(frame, max_slice_nums)]
    sizes = [(picture.height // PATCH, picture.width // PATCH) for picture in pictures]
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    return {
        "input_ids": ids,
        "position_ids": torch.arange(ids.shape[1])[None],
        "pixel_values": [[strip(picture) for picture in pictures]],
        "tgt_sizes": [torch.tensor(sizes)],
        "image_bound": [image_bound(tokenizer, ids[0])],
    }


def image_bound(tokenizer: Any, ids: Tensor) -> Tensor:
    """Return the begin and end of each picture's placeholders."""
    marks = [("<image>", "<slice>"), ("</image>", "</slice>")]
    starts, ends = (
        torch.isin(ids, torch.tensor(tokenizer.convert_tokens_to_ids(list(pair)))).nonzero()[:, 0]
        for pair in marks
    )
    return torch.stack([starts + 1, ends], dim=1)
