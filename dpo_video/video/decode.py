"""Decode chosen frames of a video file exactly, with PyAV, or with decord where it is known to be
exact.

F frames, H height, W width in pixels.
"""

import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from numpy.typing import NDArray

from dpo_video.core.errors import UserError
from dpo_video.video.frames import VideoError
from dpo_video.video.probe import SKIPS_FRAMES, VideoIndex, open_video

SizeOf = Callable[[int, int], tuple[int, int]]
"""A SizeRule for a number of frames that is known: from height and width to height and width."""
MAX_SLANT = 0.0175
"""Part of a quarter turn's sine by which a display matrix may miss it: one degree, as in FFmpeg."""


def decode_pyav(
    video: VideoIndex,
    indices: list[int],
    *,
    deadline: float,
    max_bytes: int = sys.maxsize,
    size_of: SizeOf | None = None,
) -> NDArray[np.uint8]:
    """Return the frames at `indices` of a file as (F, H, W, 3) uint8 RGB, upright.

    Each frame is known by its timestamp, not by counting, unless the file has none
    (`VideoIndex.counted`). From the keyframe before it, frames that no other frame needs are left
    undecoded. Where seeking does not bring up every frame (no timestamps, a damaged index), the
    file is decoded from its beginning. A damaged frame anywhere on the way is VideoError `corrupt`:
    decoders paint over damage without marking every frame that carries it. VP8, VP9 and AV1 streams
    do not even mark the first: flipped bits there show in the frames, as some do in any codec.
    `max_bytes` of pixels are the most that is held, before `size_of` makes frames smaller.
    """
    targets = {int(video.pts[index]) for index in indices}
    collector = _FrameCollector(video, deadline, max_bytes, size_of)
    with _second_try(), open_video(video.path) as (file, stream):
        _by_seeking(collector, file, stream, set(targets))
    if targets - collector.frames.keys() or collector.damaged:
        collector = _FrameCollector(video, deadline, max_bytes, size_of)
        with open_video(video.path) as (file, stream):
            _from_start(collector, file, stream, set(targets))
    if collector.damaged:
        raise VideoError("corrupt", video.path, f"{collector.damaged} decoded frames are damaged")
    if len(collector.sizes) > 1:
        pixels = " and ".join(sorted(f"{width}x{height}" for width, height in collector.sizes))
        raise VideoError("corrupt", video.path, f"its frames are of different sizes: {pixels}")
    return _stack([int(video.pts[index]) for index in indices], collector.frames)


