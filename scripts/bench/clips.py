"""Clips that benches write: moving noise, coarse enough to be compressed as films are."""

from pathlib import Path

import av
import numpy as np

TILE = 40
"""Pixels of a side of one tile of a colour."""


def write_clip(path: Path, *, seed: int, frames: int, rate: int, width: int, height: int) -> None:
    """Write an H.264 file of `frames` pictures, `rate` a second."""
    draw = np.random.default_rng(seed)
    tile = np.kron(
        draw.integers(0, 256, (height // TILE + 1, width // TILE + 1, 3), dtype=np.uint8),
        np.ones((TILE, TILE, 1), dtype=np.uint8),
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            image = np.roll(tile, 2 * number, axis=1)[:height, :width]
            for packet in stream.encode(
                av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            ):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
