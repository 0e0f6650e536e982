"""Corrupted clips: the frames that the model would see, out of order or most of them gone, at their
old places in time.

Only what the frames show changes, so number of tokens, times and positions stay those of the clip.
An answer that is right about the clip should be less likely with such a one (conditional
preference: mDPO, arXiv 2406.11839).
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpo_video.core.errors import UserError
from dpo_video.video.frames import Frames, VideoError

CORRUPTION = re.compile(r"reverse|(?:shuffle|drop):[0-9]{1,18}")
KEPT_SHARE = 5
"""`drop` keeps one frame in this many: a fifth, the most that mDPO's crops keep of an image."""


def check_corruption(corruption: str, where: str) -> None:
    """Raise UserError unless `corruption` is one of those that `corrupt` knows."""
    if not CORRUPTION.fullmatch(corruption):
        raise UserError(
            f"{where}: unknown corruption {corruption!r}. Known: `reverse`, `shuffle:N` and "
            f"`drop:N`, N a "
            "whole number that draws the order or the frames that stay"
        )


def corrupt(frames: Frames, corruption: str, path: Path | str) -> Frames:
    """Return frames of which each shows another's picture; times and indices stay those of the
    places.

    `reverse`: the last frame first. `shuffle:N`: in an order drawn by N. `drop:N`: of F frames a
        stretch of F // 5 (at
    least one) that N draws stays, and each other one shows the nearest of these, as a screen does
    where frames are missing. mDPO cuts an image down to at most a fifth; VistaDPO (arXiv
    2504.13122) does it to clips, frames and boxes.

    Raises VideoError `unchanged` where the pictures are the same after it: one frame, or a still.
    """
    kind, _, number = corruption.partition(":")
    order = _order(len(frames.pixels), kind, np.random.default_rng(int(number or 0)))
    pixels = frames.pixels[order]
    if np.array_equal(pixels, frames.pixels):
        raise VideoError("unchanged", path, f"its {len(order)} frames look the same after {kind!r}")
    return replace(frames, pixels=pixels)


def _order(count: int, kind: str, draw: np.random.Generator) -> NDArray[np.intp]:
    """Return (count,) which frame each place shows."""
    positions = np.arange(count)
    if kind == "reverse":
        return positions[::-1]
    if kind == "shuffle":
        order = draw.permutation(count)
        return np.roll(order, 1) if np.array_equal(order, positions) else order
    assert kind == "drop", kind
    num_kept = max(count // KEPT_SHARE, 1)
    first = int(draw.integers(count - num_kept + 1))
    return positions.clip(first, first + num_kept - 1)
