"""Scenes of the toy world: one to three coloured shapes that move, or appear later.

A scene's signature is its set of facts. Signatures are dealt by hash into three parts that
never meet: `train` and `heldout` clips, and `pretrain` scenes that built the checkpoints.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

SplitName = Literal["train", "heldout", "pretrain"]

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = ("red", "green", "blue", "yellow", "white", "pink")
MOTIONS = ("left", "right", "up", "down", "still")
NUM_FRAMES = 16
"""Frames in a clip."""


@dataclass(frozen=True)
class Figure:
    """One shape: what is said of it, and where it is drawn (not part of the facts)."""

    shape: str
    colour: str
    motion: str
    first_frame: int
    quadrant: int
    radius: float

    @property
    def late(self) -> bool:
        """Return True for a shape that appears after the clip has begun."""
        return self.first_frame > 0


@dataclass(frozen=True)
class Scene:
    """The things of one clip, a later one last, over a dark background."""

    things: tuple[Figure, ...]
    background: int

    @property
    def signature(self) -> str:
        """Return the facts as one line: shape, colour, motion and order of every figure."""
        facts = sorted(
            f"{figure.colour} {figure.shape} {figure.motion} {int(figure.late)}"
            for figure in self.things
        )
        return "; ".join(facts)

    def find(self, shape: str) -> Figure | None:
        """Return the figure of this shape; a scene never holds two of one shape."""
        return next((figure for figure in self.things if figure.shape == shape), None)


def part_of(scene: Scene) -> SplitName:
    """Return the part a scene belongs to, decided by its signature alone, whatever the seed."""
    bucket = hashlib.sha256(scene.signature.encode()).digest()[0] % 8
    return "heldout" if bucket == 0 else "train" if bucket == 1 else "pretrain"


def draw_scene(rng: random.Random, *, part: SplitName | None = None) -> Scene:
    """Return a random scene, drawn again until it falls in `part` if one is given."""
    while True:
        scene = _draw(rng)
        if part is None or part_of(scene) == part:
            return scene


def _draw(rng: random.Random) -> Scene:
    count = rng.choices((1, 2, 3), weights=(2, 5, 3))[0]
    shapes, quadrants = rng.sample(SHAPES, count), rng.sample(range(4), count)
    late = count > 1 and rng.random() < 0.5
    figures = tuple(
        Figure(
            shape=shape,
            colour=rng.choice(COLOURS),
            motion=rng.choice(MOTIONS),
            first_frame=rng.randint(6, 8) if late and index == count - 1 else 0,
            quadrant=quadrant,
            radius=rng.uniform(6.0, 7.2),
        )
        for index, (shape, quadrant) in enumerate(zip(shapes, quadrants, strict=True))
    )
    return Scene(things=figures, background=rng.randint(8, 40))
