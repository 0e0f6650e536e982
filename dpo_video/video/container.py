"""What can be said of a video file from its bytes, before a demuxer sees it: not a video, or cut
short.
"""

import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dpo_video.video.frames import ErrorCode, VideoError

SIGNS = {
    b"<!doctype": "an HTML page, not a video: a failed download?",
    b"<html": "an HTML page, not a video: a failed download?",
    b"<?xml": "an XML document, not a video: a failed download?",
    b"<error": "an XML document, not a video: a failed download?",
    b"<mpd": "a playlist, not a video; it could name other files or hosts",
    b"version https://git-lfs": "a git-LFS pointer, not the video: run `git lfs pull`",
    b"#extm3u": "a playlist, not a video; it could name other files or hosts",
    b"ffconcat": "a playlist, not a video; it could name other files or hosts",
    b"\xff\xd8\xff": "a JPEG image under another name: a thumbnail in place of the video?",
    b"\x89png": "a PNG image under another name: a thumbnail in place of the video?",
}
"""How files begin that are often found in place of a video, lower case, and what they are."""
MP4_BOXES = (
    b"ftyp",
    b"styp",
    b"moov",
    b"moof",
    b"mdat",
    b"free",
    b"skip",
    b"wide",
    b"sidx",
    b"uuid",
    b"mfra",
    b"udta",
)


TRACK_PATH = (b"moov", b"trak", b"mdia")
"""Boxes within each other down to a track's clock and its tables."""
NO_SUCH_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def check_file(path: Path) -> None:
    """Raise VideoError where `path` is missing, not a regular file, empty, or by its first bytes no
    video.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise _unreadable(path, error) from error
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    for sign, description in SIGNS.items():
        if text.startswith(sign):
            raise VideoError("not_a_video", path, description)


def check_regular(path: Path) -> None:
    """Raise VideoError where `path` is missing, not a regular file (reading a pipe would wait), or
    has zero bytes.
    """
    try:
        facts = path.stat()
    except FileNotFoundError:
        raise VideoError("not_found", path, "no such file") from None
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise VideoError("not_found", path, f"no file can have this name: {error}") from error
    if not stat.S_ISREG(facts.st_mode):
        raise VideoError("not_a_video", path, "not a regular file")
    if facts.st_size == 0:
        raise VideoError("empty", path, "the file has zero bytes")


def _unreadable(path: Path, error: OSError) -> VideoError:
    code: ErrorCode = "not_found" if error.errno in NO_SUCH_FILE else "io_error"
    return VideoError(code, path, f"it cannot be opened: {error.strerror}")


def io_error(path: Path) -> VideoError | None:
    """Return the VideoError of a file whose bytes the disk or the network does not give; None where
    all of them can be read.

    Demuxers say "Input/output error" of a file that is damaged, too.
    """
    try:
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass
    except OSError as error:
        return VideoError("io_error", path, f"its bytes cannot be read: {error.strerror}")
    return None


def missing_bytes(path: Path) -> int:
    """Return how many bytes the outermost elements of a container promise beyond the file's end; 0
    where none are.

    Read from the element sizes of MP4/MOV, Matroska/WebM and AVI, so it needs no index, and a
    download cut short is told from a file that is no video. Formats without such sizes (MPEG-TS,
    live recordings) give 0.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in MP4_BOXES:
            return max(0, _mp4_end(file, size) - size)
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return max(0, _matroska_end(file) - size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return max(0, _riff_end(file, size) - size)
    return 0


def _mp4_end(file: BinaryIO, size: int) -> int:
    """Return where the last box that begins in the file ends; unknown boxes (trailing junk) end the
    walk.
    """
    begin = 0
    while begin + 8 <= size:
        file.seek(begin)
        header = file.read(16)
        length, name = struct.unpack(">I4s", header[:8])
        if name not in MP4_BOXES or length == 0:  # 0: up to the file's end
            return begin
        if length == 1:
            if len(header) < 16:
                return begin
            length = struct.unpack(">Q", header[8:])[0]
        if length < 8:
            return begin
        begin += length
    return begin


def broken_clock(path: Path) -> str | None:
    """Return why the times of an MP4 or MOV file's video mean nothing; None where they can be used.

    FFmpeg takes a timescale of 0 for 1 and negative durations for one tick, and then shows one
    frame, or a few at wrong times.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        for begin, end in _boxes(file, 0, size, TRACK_PATH):
            handler = _first_box(file, begin, end, (b"hdlr",))
            if handler[8:12] != b"vide":
                continue
            header = _first_box(file, begin, end, (b"mdhd",))
            # behind the times of creation and change, of 4 bytes each, in version 1 of 8
            offset = 20 if header[:1] == b"\1" else 12
            if len(header) >= offset + 4 and not any(header[offset : offset + 4]):
                return "the timescale is 0"
            table = _first_box(file, begin, end, (b"minf", b"stbl", b"stts"))
            if reason := _broken_durations(table[8:]):
                return reason
    return None


def _broken_durations(entries: bytes) -> str | None:
    """Return what is wrong with a table of frame counts and durations, pairs of 32 bits; None for
    nothing.

    A few durations of 0, or below, are found in good files: recorders set the clock right by them.
    """
    total, negative, zero = 0, 0, 0
    for count, duration in struct.iter_unpack(">Ii", entries[: len(entries) // 8 * 8]):
        total += count
        negative += count * (duration < 0)
        zero += count * (duration == 0)
    if negative * 2 > total:
        return f"{negative} of {total} frames have a negative duration"
    if zero == total > 1:
        return f"none of its {total} frames has a duration"
    return None


def _first_box(file: BinaryIO, begin: int, end: int, names: tuple[bytes, ...]) -> bytes:
    """Return the content of the first such box; empty where there is none."""
    for first, last in _boxes(file, begin, end, names):
        file.seek(first)
        return file.read(last - first)
    return b""


def _boxes(
    file: BinaryIO, begin: int, end: int, names: tuple[bytes, ...]
) -> Iterator[tuple[int, int]]:
    """Yield where the content of each box begins and ends that lies within boxes of these names."""
    while begin + 8 <= end:
        file.seek(begin)
        length, name = struct.unpack(">I4s", file.read(8))
        header = 8
        if length == 1 and begin + 16 <= end:
            length, header = struct.unpack(">Q", file.read(8))[0], 16
        stop = end if length == 0 else min(begin + length, end)
        if length and length < header:
            return
        if name == names[0]:
            if len(names) == 1:
                yield begin + header, stop
            else:
                yield from _boxes(file, begin + header, stop, names[1:])
        begin = stop


def _matroska_end(file: BinaryIO) -> int:
    """Return where the segment ends; 0 where its size is unknown (a live recording)."""
    file.seek(4)
    length, _ = _vint(file)
    file.seek(length, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    length, is_known = _vint(file)
    return file.tell() + length if is_known else 0


def _vint(file: BinaryIO) -> tuple[int, bool]:
    """Return a Matroska variable-length number, and whether it is one (all ones means unknown)."""
    first = file.read(1)
    if not first or first[0] == 0:
        return 0, False
    num_following = 8 - first[0].bit_length()
    value = int.from_bytes(
        bytes([first[0] & (0x7F >> num_following)]) + file.read(num_following), "big"
    )
    return value, value != (1 << 7 * (num_following + 1)) - 1


def _riff_end(file: BinaryIO, size: int) -> int:
    """Return where the last RIFF chunk that begins in the file ends (large AVI files hold
    several).
    """
    begin = end = 0
    while begin + 8 <= size:
        file.seek(begin)
        name, length = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF":
            break
        end = begin + 8 + length
        begin = end + length % 2
    return end
