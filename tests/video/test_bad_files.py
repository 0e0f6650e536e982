"""Files that cannot be read: one reason each, never another exception, never wrong frames."""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clips import copy_part, draw_frame, read_number, write_audio, write_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dpo_video.core.errors import UserError
from dpo_video.recipe import VideoSettings
from dpo_video.video import VideoError, resolve_video
from dpo_video.video.read import read_frames

X264 = {"preset": "veryfast", "g": "25"}
FAST_START = {"movflags": "faststart"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


def content(path: Path, **options: object) -> bytes:
    """Return the bytes of a good clip of 100 frames, in the container that the suffix of `path`
    names.
    """
    return write_clip(
        path.with_name(f"good{path.suffix}"), 100, **{"options": X264, **options}
    ).read_bytes()


def half(path: Path, **options: object) -> None:
    whole = content(path, **options)
    path.write_bytes(whole[: len(whole) // 2])


def zero_tail(path: Path) -> None:
    """Write a download whose file was made at full length and filled up to the half."""
    whole = content(path)
    path.write_bytes(whole[: len(whole) // 2].ljust(len(whole), b"\0"))


def flip_bits(path: Path, number: int) -> None:
    whole = bytearray(content(path, muxer=FAST_START if path.suffix == ".mp4" else {}))
    begin = max(whole.find(b"mdat"), 0)
    chance = random.Random(0)
    for _ in range(number):
        place = chance.randrange(
            begin + (len(whole) - begin) // 3, begin + (len(whole) - begin) * 2 // 3
        )
        whole[place] ^= 1 << chance.randrange(8)
    path.write_bytes(whole)


def hole(path: Path) -> None:
    whole = content(path, muxer=FAST_START)
    begin = len(whole) // 2
    path.write_bytes(whole[:begin] + bytes(2000) + whole[begin + 2000 :])


def two_sizes(path: Path) -> None:
    """Write a recording in which the picture grows after 2 seconds."""
    first = write_clip(path.with_name("first.ts"), 50, options=X264)
    ticks = [3600 * number for number in range(50, 100)]
    second = write_clip(path.with_name("second.ts"), 50, size=(320, 128), ticks=ticks, options=X264)
    path.write_bytes(first.read_bytes() + second.read_bytes())


def image_inside(path: Path, form: str) -> None:
    Image.fromarray(draw_frame(0)).save(path, form)


BAD: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    "zero bytes": ("a.mp4", lambda path: path.write_bytes(b""), "empty", "zero bytes"),
    "missing": ("a.mp4", lambda path: None, "not_found", "no such file"),
    "name too long": ("a" * 300 + ".mp4", lambda path: None, "not_found", "File name too long"),
    "null byte in the name": (
        "a\0.mp4",
        lambda path: None,
        "not_found",
        "no file can have this name",
    ),
    "named pipe": ("a.mp4", os.mkfifo, "not_a_video", "not a regular file"),
    "web page": (
        "a.mp4",
        lambda path: path.write_text("\ufeff\n<!DOCTYPE html><html>404</html>"),
        "not_a_video",
        "an HTML page",
    ),
    "storage error": (
        "a.mp4",
        lambda path: path.write_text("<?xml version='1.0'?><Error/>"),
        "not_a_video",
        "XML",
    ),
    "git-LFS pointer": (
        "a.mp4",
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
        "not_a_video",
        "git lfs pull",
    ),
    "HLS playlist": (
        "a.mp4",
        lambda path: path.write_text("#EXTM3U\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n"),
        "not_a_video",
        "playlist",
    ),
    "concat playlist": (
        "a.mp4",
        lambda path: path.write_text("ffconcat version 1.0\nfile b.mp4\n"),
        "not_a_video",
        "playlist",
    ),
    "random bytes": (
        "a.mp4",
        lambda path: path.write_bytes(random.Random(0).randbytes(100_000)),
        "not_a_video",
        "no video container",
    ),
    "one byte": (
        "a.mp4",
        lambda path: path.write_bytes(b"\0"),
        "not_a_video",
        "no video container",
    ),
    "text": (
        "a.txt",
        lambda path: path.write_text("not a video\n" * 40),
        "not_a_video",
        "form 'tty'",
    ),
    "JSON": (
        "a.mkv",
        lambda path: path.write_text('{"error": 404}'),
        "not_a_video",
        "no video container",
    ),
    "JPEG as video": (
        "a.mp4",
        lambda path: image_inside(path, "JPEG"),
        "not_a_video",
        "a JPEG image",
    ),
    "PNG as video": ("a.mp4", lambda path: image_inside(path, "PNG"), "not_a_video", "a PNG image"),
    "BMP as video": (
        "a.mp4",
        lambda path: image_inside(path, "BMP"),
        "not_a_video",
        "form 'bmp_pipe'",
    ),
    "sound only": ("a.mp4", write_audio, "no_video_stream", "no video in it, only audio"),
    "sound and cover art": (
        "a.mp4",
        lambda path: write_audio(path, cover=draw_frame(0)),
        "no_video_stream",
        "no video in it, only audio and cover art",
    ),
    "half MP4, index last": ("a.mp4", half, "truncated", "bytes are missing at the end"),
    "half MP4, index first": (
        "a.mp4",
        lambda path: half(path, muxer=FAST_START),
        "truncated",
        "bytes are missing",
    ),
    "half fragmented MP4": (
        "a.mp4",
        lambda path: half(path, muxer=FRAGMENTED),
        "truncated",
        "bytes are missing",
    ),
    "half MKV": ("a.mkv", half, "truncated", "bytes are missing"),
    "half WebM": (
        "a.webm",
        lambda path: half(path, codec="libvpx-vp9", options={"cpu-used": "8"}),
        "truncated",
        "bytes are missing",
    ),
    "half AVI": (
        "a.avi",
        lambda path: half(path, codec="mpeg4", options={}),
        "truncated",
        "bytes are missing",
    ),
    "MKV with a tail of zeros": (
        "a.mkv",
        zero_tail,
        "truncated",
        r"its header promises 4\.00 s, it holds [12]\.",
    ),
    "MP4 with a tail of zeros": ("a.mp4", zero_tail, "not_a_video", "its index is missing"),
    "picture that grows": (
        "a.ts",
        two_sizes,
        "corrupt",
        "its frames are of different sizes: 160x64 and 320x128",
    ),
    "hole": ("a.mp4", hole, "corrupt", "damaged"),
    "one flipped bit": ("a.mp4", lambda path: flip_bits(path, 1), "corrupt", "damaged"),
    "flipped bits": ("a.mp4", lambda path: flip_bits(path, 60), "corrupt", "damaged"),
    "flipped bits in MKV": ("a.mkv", lambda path: flip_bits(path, 60), "corrupt", "damaged"),
    "flipped bits in MPEG-TS": ("a.ts", lambda path: flip_bits(path, 60), "corrupt", "damaged"),
    "unknown codec": (
        "a.mp4",
        lambda path: path.write_bytes(content(path).replace(b"avc1", b"zzzz")),
        "unsupported_codec",
        "no decoder",
    ),
    "unknown codec in MKV": (
        "a.mkv",
        lambda path: path.write_bytes(content(path).replace(b"MPEG4/ISO", b"ZZZZZ/ISO")),
        "unsupported_codec",
        "no decoder",
    ),
}


UNSEEN_BY_DECORD = ("one flipped bit", "flipped bits", "flipped bits in MKV")
"""Damage inside a file that decord may paint over; `decode_decord` says so."""


@pytest.mark.parametrize(
    ("what", "backend"),
    [
        (what, backend)
        for what in BAD
        for backend in ("pyav", "decord")
        if backend == "pyav" or what not in UNSEEN_BY_DECORD
    ],
)
def test_a_bad_file_has_one_reason(tmp_path, what, backend):
    name, write, code, reason = BAD[what]
    path = tmp_path / name
    write(path)
    with pytest.raises(VideoError, match=reason) as caught:
        read_frames(path, VideoSettings(backend=backend, timeout=30))
    assert caught.value.code == code
    assert caught.value.path == path
    assert str(caught.value).startswith("cannot read ")
    assert str(caught.value).endswith(f"[{code}]")


def test_junk_after_the_end_does_no_harm(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 100, options=X264)
    path.write_bytes(path.read_bytes() + b"appended by a camera" * 20)
    assert [
        read_number(pixels) for pixels in read_frames(path, VideoSettings(num_frames=3)).pixels
    ] == [0, 50, 99]


def test_sound_longer_than_the_picture_is_no_truncation(tmp_path):
    """Two seconds of sound, one of picture: the header of a Matroska file promises two."""
    path = write_clip(tmp_path / "a.mkv", 25, options=X264, sound=2.0)
    assert read_frames(path, VideoSettings(num_frames=100)).total_frames == 25


def test_a_copy_that_begins_at_a_keyframe_of_an_open_gop_is_whole(tmp_path):
    options = {"preset": "veryfast", "g": "40", "bf": "8", "x264-params": "open-gop=1:b-adapt=2"}
    part = copy_part(
        write_clip(tmp_path / "a.mp4", 200, options=options), tmp_path / "b.mkv", start=3.3
    )
    frames = read_frames(part, VideoSettings(num_frames=1000))
    assert [read_number(pixels) for pixels in frames.pixels] == list(range(80, 200))


@pytest.mark.parametrize(
    "address", ["https://example.org/a.mp4", "s3://bucket/a.mp4", "rtsp://host/a", "concat:/a|/b"]
)
def test_an_address_is_refused_and_never_fetched(tmp_path, address):
    with pytest.raises(VideoError, match="an address, not a file: download it first") as caught:
        resolve_video(address, tmp_path)
    assert caught.value.code == "remote"


def test_decord_that_cannot_be_imported_is_the_users_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    path = write_clip(tmp_path / "a.mp4", 10)
    with pytest.raises(UserError, match=r"pip install 'dpo-video\[decord\]'") as caught:
        read_frames(path, VideoSettings(backend="decord"))
    assert not isinstance(caught.value, VideoError)


KINDS = {
    "a.mp4": {"options": X264, "muxer": FAST_START},
    "b.mp4": {"options": X264, "muxer": FRAGMENTED},
    "c.mkv": {"options": X264},
    "d.ts": {"options": X264},
    "e.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "f.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}},
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Return the bytes of small good files by name."""
    folder = tmp_path_factory.mktemp("good")
    return {
        name: write_clip(folder / name, 30, **options).read_bytes()
        for name, options in KINDS.items()
    }


@given(name=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 2**32), changes=st.integers(1, 12))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_anywhere_gives_frames_of_one_size_or_a_reason(good, tmp_path, name, seed, changes):
    chance = random.Random(seed)
    damaged = bytearray(good[name])
    for _ in range(changes):
        place = chance.choice(
            [chance.randrange(len(damaged)), chance.randrange(min(1500, len(damaged)))]
        )
        length = chance.randrange(1, 64)
        damaged[place : place + length] = chance.choice(
            [b"", chance.randbytes(length), b"\xff" * 4, b"\0" * 4]
        )
    path = tmp_path / name
    path.write_bytes(damaged)
    try:
        frames = read_frames(path, VideoSettings(num_frames=4, timeout=30))
    except VideoError as error:
        assert error.code not in ("not_found", "timeout", "crashed", "remote"), error
        return
    assert frames.pixels.dtype == np.uint8
    assert frames.pixels.shape[0] == len(frames.indices) == len(frames.times) <= 4
    assert frames.pixels.shape[3] == 3
    assert np.isfinite([*frames.times, frames.fps, frames.duration]).all()
    assert frames.fps > 0
