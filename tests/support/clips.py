"""Real clips for the tests, written with PyAV: each frame carries the number it was drawn as.

F frames, H height, W width in pixels.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.stream import Disposition
from numpy.typing import NDArray

BLOCK = 8
"""Side of a bar in pixels: a transform block, so that it survives strong compression."""
BITS = 16
SOUND_RATE = 8000
"""Samples per second."""
SIZE = (160, 64)
"""Width and height; at least 128 x 16 for the barcode."""


def draw_frame(number: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """Return frame `number` of an endless test film as (H, W, 3) uint8: a moving texture with cuts,
    a barcode on top.

    The barcode is 16 bars for the bits of the number, most significant first, and below them the
    inverted bits.
    """
    texture = _texture(number // 60, size)
    luma = np.roll(texture, number % 60 * 3, axis=1)
    luma[: 2 * BLOCK, : BITS * BLOCK] = np.kron(_bars(number), np.ones((BLOCK, BLOCK), np.uint8))
    return np.repeat(luma[..., None], 3, axis=2)


@lru_cache(maxsize=8)
def _texture(scene: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    y, x = np.mgrid[: size[1], : size[0]]
    noise = np.random.default_rng(scene)
    waves = np.sum(
        [np.sin(x * a + y * b + c) for a, b, c in noise.uniform(0.02, 0.3, (4, 3))], axis=0
    )
    return np.clip(128 + 25 * waves + noise.normal(0, 6, waves.shape), 20, 235).astype(np.uint8)


def _bars(number: int) -> NDArray[np.uint8]:
    bits = np.array([number >> (BITS - 1 - place) & 1 for place in range(BITS)])
    return np.where([bits, 1 - bits], 235, 20).astype(np.uint8)


def read_number(pixels: NDArray[np.uint8]) -> int | None:
    """Return the number that an upright frame (H, W, 3) carries; None where the bars contradict
    each other.
    """
    code = (
        pixels[: 2 * BLOCK, : BITS * BLOCK]
        .mean(axis=2)
        .reshape(2, BLOCK, BITS, BLOCK)
        .mean(axis=(1, 3))
    )
    upper, lower = code > 128
    if (upper == lower).any():
        return None
    return int("".join("1" if bit else "0" for bit in upper), 2)


def write_clip(
    path: Path,
    frames: int,
    *,
    codec: str = "libx264",
    size: tuple[int, int] = SIZE,
    rate: Fraction | int = 25,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    ticks: Sequence[int] | None = None,
    rotation: int = 0,
    sound: float = 0.0,
    pixels: Iterable[NDArray[np.uint8]] | None = None,
) -> Path:
    """Write a clip of `frames` numbered frames and return its path.

    Args:
        path: its suffix names the container.
        frames: how many.
        codec: an encoder of PyAV's bundle.
        size: width and height.
        rate: frames per second.
        pix_fmt: pixel format of the encoder.
        options: of the encoder.
        muxer: options of the container.
        ticks: times of the frames in 1/90000 s, for a varying rate.
        rotation: degrees of the display matrix.
        sound: seconds of a tone beside the frames.
        pixels: other frames than the numbered ones, (H, W, 3) uint8 each.
    """
    with av.open(str(path), "w", options=muxer or {}) as file:
        stream = file.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.thread_count = 1
        base = 1 / Fraction(rate) if ticks is None else Fraction(1, 90_000)
        stream.time_base = stream.codec_context.time_base = base
        if rotation:
            stream.set_display_rotation(rotation)
        tone = file.add_stream("aac", rate=SOUND_RATE, layout="mono") if sound else None
        for number, image in enumerate(
            pixels or (draw_frame(number, size) for number in range(frames))
        ):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (number if ticks is None else ticks[number]), base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
        if tone is not None:
            _write_tone(file, tone, sound)
    return path


def write_audio(path: Path, *, cover: NDArray[np.uint8] | None = None) -> Path:
    """Write two seconds of a tone as AAC, with a cover picture or without."""
    with av.open(str(path), "w") as file:
        tone = file.add_stream("aac", rate=SOUND_RATE, layout="mono")
        if cover is not None:
            picture = file.add_stream("mjpeg", rate=1)
            picture.height, picture.width = cover.shape[:2]
            picture.pix_fmt = "yuvj420p"
            picture.disposition = Disposition.attached_pic
            file.mux(picture.encode(av.VideoFrame.from_ndarray(cover, format="rgb24")))
            file.mux(picture.encode())
        _write_tone(file, tone, 2.0)
    return path


def _write_tone(file: OutputContainer, stream: AudioStream, seconds: float) -> None:
    for begin in range(0, int(seconds * SOUND_RATE), 1024):
        wave = np.sin(2 * np.pi * 440 / SOUND_RATE * np.arange(begin, begin + 1024)).astype(
            np.float32
        )
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = SOUND_RATE, begin
        file.mux(stream.encode(frame))
    file.mux(stream.encode())


def copy_part(
    source: Path, target: Path, *, start: float, muxer: dict[str, str] | None = None
) -> Path:
    """Copy the packets from the keyframe before `start` (seconds) on, shown from `start`: MP4 gets
    an edit list.
    """
    with av.open(str(source)) as old, av.open(str(target), "w", options=muxer or {}) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        offset = round(start / stream.time_base)
        old.seek(offset, stream=stream)
        for packet in old.demux(stream):
            if packet.dts is None:
                continue
            packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
            packet.stream = copy
            new.mux(packet)
    return target


def decode_all(path: Path) -> tuple[NDArray[np.uint8], list[float]]:
    """Return all frames (F, H, W, 3) of a file, turned upright, and their times in seconds: the
    slow obvious way.
    """
    pixels, seconds = [], []
    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            pixels.append(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
            seconds.append(frame.time or 0.0)
    return np.stack(pixels), [second - seconds[0] for second in seconds]
