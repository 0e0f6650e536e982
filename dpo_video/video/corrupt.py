"""Corrupted clips: the frames that the model would see, out of order or most of them gone, at their
old places in time.

Only what the frames show changes, so number of tokens, times and positions stay those of the clip.
An answer that is right about the clip should be less likely with such a one (conditional
preference: mDPO, arXiv 2406.11839), and an answer that was written to such a one is likely wrong
about the clip (TPO, arXiv 2501.13919; TEMPLE, arXiv 2503.16929).

F frames, G groups of frames.
"""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpo_video.core.errors import UserError
from dpo_video.video.frames import Frames, VideoError

CORRUPTION = re.compile(r"(?:reverse|(?:shuffle|drop):[0-9]{1,18})(?:/(?!1\b)[1-9][0-9]{0,5})?")
DRAWN = ("shuffle", "drop")
"""Corruptions that take a number, drawn by seed and clip: all questions about a clip share its
corrupted clips.
"""
KEPT_SHARE = 5
"""`drop` keeps one frame in this many: a fifth, the most that mDPO's crops keep of an image."""


def draw_corruption(kind: str, *, seed: int, clip: str, magnitude: int | None = None) -> str:
    """Return the corruption of a clip as `corrupt` takes it: the same for all questions about it.

    Args:
        kind: `reverse`, `shuffle` or `drop`.
        clip: the clip's name.
        magnitude: how strong it is, see `corrupt`.
    """
    name = f"{kind}:{draw_number(kind, seed=seed, clip=clip)}" if kind in DRAWN else kind
    return name if magnitude is None else f"{name}/{magnitude}"


def draw_number(kind: str, *, seed: int, clip: str) -> int:
    """Return a number of 32 bits that depends on its arguments only."""
    return int(hashlib.sha256(f"{seed}\n{kind}\n{clip}".encode()).hexdigest()[:8], 16)


def check_corruption(corruption: str, where: str) -> None:
    """Raise UserError unless `corruption` is one of those that `corrupt` knows."""
    if not CORRUPTION.fullmatch(corruption):
        raise UserError(
            f"{where}: unknown corruption {corruption!r}. Known: `reverse`, `shuffle:N` and "
            "`drop:N`, N a whole number that draws the order or the frames that stay; and with a "
            "magnitude M of at least 2 behind it, such as `shuffle:N/M`"
        )


def corrupt(frames: Frames, corruption: str, path: Path | str) -> Frames:
    """Return frames of which each shows another's picture; times and indices stay those of the
    places.

    `reverse`: the last frame first. `shuffle:N`: in an order drawn by N. `drop:N`: of F frames a
    stretch of F // 5 (at least one) that N draws stays, and each other one shows the nearest of
    these, as a screen does where frames are missing. mDPO cuts an image down to at most a fifth;
    VistaDPO (arXiv 2504.13122) does it to clips, frames and boxes.

    A magnitude M behind it, `reverse/M`, `shuffle:N/M`, `drop:N/M`, is TEMPLE's: groups of F // M
    frames (at least one) change places, each group in its own order; or F // M frames stay. The
    larger it is, the more is changed, and the easier it is to tell.

    Raises VideoError `unchanged` where the pictures are the same after it: one frame, or a still.
    """
    name, _, magnitude = corruption.partition("/")
    kind, _, number = name.partition(":")
    order = _order(
        len(frames.pixels),
        kind,
        np.random.default_rng(int(number or 0)),
        magnitude=int(magnitude) if magnitude else None,
    )
    pixels = frames.pixels[order]
    if np.array_equal(pixels, frames.pixels):
        raise VideoError("unchanged", path, f"its {len(order)} frames look the same after {kind!r}")
    return replace(frames, pixels=pixels)


def _order(
    count: int, kind: str, draw: np.random.Generator, *, magnitude: int | None
) -> NDArray[np.intp]:
    """Return (F,) which frame each place shows."""
    positions = np.arange(count)
    if kind == "drop":
        num_kept = max(count // (magnitude or KEPT_SHARE), 1)
        first = int(draw.integers(count - num_kept + 1))
        return positions.clip(first, first + num_kept - 1)
    group_size = 1 if magnitude is None else max(count // magnitude, 1)
    groups = np.split(positions, range(group_size, count, group_size))
    group_order = _group_order(len(groups), kind, draw)  # (G,)
    return np.concatenate([groups[index] for index in group_order])


def _group_order(count: int, kind: str, draw: np.random.Generator) -> NDArray[np.intp]:
    """Return (G,) which group each place shows; never the order that they have."""
    positions = np.arange(count)
    if kind == "reverse":
        return positions[::-1]
    assert kind == "shuffle", kind
    order = draw.permutation(count)
    return np.roll(order, 1) if np.array_equal(order, positions) else order
