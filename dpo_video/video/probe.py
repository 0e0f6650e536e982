"""Index a video file without decoding it: the times of all frames, the keyframes, and whether
decord reads it right.

n frames.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from dpo_video.video.container import broken_clock, check_file, io_error, missing_bytes
from dpo_video.video.frames import VideoError
from dpo_video.video.policies import rate

BROKEN = (
    av.FFmpegError,
    OSError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
)
"""What PyAV 18 raises on damaged files."""
REFUSED_FORMATS = ("hls", "concat", "dash", "sdp", "image2", "tty")
"""Demuxers that name other files, or draw text."""
SKIPS_FRAMES = ("h264", "hevc", "mpeg4")
"""Codecs that mark frames no other frame needs, so that these can be left undecoded."""
UNTIMED = ("avi", "mpeg", "h264", "hevc", "m4v", "mpegvideo", "ivf", "obu")
"""Containers that store no time of display for each frame. FFmpeg guesses it, and with B-frames
guesses wrong: of an H.264 AVI and an MPEG-2 program stream written with B-frames, frames came out
up to 4 places off.
"""
MAX_LOST = 0.1
"""Share of frames whose time is missing or stands twice up to which the others keep theirs."""
DECORD_CONTAINERS = ("mov", "matroska")
DECORD_CODECS = ("h264", "hevc", "vp8", "vp9", "mpeg4")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VideoIndex:
    """What the packets of a video file say."""

    path: Path
    container: str
    """FFmpeg's first name of the demuxer, e.g. `mov` (also MP4), `matroska` (also WebM), `mpegts`.
    """
    codec: str
    width: int
    """Pixels of a frame as it is stored, before its display matrix turns it."""
    height: int
    pts: NDArray[np.int64]
    """(n,) timestamps of the frames to show, ascending, in units of `time_base`."""
    keys: NDArray[np.int64]
    """Timestamps of the keyframes, ascending."""
    counted: bool
    """Whether the file gives its frames no usable times: they are known by counting, and `pts`
    counts them.
    """
    time_base: float
    """Seconds per unit of a timestamp."""
    header_fps: float
    """Frames per second by the header; 0 where it says nothing."""
    decord_refusal: str | None
    """Why decord may return wrong frames for this file or hang; None where it reads it right."""
    note: str | None = None
    """What a reader should know: which of several streams this is, which frames are left out."""

    @property
    def times(self) -> NDArray[np.float64]:
        """(n,) seconds from the first frame."""
        return np.asarray((self.pts - self.pts[0]) * self.time_base, np.float64)

    @property
    def fps(self) -> float:
        """Frames per second: the mean rate of the frames; of a single frame, what the header
        says.
        """
        return rate(self.times, default=self.header_fps or 1.0)

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return len(self.pts) / self.fps


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and the video stream that FFmpeg takes for its best, for one decoding thread;
    errors inside become VideoError.
    """
    check_file(path)
    try:
        # local files only: a file that names a host must not make us call it
        file = av.open(
            str(path.absolute()), metadata_errors="ignore", options={"protocol_whitelist": "file"}
        )
    except BROKEN as error:
        raise _fault("not_a_video", path, error) from error
    with file:
        stream = _video_stream(path, file)
        try:
            yield file, stream
        except VideoError:
            raise
        except BROKEN as error:
            raise _fault("corrupt", path, error) from error


def _video_stream(path: Path, file: InputContainer) -> VideoStream:
    name = file.format.name
    if name in REFUSED_FORMATS or name.endswith("_pipe"):
        raise VideoError("not_a_video", path, f"its content is of the form {name!r}, not a video")
    streams = _films(file)
    if not streams:
        kinds = {"cover art" if stream.type == "video" else stream.type for stream in file.streams}
        raise VideoError(
            "no_video_stream",
            path,
            f"no video in it, only {' and '.join(sorted(kinds)) or 'a header'}",
        )
    best = file.streams.best("video")
    stream = best if isinstance(best, VideoStream) and best in streams else streams[0]
    if stream.codec_context is None:
        raise VideoError(
            "unsupported_codec", path, f"no decoder for its codec in PyAV {av.__version__}"
        )
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return stream