def _stack(order: list[int], frames: dict[int, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return frames by name as one array, in an order in which a frame may stand twice.

    Each is let go once it is copied: `np.stack` would hold all of them a second time.
    """
    last_use = {name: position for position, name in enumerate(order)}
    pixels = np.empty((len(order), *frames[order[0]].shape), np.uint8)
    for position, name in enumerate(order):
        pixels[position] = frames[name] if last_use[name] > position else frames.pop(name)
    return pixels


def too_large(path: Path, num_bytes: int, max_bytes: int) -> VideoError:
    """Return the VideoError for more pixels than a clip may take."""
    return VideoError(
        "too_large",
        path,
        f"its frames take {num_bytes / (1 << 30):.3g} GiB or more, and video.max_clip_gb allows "
        f"{max_bytes / (1 << 30):.3g}: take fewer frames (video.num_frames, video.max_frames), "
        f"make "
        "the video smaller, or raise it",
    )


@contextmanager
def _second_try() -> Iterator[None]:
    """Let a file that decodes only from its beginning have its second try."""
    try:
        yield
    except VideoError as error:
        if error.code != "corrupt":
            raise


@dataclass(slots=True)
class _FrameCollector:
    """Frames found so far, by timestamp, how many decoded frames were damaged, and how many were
    seen.
    """

    video: VideoIndex
    deadline: float
    max_bytes: int
    size_of: SizeOf | None = None
    frames: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    """Widths and heights of the frames as they are stored."""
    num_bytes: int = 0
    damaged: int = 0
    num_decoded: int = 0

    def take(self, frames: Iterable[VideoFrame], pending: set[int], *, since: int) -> None:
        """Keep those of `frames` that are in `pending`, and drop them from it."""
        if time.monotonic() > self.deadline:
            raise VideoError("timeout", self.video.path, "decoding took too long")
        for frame in frames:
            name = self.num_decoded if self.video.counted else frame.pts
            self.num_decoded += 1
            if name is None or name < since:
                continue
            self.damaged += frame.is_corrupt
            if name in pending:
                pending.discard(name)
                # a stream may grow in the middle: the header's size says nothing of it
                self.num_bytes += 3 * frame.width * frame.height
                if self.num_bytes > self.max_bytes:
                    raise too_large(self.video.path, self.num_bytes, self.max_bytes)
                self.sizes.add((frame.width, frame.height))
                self.frames[name] = upright(frame, self.video.path, self.size_of)


def _by_seeking(
    collector: _FrameCollector, file: InputContainer, stream: VideoStream, pending: set[int]
) -> None:
    """Seek to the keyframe before the first frame in `pending`, decode until all up to the next
    keyframe came, repeat.
    """
    keys = collector.video.keys
    decoder = stream.codec_context
    skips = collector.video.codec in SKIPS_FRAMES
    while pending:
        position = int(np.searchsorted(keys, min(pending), side="right"))
        if position == 0:
            return
        key = int(keys[position - 1])
        group = {pts for pts in pending if position == len(keys) or pts < keys[position]}
        pending -= group
        file.seek(key, stream=stream, backward=True)
        for packet in file.demux(stream):
            if skips:
                decoder.skip_frame = (
                    "DEFAULT" if packet.pts is None or packet.pts in group else "NONREF"
                )
            # frames before the keyframe lean on frames that were not decoded: they come out
            # damaged, and are not ours
            collector.take(packet.decode(), group, since=key)
            if not group:
                break
        if group:
            return


def _from_start(
    collector: _FrameCollector, file: InputContainer, stream: VideoStream, pending: set[int]
) -> None:
    for packet in file.demux(stream):
        collector.take(packet.decode(), pending, since=int(collector.video.pts[0]))
        if not pending:
            return
    raise VideoError(
        "corrupt",
        collector.video.path,
        f"only {collector.num_decoded} of its {len(collector.video.pts)} frames can be decoded",
    )


def upright(frame: VideoFrame, path: Path, size_of: SizeOf | None = None) -> NDArray[np.uint8]:
    """Return a frame as (H, W, 3) uint8 RGB, turned and mirrored as its display matrix says, which
    is as `ffmpeg -i` shows it; of the height and width that `size_of` gives for its own.
    """
    swap, flip_x, flip_y = _orientation(frame, path)
    height, width = (frame.width, frame.height) if swap else (frame.height, frame.width)
    size = (height, width) if size_of is None else size_of(height, width)
    if size != (height, width):
        stored = size[::-1] if swap else size
        frame = frame.reformat(
            width=stored[1],
            height=stored[0],
            format="rgb24",
            interpolation=Interpolation.BICUBIC,
        )
    pixels = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    if swap:
        pixels = pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def scaled(pixels: NDArray[np.uint8], size_of: SizeOf) -> NDArray[np.uint8]:
    """Return frames (F, H, W, 3) at the size that `size_of` gives for theirs, by FFmpeg's bicubic
    scaler.
    """
    height, width = size_of(*pixels.shape[1:3])
    if (height, width) == pixels.shape[1:3]:
        return pixels
    small = np.empty((len(pixels), height, width, 3), np.uint8)
    for position, frame in enumerate(pixels):
        picture = VideoFrame.from_ndarray(frame, format="rgb24")
        small[position] = picture.reformat(
            width=width, height=height, interpolation=Interpolation.BICUBIC
        ).to_ndarray()
    return small


def _orientation(frame: VideoFrame, path: Path) -> tuple[bool, bool, bool]:
    """Return whether a frame is to be shown with x and y swapped, and then mirrored left to right
    and upside down.

    A display matrix (a b u, c d v, x y w; ISO/IEC 14496-12) shows the pixel (x, y) at
    (ax + cy, bx + dy). Raises VideoError `rotated` for an angle that is no quarter turn.
    """
    side_data: Any = frame.side_data  # PyAV's stubs call it a dictionary of strings
    matrix = side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    if not any((a, b, c, d)):  # players take it for none
        return False, False, False
    straight, turned = min(abs(a), abs(d)), min(abs(b), abs(c))
    slant = max(abs(b), abs(c)) if straight > turned else max(abs(a), abs(d))
    if slant > MAX_SLANT * max(straight, turned):
        raise VideoError(
            "rotated",
            path,
            "its display matrix turns it by an angle that is no quarter turn: turn its pixels "
            "instead, or take the matrix out",
        )
    if straight > turned:
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def mirrors(video: VideoIndex) -> bool:
    """Return whether a file's first frame is shown mirrored; raise VideoError for an odd angle."""
    with open_video(video.path) as (file, stream):
        for frame in file.decode(stream):
            swap, flip_x, flip_y = _orientation(frame, video.path)
            return swap ^ flip_x ^ flip_y
    return False


def decode_decord(video: VideoIndex, indices: list[int]) -> NDArray[np.uint8] | str:
    """Return the frames at `indices` as (F, H, W, 3) uint8 RGB, upright, or the reason why decord
    cannot be used.

    decord does not report damage inside a file, and it is stopped only by killing its process.
    """
    try:
        import decord
    except ImportError as error:
        raise UserError(
            "video.backend=decord needs decord: pip install 'dpo-video[decord]' (Linux x86-64 and "
            "Windows "
            f"only), or use video.backend=pyav ({error})"
        ) from error
    if video.decord_refusal is not None:
        return video.decord_refusal
    if mirrors(video):
        return "it is shown mirrored"
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(
            str(video.path), num_threads=1
        )  # 0, its default, fails on every VP9 file
        if len(reader) != len(video.pts):
            return f"it counts {len(reader)} frames, the file has {len(video.pts)}"
        pixels: NDArray[np.uint8] = reader.get_batch(indices).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        return f"it failed ({str(error).strip().splitlines()[-1][:120]})"
    return pixels
