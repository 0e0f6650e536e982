"""Decode chosen frames of a video file exactly, with PyAV, or with decord where it is known to be
exact.

F frames, H height, W width in pixels.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from dpo_video.core.errors import UserError
from dpo_video.video.frames import VideoError
from dpo_video.video.probe import SKIPS_FRAMES, Info, open_video


def decode_pyav(info: Info, indices: list[int], *, deadline: float) -> NDArray[np.uint8]:
    """Return the frames at `indices` of a file as (F, H, W, 3) uint8 RGB, upright.

    Each frame is known by its timestamp, not by counting, unless the file has none
    (`Info.counted`). From the keyframe before it, frames that no other frame needs are left
    undecoded. Where seeking does not bring up every frame (no timestamps, a damaged index), the
    file is decoded from its beginning. A damaged frame anywhere on the way is VideoError `corrupt`:
    decoders paint over damage without marking every frame that carries it. VP8, VP9 and AV1 streams
    do not even mark the first: flipped bits there show.
    """
    wanted = {int(info.pts[index]) for index in indices}
    picked = _Picked(info, deadline)
    with _second_try(), open_video(info.path) as (file, stream):
        _by_seeking(picked, file, stream, set(wanted))
    if wanted - picked.frames.keys() or picked.damaged:
        picked = _Picked(info, deadline)
        with open_video(info.path) as (file, stream):
            _from_start(picked, file, stream, set(wanted))
    if picked.damaged:
        raise VideoError("corrupt", info.path, f"{picked.damaged} decoded frames are damaged")
    frames = [picked.frames[int(info.pts[index])] for index in indices]
    if len(sizes := {frame.shape for frame in frames}) > 1:
        pixels = " and ".join(sorted(f"{width}x{height}" for height, width, _ in sizes))
        raise VideoError("corrupt", info.path, f"its frames are of different sizes: {pixels}")
    return np.stack(frames)


@contextmanager
def _second_try() -> Iterator[None]:
    """Let a file that decodes only from its beginning have its second try."""
    try:
        yield
    except VideoError as error:
        if error.code != "corrupt":
            raise


@dataclass(slots=True)
class _Picked:
    """Frames found so far, by timestamp, how many decoded frames were damaged, and how many were
    seen.
    """

    info: Info
    deadline: float
    frames: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    damaged: int = 0
    seen: int = 0

    def take(self, frames: Iterable[VideoFrame], left: set[int], *, since: int) -> None:
        """Keep those of `frames` that are in `left`, and drop them from it."""
        if time.monotonic() > self.deadline:
            raise VideoError("timeout", self.info.path, "decoding took too long")
        for frame in frames:
            name = self.seen if self.info.counted else frame.pts
            self.seen += 1
            if name is None or name < since:
                continue
            self.damaged += frame.is_corrupt
            if name in left:
                left.discard(name)
                self.frames[name] = _upright(frame)


def _by_seeking(picked: _Picked, file: InputContainer, stream: VideoStream, left: set[int]) -> None:
    """Seek to the keyframe before the first frame in `left`, decode until all up to the next
    keyframe came, repeat.
    """
    keys = picked.info.keys
    decoder = stream.codec_context
    skips = picked.info.codec in SKIPS_FRAMES
    while left:
        position = int(np.searchsorted(keys, min(left), side="right"))
        if position == 0:
            return
        key = int(keys[position - 1])
        group = {pts for pts in left if position == len(keys) or pts < keys[position]}
        left -= group
        file.seek(key, stream=stream, backward=True)
        for packet in file.demux(stream):
            if skips:
                decoder.skip_frame = (
                    "DEFAULT" if packet.pts is None or packet.pts in group else "NONREF"
                )
            # frames before the keyframe lean on frames that were not decoded: they come out
            # damaged, and are not ours
            picked.take(packet.decode(), group, since=key)
            if not group:
                break
        if group:
            return


def _from_start(picked: _Picked, file: InputContainer, stream: VideoStream, left: set[int]) -> None:
    for packet in file.demux(stream):
        picked.take(packet.decode(), left, since=int(picked.info.pts[0]))
        if not left:
            return
    raise VideoError(
        "corrupt",
        picked.info.path,
        f"only {picked.seen} of its {len(picked.info.pts)} frames can be decoded",
    )


def _upright(frame: VideoFrame) -> NDArray[np.uint8]:
    """Return a frame as (H, W, 3) uint8 RGB, turned as its display matrix says."""
    pixels = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90))


def decode_decord(info: Info, indices: list[int]) -> NDArray[np.uint8] | str:
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
    if info.decord_refusal is not None:
        return info.decord_refusal
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(
            str(info.path), num_threads=1
        )  # 0, its default, fails on every VP9 file
        if len(reader) != len(info.pts):
            return f"it counts {len(reader)} frames, the file has {len(info.pts)}"
        pixels: NDArray[np.uint8] = reader.get_batch(indices).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        return f"it failed ({str(error).strip().splitlines()[-1][:120]})"
    return pixels
