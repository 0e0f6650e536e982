"""Clips that are frames on disk: a folder of image files, or a list of them.

F frames, H height, W width in pixels.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dpo_video.video.container import check_regular
from dpo_video.video.frames import VideoError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
FRAMES_PER_SECOND = 2.0
"""Frame files carry no time. They are taken to be half a second apart, as LLaVA-Hound's were
extracted (fps=2).
"""


def is_image(path: Path) -> bool:
    """Return whether a path is named like an image; files that begin with a dot are not."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def find_frames(video: Path | Sequence[Path]) -> tuple[list[Path], str | None]:
    """Return the frame files of a folder in natural order (2 before 10), or of a list, and what was
    ignored.
    """
    if not isinstance(video, Path):
        files = list(video)
        if not files:
            raise VideoError("empty", "", "an empty list of frame files")
        for path in files:
            check_regular(path)
        return files, None
    try:
        entries = list(video.iterdir())
    except OSError as error:
        raise VideoError("not_found", video, str(error)) from error
    files = sorted((path for path in entries if is_image(path)), key=natural_key)
    if not files:
        raise VideoError("not_a_video", video, f"a folder without frames ({', '.join(SUFFIXES)})")
    num_ignored = len(entries) - len(files)
    return files, f"{num_ignored} entries of the folder are not frames" if num_ignored else None


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Return a sort key by which numbers in a file name count as numbers."""
    runs = re.split(r"(\d+)", path.name)
    return [(int(run), "") if run.isdigit() else (-1, run) for run in runs] + [(-1, path.name)]


def frame_times(count: int) -> NDArray[np.float64]:
    """Return the assumed times of `count` frame files in seconds."""
    return np.arange(count) / FRAMES_PER_SECOND


def decode_images(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Return image files of one size as (F, H, W, 3) uint8 RGB, turned as their EXIF orientation
    says.
    """
    frames = [_decode_image(path) for path in paths]
    for path, frame in zip(paths, frames, strict=True):
        if frame.shape != frames[0].shape:
            size, first = (
                "x".join(map(str, shape[1::-1])) for shape in (frame.shape, frames[0].shape)
            )
            raise VideoError(
                "corrupt", path, f"a frame of {size} pixels in a clip that begins with {first}"
            )
    return np.stack(frames)


def _decode_image(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    # what Pillow's decoders raise on damaged files
    except (
        OSError,
        ValueError,
        SyntaxError,
        ArithmeticError,
        LookupError,
        TypeError,
        MemoryError,
        EOFError,
        NotImplementedError,
        Image.DecompressionBombError,
    ) as error:
        check_regular(path)
        raise VideoError("corrupt", path, f"an unreadable image: {error}") from error
