"""What can be said of a video file from its bytes, before a demuxer sees it: not a video, or cut
short.
"""

import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO

from dpo_video.video.frames import VideoError

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


def check_file(path: Path) -> None:
    """Raise VideoError where `path` is missing, not a regular file, empty, or by its first bytes no
    video.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise VideoError("not_found", path, f"it cannot be opened: {error.strerror}") from error
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
        raise VideoError("not_found", path, f"it cannot be opened: {error.strerror}") from error
    except ValueError as error:
        raise VideoError("not_found", path, f"no file can have this name: {error}") from error
    if not stat.S_ISREG(facts.st_mode):
        raise VideoError("not_a_video", path, "not a regular file")
    if facts.st_size == 0:
        raise VideoError("empty", path, "the file has zero bytes")


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