def _films(file: InputContainer) -> list[VideoStream]:
    """Return the video streams but for attached pictures: the cover art of an audio file."""
    return [
        stream for stream in file.streams.video if not stream.disposition & Disposition.attached_pic
    ]


def _fault(code: Literal["corrupt", "not_a_video"], path: Path, error: Exception) -> VideoError:
    """Return the VideoError for what PyAV raised; `code` unless the error or the file's length say
    more.
    """
    unreadable = io_error(path) if isinstance(error, OSError) else None
    if unreadable is not None:
        return unreadable
    truncated = _truncated(path)
    if truncated is not None:
        return truncated
    message = error.strerror if isinstance(error, av.FFmpegError) else str(error)
    if isinstance(
        error, av.error.DecoderNotFoundError | av.error.PatchWelcomeError | NotImplementedError
    ):
        return VideoError(
            "unsupported_codec", path, f"PyAV {av.__version__} cannot decode it: {message}"
        )
    if code == "not_a_video":
        return VideoError(
            code, path, f"no video container that FFmpeg knows, or its index is missing ({message})"
        )
    return VideoError(code, path, f"damaged: {message or type(error).__name__}")


def _truncated(path: Path) -> VideoError | None:
    missing = missing_bytes(path)
    if not missing:
        return None
    return VideoError(
        "truncated", path, f"{missing} bytes are missing at the end: a download cut short?"
    )


def probe(path: Path, *, deadline: float | None = None) -> VideoIndex:
    """Return the index of a video file; raise VideoError for a file that is none, is cut short or
    takes too long.

    Args:
        path: a local file.
        deadline: `time.monotonic()` at which to give up with code `timeout`.
    """
    with open_video(path) as (file, stream):
        packets = _scan(file, stream, deadline)
        container = file.format.name.split(",")[0]
        _check_length(path, container, (file.duration or 0) / av.time_base, packets)
        context = stream.codec_context
        codec = "av1" if context.name == "libdav1d" else context.name
        header_fps, time_base = float(stream.average_rate or 0), float(stream.time_base or 1)
        notes = [_which_stream(file, stream)]
        counted = container in UNTIMED or packets.clock_is_unusable
        if counted:
            header_fps = header_fps or float(stream.guessed_rate or 25)
            time_base = 1 / header_fps
            pts, keys = np.arange(_count_frames(path, deadline)), np.array([], np.int64)
            if container not in UNTIMED:
                notes.append(f"most of its times cannot be used: {header_fps:g} frames a second")
        else:
            pts, keys = _timestamps(container, packets)
            notes.append(packets.lost_note)
        if not len(pts):
            raise VideoError("corrupt", path, "no frame in it can be shown")
        return VideoIndex(
            path=path,
            container=container,
            codec=codec,
            width=context.width,
            height=context.height,
            pts=pts,
            keys=keys,
            counted=counted,
            time_base=time_base,
            header_fps=header_fps,
            decord_refusal=_decord_refusal(container, codec, packets, len(_films(file))),
            note="; ".join(filter(None, notes)) or None,
        )


@dataclass(slots=True)
class _Packets:
    shown: list[int]
    """Times of the frames to show, in the order of the file."""
    keys: list[int]
    discarded: int = 0
    leading: int = 0
    untimed: int = 0
    last_dts: int | None = None
    starts_again: bool = False
    """The clock went back: a recording was appended to another."""
    end: float = 0.0
    """Seconds from the beginning to the end of the last packet of any stream."""

    @property
    def doubled(self) -> int:
        """How many frames claim a time that another has."""
        return len(self.shown) - len(set(self.shown))

    @property
    def num_frames(self) -> int:
        return len(self.shown) + self.untimed

    @property
    def clock_is_unusable(self) -> bool:
        """Whether so many frames have no time of their own that all are better counted."""
        lost = self.doubled + self.untimed
        return lost > MAX_LOST * self.num_frames or (self.doubled > 0 and self.starts_again)

    @property
    def lost_note(self) -> str:
        """What the frames without a time of their own are, for the reader; empty for none."""
        kinds = (("whose time stands twice", self.doubled), ("without a time", self.untimed))
        return " and ".join(
            f"{count} of {self.num_frames} frames {kind} left out" for kind, count in kinds if count
        )


