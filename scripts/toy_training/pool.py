"""Pretraining clips: real encoded and decoded pixels, and what covers each cell of a frame.

N clips, F = 16 frames, S = 64 pixels a side, a cell is 16 x 16 pixels (4 x 4 cells a frame).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpo_video.toy.clips import SIDE, coverage, decode, draw, encode
from dpo_video.toy.scene import COLOURS, MOTIONS, NUM_FRAMES, SHAPES, Scene, SplitName, draw_scene

CELLS = 4
"""Cells a side."""
MAX_THINGS = 3
FRAME_SETS = (
    tuple(np.linspace(0, NUM_FRAMES - 1, 8).round().astype(int).tolist()),
    tuple(range(0, NUM_FRAMES, 2)),
    tuple(range(1, NUM_FRAMES, 2)),
)
"""Ways to take 8 of 16 frames evenly; training mixes them so none is special."""


@dataclass(frozen=True)
class Pool:
    """Scenes with decoded pixels (N, F, S, S, 3) uint8, and per cell the pixels that each
    thing covers (N, F, 4, 4, 3) float16; facts (N, 3, 3) int64 hold each thing's shape,
    colour and motion, counted from 1 (0 is nothing)."""

    scenes: list[Scene]
    pixels: NDArray[np.uint8]
    covered: NDArray[np.float16]
    facts: NDArray[np.int64]


def make_pool(num_clips: int, *, seed: int, part: SplitName) -> Pool:
    """Return clips that went through H.264, drawn from one part of the world."""
    rng = random.Random(f"pool {part} {seed}")
    scenes = [draw_scene(rng, part=part) for _ in range(num_clips)]
    pixels = np.empty((num_clips, NUM_FRAMES, SIDE, SIDE, 3), np.uint8)
    covered = np.zeros((num_clips, NUM_FRAMES, CELLS, CELLS, MAX_THINGS), np.float16)
    facts = np.zeros((num_clips, MAX_THINGS, 3), np.int64)
    for n, scene in enumerate(scenes):
        pixels[n] = decode(encode(draw(scene)))
        for k, thing in enumerate(scene.things):
            size = SIDE // CELLS
            cover = coverage(thing).reshape(NUM_FRAMES, CELLS, size, CELLS, size)
            covered[n, ..., k] = cover.sum(axis=(2, 4))
            facts[n, k] = (
                1 + SHAPES.index(thing.shape),
                1 + COLOURS.index(thing.colour),
                1 + MOTIONS.index(thing.motion),
            )
    return Pool(scenes, pixels, covered, facts)


def cell_facts(pool: Pool, rows: NDArray[np.int64], frames: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return shape, colour, motion of what covers each cell most, 0 where nothing does.

    `frames` (G, P) groups frame numbers: P frames share one temporal cell. The result is
    (len(rows), G, 4, 4, 3) int64.
    """
    covered = pool.covered[rows][:, frames].astype(np.float32).mean(axis=2)
    owner = covered.argmax(-1)  # (n, G, 4, 4)
    facts = np.take_along_axis(
        pool.facts[rows][:, None, None, None], owner[..., None, None], axis=-2
    )[..., 0, :]
    return facts * (covered.max(-1) >= 12)[..., None]
