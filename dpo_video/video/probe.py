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

from dpo_video.video.container import check_file, missing_bytes
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

    @property
    def decord_safe(self) -> bool:
        """Whether decord returns the right frames of this file."""
        return self.decord_refusal is None


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its first video stream for one decoding thread; errors inside become
    VideoError.
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
    # an attached picture is the cover art of an audio file
    streams = [
        stream for stream in file.streams.video if not stream.disposition & Disposition.attached_pic
    ]
    if not streams:
        kinds = {"cover art" if stream.type == "video" else stream.type for stream in file.streams}
        raise VideoError(
            "no_video_stream",
            path,
            f"no video in it, only {' and '.join(sorted(kinds)) or 'a header'}",
        )
    stream = streams[0]
    if stream.codec_context is None:
        raise VideoError(
            "unsupported_codec", path, f"no decoder for its codec in PyAV {av.__version__}"
        )
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return stream


def _fault(code: Literal["corrupt", "not_a_video"], path: Path, error: Exception) -> VideoError:
    """Return the VideoError for what PyAV raised; `code` unless the error or the file's length say
    more.
    """
    missing = missing_bytes(path)
    if missing:
        return VideoError(
            "truncated", path, f"{missing} bytes are missing at the end: a download cut short?"
        )
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
        codec = "av1" if stream.codec_context.name == "libdav1d" else stream.codec_context.name
        promised = (file.duration or 0) / av.time_base
        missing = missing_bytes(path)
        if missing:
            raise VideoError(
                "truncated", path, f"{missing} bytes are missing at the end: a download cut short?"
            )
        # a preallocated download has all its bytes, zero at the end; only Matroska's length covers
        # exactly its packets
        if container == "matroska" and promised > 1.1 * packets.end > 0:
            raise VideoError(
                "truncated",
                path,
                f"its header promises {promised:.2f} s, it holds {packets.end:.2f} s",
            )
        pts, keys = (
            np.unique(np.array(stamps, np.int64)) for stamps in (packets.shown, packets.keys)
        )
        if container == "mpegts" and len(
            keys
        ):  # may begin anywhere in a broadcast: what is before a keyframe is lost
            pts = pts[pts >= keys[0]]
        header_fps, time_base = float(stream.average_rate or 0), float(stream.time_base or 1)
        refusal = _decord_refusal(container, codec, packets)
        counted = container in UNTIMED or packets.untimed > 0 or packets.doubled
        if counted:
            pts, keys = np.arange(_count_frames(path, deadline)), np.array([], np.int64)
            header_fps = header_fps or float(stream.guessed_rate or 25)
            time_base = 1 / header_fps
        if not len(pts):
            raise VideoError("corrupt", path, "no frame in it can be shown")
        return VideoIndex(
            path=path,
            container=container,
            codec=codec,
            pts=pts,
            keys=keys,
            counted=counted,
            time_base=time_base,
            header_fps=header_fps,
            decord_refusal=refusal,
        )


@dataclass(slots=True)
class _Packets:
    shown: list[int]
    keys: list[int]
    discarded: int = 0
    leading: int = 0
    untimed: int = 0
    end: float = 0.0

    @property
    def doubled(self) -> bool:
        """Whether two frames claim the same time."""
        return len(set(self.shown)) != len(self.shown)


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
    """Read all packets; audio too in Matroska, whose length in the header is that of the longest
    stream.
    """
    packets = _Packets([], [])
    streams = [stream, *file.streams.audio] if file.format.name.startswith("matroska") else [stream]
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
        if packet.is_keyframe:
            packets.keys.append(packet.pts)
        elif packets.keys and packet.pts < packets.keys[-1]:
            packets.leading += 1
        if packet.is_discard:
            packets.discarded += 1
        else:
            packets.shown.append(packet.pts)
    return packets


def _decord_refusal(container: str, codec: str, packets: _Packets) -> str | None:
    """Return which trait of a file makes decord 0.6.0 return wrong frames, fail or hang; None for
    none.

    Measured: with none of these traits decord's frames were right in all of 26 files; each trait
        gave wrong frames,
    errors or (MPEG-TS) an endless loop.
    """
    traits = {
        f"container {container}": container not in DECORD_CONTAINERS,
        f"codec {codec}": codec not in DECORD_CODECS,
        "an edit list hides frames": packets.discarded > 0,
        "frames before their keyframe (open GOP)": packets.leading > 0,
        "packets without timestamps": packets.untimed > 0,
        "two packets at one time": packets.doubled,
    }
    return next((trait for trait, present in traits.items() if present), None)
