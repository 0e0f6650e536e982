"""Clips that are pictures on disk: a folder of image files, a list of them, or one animated file.

F frames, H height, W width in pixels.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dpo_video.video.container import check_regular
from dpo_video.video.frames import VideoError

SUFFIXES = (".apng", ".bmp", ".jpeg", ".jpg", ".png", ".webp")
FRAMES_PER_SECOND = 2.0
"""Frame files carry no time. They are taken to be half a second apart, as LLaVA-Hound's were
extracted (fps=2).
"""


SHORTEST_MS, DEFAULT_MS = 10, 100
"""A picture of an animation that is to stand for 10 ms or less stands for 100, as in browsers."""
ANIMATED = ("GIF", "PNG", "WEBP")
"""Pillow's names of the formats of which a file may hold an animation."""
UNREADABLE = (
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
)
"""What Pillow's decoders raise on damaged files."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pictures:
    """The frames of a clip that is pictures, known but not decoded."""

    path: Path
    """The folder, or the file."""
    files: list[Path]
    """(F,) the file of each frame: the same for all frames of an animated one."""
    animated: bool
    times: NDArray[np.float64]
    """(F,) seconds of the frames."""
    fps: float
    """Frames per second, the mean rate where it varies."""
    width: int
    """Pixels of the first picture as it is stored, before its EXIF orientation turns it."""
    height: int
    note: str | None = None
    """What was ignored."""


def is_image(path: Path) -> bool:
    """Return whether a path is named like an image; files that begin with a dot are not."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def find_pictures(video: Path | Sequence[Path]) -> Pictures:
    """Return the frames of a folder in natural order (2 before 10), of a list, or of an image file,
    which may be animated.
    """
    if isinstance(video, Path) and is_image(video) and not video.is_dir():
        return _image_file(video)
    files, note = _frame_files(video)
    with open_image(files[0]) as image:
        width, height = image.size
    return Pictures(
        path=video if isinstance(video, Path) else files[0].parent,
        files=files,
        animated=False,
        times=np.arange(len(files)) / FRAMES_PER_SECOND,
        fps=FRAMES_PER_SECOND,
        width=width,
        height=height,
        note=note,
    )


def _image_file(path: Path) -> Pictures:
    check_regular(path)
    with open_image(path) as image:
        width, height = image.size
        # a photo of two lenses (MPO) has several pictures, too, and is no animation
        count = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
        indices = range(_first_picture(image), count) if count > 1 else range(0)
        durations = [_milliseconds(image, index) for index in indices]
    seconds = np.array(durations) / 1000 if durations else np.array([1 / FRAMES_PER_SECOND])
    return Pictures(
        path=path,
        files=[path] * len(seconds),
        animated=count > 1,
        times=np.cumsum(seconds) - seconds,
        fps=len(seconds) / float(seconds.sum()),
        width=width,
        height=height,
    )


def _first_picture(image: Image.Image) -> int:
    """Return where an animation begins: a PNG may show another picture where none can be played."""
    return int(getattr(image, "default_image", False))


def _milliseconds(image: Image.Image, index: int) -> float:
    """Return how long one picture of an animation stands."""
    image.seek(index)
    image.load()  # WebP tells the duration with the pixels
    duration = float(image.info.get("duration", 0))
    return duration if duration > SHORTEST_MS else DEFAULT_MS


def _frame_files(video: Path | Sequence[Path]) -> tuple[list[Path], str | None]:
    """Return the frame files of a folder in natural order, or of a list, and what was ignored."""
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


def decode_pictures(pictures: Pictures, positions: list[int]) -> NDArray[np.uint8]:
    """Return the frames at some positions as (F, H, W, 3) uint8 RGB: turned as their EXIF
    orientation says, what is transparent on white, 16 bits a channel scaled to 8.
    """
    pixels: NDArray[np.uint8] | None = None
    # in the order of the file: a picture of an animation is drawn over those before it
    for row in sorted(range(len(positions)), key=positions.__getitem__):
        frame = _decode_picture(pictures, positions[row])
        if pixels is None:
            pixels = np.empty((len(positions), *frame.shape), np.uint8)
        if frame.shape != pixels.shape[1:]:
            raise _other_size(pictures, positions[row], frame.shape[1], frame.shape[0])
        pixels[row] = frame
    assert pixels is not None, "no positions"
    return pixels


def _decode_picture(pictures: Pictures, position: int) -> NDArray[np.uint8]:
    with open_image(pictures.files[position]) as image:
        # told before it is decoded: it may be a thousand times as large
        if image.width * image.height != pictures.width * pictures.height:
            raise _other_size(pictures, position, image.width, image.height)
        if pictures.animated:
            image.seek(position + _first_picture(image))
        return _rgb(image)


def _other_size(pictures: Pictures, position: int, width: int, height: int) -> VideoError:
    return VideoError(
        "corrupt",
        pictures.files[position],
        f"a frame of {width}x{height} pixels in a clip that begins with "
        f"{pictures.width}x{pictures.height}",
    )


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file; what Pillow raises inside becomes VideoError."""
    try:
        with Image.open(path) as image:
            yield image
    except UNREADABLE as error:
        if isinstance(error, VideoError):
            raise
        check_regular(path)
        raise VideoError("corrupt", path, f"an unreadable image: {error}") from error


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Return an image as (H, W, 3) uint8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off above 255
        grey = np.asarray(image).clip(0, 65535).astype(np.uint32)
        return np.repeat(((grey * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))
