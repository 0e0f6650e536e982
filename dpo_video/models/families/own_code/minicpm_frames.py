"""Frames and prompts as MiniCPM-V 2.6's own processor makes them: a frame whole, and in slices
where it is large, each of them 64 tokens between marks.

Published code: image_processing_minicpmv.py and processing_minicpmv.py of openbmb/MiniCPM-V-2_6.
Shapes: F frames, K slices of each.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

from dpo_video.core import strict_json
from dpo_video.models.families.family import FrameSize
from dpo_video.models.families.own_code.repository_files import copy_files

CLIP = "(<image>./</image>)"
"""What the published chat writes for an image, and we once for a clip."""
FRAME, SLICE = ("<image>", "</image>"), ("<slice>", "</slice>")
SETTINGS = "preprocessor_config.json"
FILES = (
    SETTINGS,
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "tokenization_minicpmv_fast.py"),
    *("configuration_minicpm.py", "modeling_minicpmv.py", "modeling_navit_siglip.py"),
    *("resampler.py", "image_processing_minicpmv.py", "processing_minicpmv.py"),
)
"""What a checkpoint holds beside weights and configs, and a merged one gets too."""


@dataclass(frozen=True, kw_only=True)
class FrameReader:
    """A checkpoint's preprocessor_config.json, as far as it is about frames."""

    side: int
    """Of the square whose area a frame or slice gets, pixels."""
    patch: int
    tokens: int
    """Of a frame or a slice."""
    placeholder: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    slices: int = 2
    """The most slices of a frame: what the model card sets for videos."""

    @staticmethod
    def of(settings: Mapping[str, Any]) -> "FrameReader":
        """Return the reader of a file's fields, with the published code's defaults."""
        half = [0.5, 0.5, 0.5]
        return FrameReader(
            side=int(settings.get("scale_resolution", 448)),
            patch=int(settings.get("patch_size", 14)),
            tokens=int(settings.get("image_feature_size", 64)),
            placeholder=str(settings.get("unk", "<unk>")),
            mean=tuple(settings.get("norm_mean", half)),
            std=tuple(settings.get("norm_std", half)),
        )

    def to_json_string(self) -> str:
        """Return all fields, as transformers' processors do: what kept features depend on."""
        return strict_json.dumps(asdict(self), sort_keys=True)

    def grid(self, size: FrameSize, slices: int) -> tuple[int, int]:
        """Return the rows and columns of slices of a frame; (0, 0) where it is not cut.

        The number of slices is that of squares in its area, or one more or less; the grid is that
        whose shape is nearest to the frame's.
        """
        squares = math.ceil(size.height * size.width / self.side**2)
        wanted = min(squares, slices)
        if wanted <= 1:
            return 0, 0
        shape = math.log(size.width / size.height)
        grids = [
            (number // columns, columns)
            for number in (wanted - 1, wanted, wanted + 1)
            if 1 < number <= slices
            for columns in range(1, number + 1)
            if number % columns == 0
        ]
        return min(grids, key=lambda grid: abs(shape - math.log(grid[1] / grid[0])))

    def whole(self, size: FrameSize, *, cut: bool) -> FrameSize:
        """Return the size of a frame as a whole: one that is not cut is enlarged too."""
        large = size.height * size.width > self.side**2
        return self._fitted(size.width, size.height, resize=large or not cut)

    def piece(self, size: FrameSize, grid: tuple[int, int]) -> FrameSize:
        """Return the size of one of its slices."""
        rows, columns = grid
        width = self._rounded(size.width, columns) / columns
        height = self._rounded(size.height, rows) / rows
        return self._fitted(width, height, resize=True)

    def _fitted(self, width: float, height: float, *, resize: bool) -> FrameSize:
        if resize:
            shape = width / height
            height = int(self.side / math.sqrt(shape))
            width = int(height * shape)
        return FrameSize(self._rounded(height, self.patch), self._rounded(width, self.patch))

    @staticmethod
    def _rounded(length: float, unit: int) -> int:
        return max(round(length / unit) * unit, unit)

    def pixels(self, frames: np.ndarray, slices: int) -> dict[str, Tensor]:
        """Return uint8 frames (F, H, W, 3) as `pixel_values` (F, 3, h, w) and `slice_values`
        (F, K, 3, h', w'), normalized; K is 0 where frames are not cut.
        """
        size = FrameSize(*frames.shape[1:3])
        rows, columns = self.grid(size, slices)
        images = [Image.fromarray(frame) for frame in frames]
        whole = self.whole(size, cut=rows > 0)
        pieces = torch.empty(len(images), 0, 3, self.patch, self.patch)
        if rows:
            piece = self.piece(size, (rows, columns))
            fine = self._resized(images, FrameSize(rows * piece.height, columns * piece.width))
            tiles = fine.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))
            pieces = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        return {"pixel_values": self._resized(images, whole), "slice_values": pieces}

    def _resized(self, images: Sequence[Image.Image], size: FrameSize) -> Tensor:
        arrays = [
            np.asarray(image.resize((size.width, size.height), Image.Resampling.BICUBIC))
            for image in images
        ]
        scaled = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (scaled - mean) / std

    def text(self, num_frames: int, size: FrameSize, slices: int) -> str:
        """Return what stands in the prompt for a clip: its frames, a line each."""
        rows, columns = self.grid(size, slices)
        held = self.placeholder * self.tokens
        row = "".join([SLICE[0] + held + SLICE[1]] * columns)
        frame = FRAME[0] + held + FRAME[1] + "\n".join([row] * rows)
        return "\n".join([frame] * num_frames)


class MiniCPMVProcessor(ProcessorMixin):
    """A tokenizer with its chat template, which takes texts only, and the reader of frames."""

    def __init__(
        self, tokenizer: Any, *, reader: FrameReader, name: str, source: Mapping[str, Any]
    ) -> None:
        super().__init__(tokenizer, chat_template=tokenizer.chat_template)
        self.video_processor = reader
        self._repository = (name, source)

    def apply_chat_template(  # type: ignore[override]  # only what is asked of it here
        self, conversation: Sequence[Mapping[str, Any]], **options: Any
    ) -> Any:
        """As the published chat: the parts of a message are joined by newlines."""
        texts = [{**message, "content": _text(message["content"])} for message in conversation]
        return self.tokenizer.apply_chat_template(
            texts, chat_template=self.chat_template, **options
        )

    def save_pretrained(
        self, save_directory: Path | str, push_to_hub: bool = False, **options: Any
    ) -> None:
        """Write the tokenizer, and over it the repository's files: the published code, which is
        among them, wants its own tokenizer's.
        """
        self.tokenizer.save_pretrained(save_directory)
        copy_files(FILES, Path(save_directory), *self._repository)


def _text(content: str | Sequence[Mapping[str, str]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(CLIP if part["type"] == "video" else part["text"] for part in content)
