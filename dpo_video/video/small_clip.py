"""A clip made small for a page: H.264 of at most 360 lines with its sound in AAC, which every
browser plays, a poster, and a strip of frames.

S samples of sound.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from uuid import uuid4

import av
import numpy as np
from av.audio.stream import AudioStream
from numpy.typing import NDArray
from PIL import Image

from dpo_video.video.decode import upright
from dpo_video.video.frames import ClipRequest, SoundFormat, VideoError, evenly_spaced
from dpo_video.video.images import decode_pictures, find_pictures, is_image
from dpo_video.video.jobs import SmallClip, SmallClipSettings
from dpo_video.video.policies import window
from dpo_video.video.probe import VideoIndex, open_video, probe
from dpo_video.video.sound import ClipSound, read_sound

CLOCK = 90_000
"""Units of a second in the files that are written."""
STRIP_FRAMES, STRIP_LINES = 6, 90
SOUND = SoundFormat(rate=32_000)
"""All that a model hears, and some more: people judge what they hear here."""
SOUND_BITS = 64_000
"""Bits a second of the sound that is written."""
WIDEST = 640
"""Pixels across a small clip at most: a panorama is made flatter than its lines allow."""
Picture = tuple[float, NDArray[np.uint8]]
"""Seconds into the file, and pixels (H, W, 3)."""


def write_small_clip(request: ClipRequest, stem: Path, settings: SmallClipSettings) -> SmallClip:
    """Write `<stem>.mp4`, `<stem>.jpg` (the middle frame) and `<stem>-strip.jpg` (six frames side
    by side) and return their facts; raise VideoError with the one reason why not. The film has the
    clip's sound, whether the model of a run hears or not.

    Args:
        request: the clip; what its corruption would do to the frames is not done.
        stem: path of the files without a suffix; its folder is made.
    """
    deadline = time.monotonic() + settings.timeout
    index: VideoIndex | None = None
    video = request.video if isinstance(request.video, Path) else list(request.video)
    if isinstance(video, Path) and not video.is_dir() and not is_image(video):
        index = probe(video, deadline=deadline)
        path, times, fps = video, index.times, index.fps
        positions = _shown_positions(times, request, settings, path)
        pictures = _file_pictures(index, positions, deadline)
    else:
        files = find_pictures(video)
        path, times, fps = files.path, files.times, files.fps
        positions = _shown_positions(times, request, settings, path)
        pictures = (
            (times[position], decode_pictures(files, [position])[0]) for position in positions
        )
    begin, end = positions[0], positions[-1]
    seconds = float(times[end] - times[begin]) + 1 / fps
    sound = ClipSound()
    if index is not None and settings.with_video:
        sound = read_sound(
            index, SOUND, begin=float(times[begin]), seconds=seconds, deadline=deadline
        )
    film = _Film(len(positions), seconds, sound.samples)
    width, height = _write(pictures, stem, film, settings)
    clip_end = window(times, request.start, request.end)[-1]
    is_cut = end < clip_end and times[clip_end] - times[begin] > settings.max_seconds
    notes = (f"the first {settings.max_seconds:g} seconds" if is_cut else "", sound.note)
    return SmallClip(
        seconds=seconds,
        fps=min(fps, settings.max_fps),
        width=width,
        height=height,
        has_sound=len(sound.samples) > 0,
        note="; ".join(filter(None, notes)),
    )


def _shown_positions(
    times: NDArray[np.float64], request: ClipRequest, settings: SmallClipSettings, path: Path
) -> list[int]:
    """Return the positions of the frames to show: those of the part, not faster than `max_fps`."""
    positions = window(times, request.start, request.end)
    if not positions:
        raise VideoError("too_few_frames", path, "no frame in this part of the file")
    begin, step = float(times[positions[0]]), 1 / settings.max_fps
    spaced: list[int] = []
    due = 0.0
    for position in positions:
        since = float(times[position]) - begin
        if since > settings.max_seconds:
            break
        if since >= due - 1e-6:
            spaced.append(position)
            due = since + step
    return spaced


def _file_pictures(index: VideoIndex, positions: list[int], deadline: float) -> Iterator[Picture]:
    """Yield frames of a file in order, decoded once from the keyframe before the first."""
    seconds_of = {int(index.pts[position]): float(index.times[position]) for position in positions}
    first_pts = min(seconds_of)
    with open_video(index.path) as (file, stream):
        keyframes = index.keys[index.keys <= first_pts]
        if not index.counted and len(keyframes):
            file.seek(int(keyframes[-1]), stream=stream, backward=True)
        num_decoded = 0
        for packet in file.demux(stream):
            if time.monotonic() > deadline:
                raise VideoError("timeout", index.path, "making it small took too long")
            for frame in packet.decode():
                pts = num_decoded if index.counted else frame.pts
                num_decoded += 1
                if pts in seconds_of:
                    yield seconds_of.pop(pts), upright(frame, index.path)
            if not seconds_of:
                return


@dataclass(frozen=True, slots=True, eq=False)
class _Film:
    """What is known of a film before its pictures are."""

    num_pictures: int
    seconds: float
    sound: NDArray[np.float32]
    """(S,) at the rate of SOUND."""


def _write(
    pictures: Iterator[Picture], stem: Path, film: _Film, settings: SmallClipSettings
) -> tuple[int, int]:
    """Write the three files from pictures in order; return width and height of the small clip."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    strip_indices = set(evenly_spaced(film.num_pictures, STRIP_FRAMES))
    strip: list[Image.Image] = []
    poster: Image.Image | None = None
    draft = stem.with_name(f".{stem.name}.{uuid4().hex}.mp4")
    encoder = _Encoder(draft, film, settings) if settings.with_video else None
    try:
        for index, (at, pixels) in enumerate(pictures):
            image = _fitted(Image.fromarray(pixels), settings.lines)
            if poster is None or index <= film.num_pictures // 2:
                poster = image
            if index in strip_indices:
                width = max(1, round(image.width * STRIP_LINES / image.height))
                strip.append(image.resize((width, STRIP_LINES)))
            if encoder is not None:
                encoder.add(at, np.asarray(image))
        if encoder is not None:
            encoder.close()
            draft.replace(stem.with_suffix(".mp4"))
    finally:
        if encoder is not None:
            encoder.abandon()
        draft.unlink(missing_ok=True)
    if poster is None:
        raise VideoError("corrupt", stem, "no frame of it can be decoded")
    _save(poster, stem.with_suffix(".jpg"))
    _save(_side_by_side(strip), stem.with_name(f"{stem.name}-strip.jpg"))
    return poster.size


