"""The sound of a clip beside its frames: mono samples of the same part of the file.

S samples of sound, C channels.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from numpy.typing import NDArray

from dpo_video.video.frames import SoundFormat, VideoError
from dpo_video.video.probe import BROKEN, VideoIndex, open_video

GAP = 0.1
"""Seconds by which the times of two frames of sound may miss each other: containers round them."""
SHORTEST = 0.1
"""Seconds of sound below which there is none: no encoder makes a feature of it."""


@dataclass(frozen=True, slots=True, eq=False)
class ClipSound:
    """The sound of a clip."""

    samples: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    """(S,) from -1 to 1; none where the clip has no sound."""
    note: str = ""
    """What is not heard of it, and why."""


def read_sound(
    video: VideoIndex,
    form: SoundFormat,
    *,
    begin: float,
    seconds: float,
    deadline: float,
    max_bytes: int = sys.maxsize,
) -> ClipSound:
    """Return the sound of a part of a file: the mean of the channels, as librosa's `to_mono`.

    Each frame of sound stands where its time says; between them, and before the first, there is
    silence. After the last there is nothing, though frames go on. A damaged track costs its damaged
    parts, told in the note, and not the clip.

    Args:
        begin: seconds from the first frame of the film to where the clip begins.
        seconds: that the clip lasts.
        deadline: `time.monotonic()` at which to give up with VideoError `timeout`.
        max_bytes: VideoError `too_large` where the samples take more.
    """
    wanted = seconds if form.max_seconds is None else min(seconds, form.max_seconds)
    with open_video(video.path) as (file, stream):
        track = file.streams.best("audio")
        if not isinstance(track, AudioStream):
            return ClipSound()
        if track.codec_context is None:
            return ClipSound(note="no decoder for its sound, which is left out")
        if 4 * wanted * form.rate > max_bytes:
            raise VideoError(
                "too_large",
                video.path,
                f"{wanted:.6g} s of sound take {4 * wanted * form.rate / (1 << 30):.3g} GiB beside "
                "its frames, more than is left of video.max_clip_gb: set `start` and `end` of a "
                "part of it, set video.sound to false, or raise the limit",
            )
        origin = (
            float((stream.start_time or 0) * (stream.time_base or 1))
            if video.counted
            else float(video.pts[0] * video.time_base)
        )
        line = _TimeLine(rate=form.rate, samples=np.zeros(round(wanted * form.rate), np.float32))
        reader = _Reader(file, track, video, deadline)
        goes_on = _fill(line, reader, origin + begin)
    notes = [reader.told(heard=line.heard > 0)]
    if line.heard < SHORTEST * form.rate:
        notes.append(f"its sound is shorter than {SHORTEST:g} s and left out" * (line.heard > 0))
        return ClipSound(note="; ".join(filter(None, notes)))
    if goes_on and wanted < seconds:
        notes.append(f"its sound after {wanted:g} s is left out")
    return ClipSound(line.samples[: line.heard], "; ".join(filter(None, notes)))


def _fill(line: "_TimeLine", reader: "_Reader", origin: float) -> bool:
    """Put the sound from `origin` on, in seconds of the file's clock, on a line; return whether
    there is more than it holds.
    """
    for frame in reader.frames(origin):
        line.add(frame, None if frame.time is None else frame.time - origin)
        if line.is_full:
            return True
    line.end_segment()
    return line.is_full


@dataclass(slots=True)
class _TimeLine:
    """Samples at their places, resampled stretch by stretch: a stretch has no gap and one form."""

    rate: int
    samples: NDArray[np.float32]
    heard: int = 0
    """Samples up to the end of the last frame that has any here."""
    _position: float = 0.0
    """Seconds at which the next frame of the stretch is due."""
    _written: int = 0
    _form: tuple[Any, ...] | None = None
    _resampler: AudioResampler | None = None

    @property
    def is_full(self) -> bool:
        return self._written >= len(self.samples)

    def add(self, frame: AudioFrame, begin: float | None) -> None:
        """Take a frame that begins at some second; None is right after the one before."""
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        begin = self._position if begin is None else begin
        if form != self._form or abs(begin - self._position) > GAP:
            self.end_segment()
            self._form, self._position, self._written = form, begin, round(begin * self.rate)
            # packed: PyAV 18 reads past the 8 planes that a frame has room for
            self._resampler = AudioResampler("flt", frame.layout, self.rate)
        self._position += frame.samples / frame.sample_rate
        self._write(frame)

    def end_segment(self) -> None:
        """Write what the resampler holds back."""
        if self._resampler is not None:
            self._write(None)
        self._resampler = None

    def _write(self, frame: AudioFrame | None) -> None:
        assert self._resampler is not None, "a stretch was begun"
        for part in self._resampler.resample(frame):
            channels = part.to_ndarray().reshape(-1, part.layout.nb_channels)  # of (samples, C)
            # what floats hold beyond full scale is damage, or clipped by what others listen with
            mono = np.nan_to_num(channels, nan=0.0).clip(-1, 1).mean(axis=1)
            begin = self._written
            self._written += len(mono)
            kept = mono[max(-begin, 0) : max(len(self.samples) - begin, 0)]
            place = max(begin, 0)
            if len(kept):
                self.samples[place : place + len(kept)] = kept
                self.heard = max(self.heard, place + len(kept))


def _is_before(packet: Packet, second: float) -> bool:
    """Return whether a packet stands before a second of the file's clock: the first one after a
    search may begin in the middle of a frame.
    """
    stamp = packet.dts if packet.pts is None else packet.pts
    return stamp is not None and stamp * float(packet.time_base or 1) < second


class _Reader:
    """Decodes a track, and counts what is damaged in it."""

    def __init__(
        self, file: InputContainer, track: AudioStream, video: VideoIndex, deadline: float
    ) -> None:
        self._file, self._track, self._video, self._deadline = file, track, video, deadline
        num_tracks = len(file.streams.audio)
        self._which = (
            f"{num_tracks} tracks of sound in it; number {track.index} is read"
            if num_tracks > 1
            else ""
        )
        self._damaged = 0

    def frames(self, origin: float) -> Iterator[AudioFrame]:
        """Yield the frames of sound from a second of the file's clock on, and perhaps some before
        it.
        """
        if origin > 1:
            try:
                place = int((origin - 1) / float(self._track.time_base or 1))
                self._file.seek(place, stream=self._track, backward=True)
            except BROKEN:  # a file that cannot be searched is read from its beginning
                pass
        for packet in self._file.demux(self._track):
            if time.monotonic() > self._deadline:
                raise VideoError("timeout", self._video.path, "decoding its sound took too long")
            try:
                decoded = packet.decode()
            except BROKEN:
                self._damaged += not _is_before(packet, origin)
                continue
            for frame in decoded:
                if isinstance(frame, AudioFrame):
                    yield frame

    def told(self, *, heard: bool) -> str:
        """Return what a reader should know of the track; empty for nothing."""
        notes = [self._which]
        if self._damaged and heard:
            notes.append(f"{self._damaged} packets of its sound are damaged, and silent here")
        elif self._damaged:
            notes.append("its sound cannot be decoded, and is left out")
        return "; ".join(filter(None, notes))