def _check_length(path: Path, container: str, promised: float, packets: _Packets) -> None:
    """Raise VideoError where a file holds less than it says, or says nothing that can be used."""
    truncated = _truncated(path)
    if truncated is not None:
        raise truncated
    # a preallocated download has all its bytes, zero at the end; only Matroska's length covers
    # exactly its packets
    if container == "matroska" and promised > 1.1 * packets.end > 0:
        raise VideoError(
            "truncated", path, f"its header promises {promised:.2f} s, it holds {packets.end:.2f} s"
        )
    reason = broken_clock(path) if container == "mov" else None
    if reason is not None:
        raise VideoError("corrupt", path, f"its table of times cannot be used: {reason}")


def _which_stream(file: InputContainer, stream: VideoStream) -> str:
    """Return which of several video streams is read, for the reader; empty for the only one."""
    count = len(_films(file))
    if count < 2:
        return ""
    context = stream.codec_context
    return (
        f"{count} video streams in it; number {stream.index}, {context.width}x{context.height}, "
        "is read"
    )


def _timestamps(container: str, packets: _Packets) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the times of the frames and of the keyframes, ascending, each once."""
    pts = np.unique(np.array(packets.shown, np.int64))
    keys = np.unique(np.array(packets.keys, np.int64))
    # a broadcast may begin anywhere: what is before a keyframe is lost
    if container == "mpegts" and len(keys):
        pts = pts[pts >= keys[0]]
    return pts, keys


def _count_frames(path: Path, deadline: float | None) -> int:
    """Return how many frames a decode from first to last gives."""
    count = 0
    with open_video(path) as (file, stream):
        for _ in file.decode(stream):
            count += 1
            _check(deadline, path)
    return count


def _check(deadline: float | None, path: Path) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise VideoError("timeout", path, "indexing took too long")


def _scan(file: InputContainer, stream: VideoStream, deadline: float | None) -> _Packets:
    """Read all packets; in Matroska those of every stream, for its length in the header is that of
    the longest one.
    """
    packets = _Packets([], [])
    streams = file.streams if file.format.name.startswith("matroska") else [stream]
    begin = None if file.start_time is None else file.start_time / av.time_base
    for packet in file.demux(*streams):
        _check(deadline, Path(file.name))
        if packet.pts is None:
            packets.untimed += packet.size > 0 and packet.stream is stream
            continue
        if packet.time_base is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - (begin or 0.0)
            packets.end = max(packets.end, end)
        if packet.stream is not stream:
            continue
        if packet.dts is not None:
            packets.starts_again |= packets.last_dts is not None and packet.dts < packets.last_dts
            packets.last_dts = packet.dts
        if packet.is_keyframe:
            packets.keys.append(packet.pts)
        elif packets.keys and packet.pts < packets.keys[-1]:
            packets.leading += 1
        if packet.is_discard:
            packets.discarded += 1
        else:
            packets.shown.append(packet.pts)
    return packets


def _decord_refusal(container: str, codec: str, packets: _Packets, num_streams: int) -> str | None:
    """Return which trait of a file makes decord 0.6.0 return wrong frames, fail or hang; None for
    none.

    Measured: with none of these traits decord's frames were right in all of 26 files; each trait
    gave wrong frames, errors or (MPEG-TS) an endless loop.
    """
    traits = {
        f"container {container}": container not in DECORD_CONTAINERS,
        f"codec {codec}": codec not in DECORD_CODECS,
        f"{num_streams} video streams": num_streams > 1,
        "an edit list hides frames": packets.discarded > 0,
        "frames before their keyframe (open GOP)": packets.leading > 0,
        "packets without timestamps": packets.untimed > 0,
        "two packets at one time": packets.doubled > 0,
    }
    return next((trait for trait, is_there in traits.items() if is_there), None)