class _Encoder:
    """An H.264 file under way, with AAC where there is sound."""

    def __init__(self, path: Path, film: _Film, settings: SmallClipSettings) -> None:
        self._file = av.open(str(path), mode="w", options={"movflags": "+faststart"})
        bits = settings.max_megabytes * 8_000_000 / max(film.seconds, 1.0)
        self._sound = film.sound
        self._rate = max(60_000, int(bits) - (SOUND_BITS if len(film.sound) else 0))
        self._stream: av.VideoStream | None = None
        self._track: AudioStream | None = None
        self._begin, self._last, self._num_heard = 0.0, -1, 0
        self._is_open = True

    def add(self, at: float, pixels: NDArray[np.uint8]) -> None:
        """Add a frame (H, W, 3) at a time in seconds; the first one is at zero."""
        if self._stream is None:
            self._stream = self._open_stream(pixels.shape[1], pixels.shape[0])
            self._begin = at
            if len(self._sound):
                self._track = self._file.add_stream("aac", rate=SOUND.rate, layout="mono")
                self._track.codec_context.bit_rate = SOUND_BITS
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        self._last = max(self._last + 1, round((at - self._begin) * CLOCK))
        frame.pts, frame.time_base = self._last, Fraction(1, CLOCK)
        self._file.mux(self._stream.encode(frame))
        self._add_sound(round((at - self._begin) * SOUND.rate))

    def _open_stream(self, width: int, height: int) -> av.VideoStream:
        stream = self._file.add_stream("libx264", rate=30)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, CLOCK)
        stream.options = {
            "crf": "26",
            "preset": "veryfast",
            "threads": "1",
            "maxrate": str(self._rate),
            "bufsize": str(self._rate),
            "g": "30",  # seeking on a page is to keyframes, or near them
        }
        return stream

    def _add_sound(self, end: int) -> None:
        """Add the samples up to `end`: beside the frames, so that a player need not search."""
        samples = self._sound[self._num_heard : end]
        if self._track is None or not len(samples):
            return
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = SOUND.rate, Fraction(1, SOUND.rate)
        frame.pts = self._num_heard
        self._file.mux(self._track.encode(frame))
        self._num_heard += len(samples)

    def close(self) -> None:
        """Finish the file."""
        if self._stream is not None:
            self._file.mux(self._stream.encode())
        self._add_sound(len(self._sound))
        if self._track is not None:
            self._file.mux(self._track.encode())
        self.abandon()

    def abandon(self) -> None:
        """Let go of the file as it is."""
        if self._is_open:
            self._is_open = False
            self._file.close()


def _fitted(image: Image.Image, lines: int) -> Image.Image:
    """Return an image of at most so many lines, both sides even, as H.264 wants them."""
    scale = min(1.0, lines / image.height, WIDEST / image.width)
    width, height = (max(2, round(side * scale / 2) * 2) for side in image.size)
    return image if (width, height) == image.size else image.resize((width, height))


def _side_by_side(images: list[Image.Image]) -> Image.Image:
    strip = Image.new("RGB", (sum(image.width for image in images), STRIP_LINES))
    x = 0
    for image in images:
        strip.paste(image, (x, 0))
        x += image.width
    return strip


def _save(image: Image.Image, path: Path) -> None:
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        image.save(draft, format="JPEG", quality=80)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
