"""Frames are the ones asked for, on every kind of file: bit for bit those of a full decode, with
the right number.

Every frame of a clip is numbered in its picture, so no decoder's word is taken for which frame it
is.
"""

import time
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from clips import SIZE, copy_part, decode_all, draw_frame, read_number, write_clip
from numpy.typing import NDArray

from dpo_video.recipe import VideoSettings
from dpo_video.video import VideoError, subsample
from dpo_video.video.decode import decode_pyav
from dpo_video.video.probe import probe
from dpo_video.video.read import read_frames

X264 = {"preset": "veryfast", "g": "50"}
OPEN_GOP = {
    "preset": "veryfast",
    "g": "40",
    "bf": "8",
    "x264-params": "open-gop=1:b-pyramid=normal:b-adapt=2",
}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
JITTER = np.random.default_rng(0).integers(-2500, 2500, 60)
VARYING = np.cumsum([0, *[3000] * 60, *[18000] * 20, *(6000 + JITTER)]).tolist()
"""Times in 1/90000 s: 60 frames at 30 per second, 20 at 5, 60 at about 15."""


def write_cut(path: Path) -> Path:
    """Copy without decoding from 3.3 s on, shown from there: frame 83 of an open-GOP clip whose
    keyframe is 80.
    """
    whole = write_clip(path.with_name("whole.mp4"), 200, options=OPEN_GOP)
    return copy_part(whole, path, start=3.3)


def write_tail(path: Path) -> Path:
    """Write a recording that begins between keyframes 50 and 100."""
    whole = write_clip(path.with_name("whole.ts"), 200, options=X264).read_bytes()
    path.write_bytes(whole[len(whole) // 188 * 3 // 10 * 188 :])
    return path


def write_twice(path: Path) -> Path:
    """Write the first 60 frames twice, as recordings glued together: timestamps begin again in the
    middle.
    """
    part = write_clip(path.with_name("part.ts"), 60, options=X264).read_bytes()
    path.write_bytes(part + part)
    return path


def write_rotated(path: Path) -> Path:
    """Write frames that lie on their right side, with a display matrix that turns them back."""
    lying = [np.ascontiguousarray(np.rot90(draw_frame(number), -1)) for number in range(60)]
    return write_clip(path, 60, size=SIZE[::-1], rotation=90, pixels=lying, options=X264)


KINDS: dict[str, Callable[[Path], Path]] = {
    "h264.mp4": lambda path: write_clip(path, 200, options=X264),
    "h264.mkv": lambda path: write_clip(path, 200, options=X264),
    "fragmented.mp4": lambda path: write_clip(path, 200, options=X264, muxer=FRAGMENTED),
    "varying_rate.mp4": lambda path: write_clip(path, 141, rate=30, ticks=VARYING, options=X264),
    "open_gop.mp4": lambda path: write_clip(path, 200, options=OPEN_GOP),
    "all_intra.mp4": lambda path: write_clip(path, 60, options={"preset": "veryfast", "g": "1"}),
    "no_b_frames.mp4": lambda path: write_clip(
        path, 100, options={"preset": "ultrafast", "g": "50"}
    ),
    "hevc.mp4": lambda path: write_clip(
        path,
        150,
        codec="libx265",
        options={"preset": "ultrafast", "x265-params": "log-level=none:keyint=40:bframes=4"},
    ),
    "hevc_10_bit.mp4": lambda path: write_clip(
        path,
        150,
        codec="libx265",
        pix_fmt="yuv420p10le",
        options={"preset": "ultrafast", "x265-params": "log-level=none:keyint=40"},
    ),
    "vp9.webm": lambda path: write_clip(
        path, 150, codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8", "g": "50"}
    ),
    "av1.mp4": lambda path: write_clip(
        path,
        100,
        codec="libsvtav1",
        options={"preset": "11", "crf": "35", "g": "50", "svtav1-params": "lp=1"},
    ),
    "mpeg4_b_frames.avi": lambda path: write_clip(
        path, 200, codec="mpeg4", options={"bf": "2", "g": "50", "b": "800000"}
    ),
    "h264_b_frames.avi": lambda path: write_clip(path, 200, options=X264),
    "mpeg2.mpg": lambda path: write_clip(
        path, 100, codec="mpeg2video", options={"bf": "2", "g": "12"}
    ),
    "raw.h264": lambda path: write_clip(path, 100, options=X264),
    "clock_starts_again.ts": write_twice,
    "interlaced.mp4": lambda path: write_clip(
        path, 60, options={"g": "30", "x264-params": "interlaced=1"}
    ),
    "intra_refresh.mp4": lambda path: write_clip(
        path, 150, options={"x264-params": "intra-refresh=1:keyint=50"}
    ),
    "vp8_hidden_frames.webm": lambda path: write_clip(
        path,
        100,
        codec="libvpx",
        options={
            "deadline": "good",
            "cpu-used": "4",
            "auto-alt-ref": "1",
            "lag-in-frames": "25",
            "g": "100",
        },
    ),
    "h264.ts": lambda path: write_clip(path, 200, options=X264),
    "tail.ts": write_tail,
    "rotated.mp4": write_rotated,
    "size_322x242.mp4": lambda path: write_clip(path, 60, size=(322, 242), options=X264),
    "size_321x241.mp4": lambda path: write_clip(
        path, 60, size=(321, 241), pix_fmt="yuv444p", options=X264
    ),
    "cut.mp4": write_cut,
    "rate_23_976.mp4": lambda path: write_clip(path, 150, rate=Fraction(24000, 1001), options=X264),
    "animation.gif": lambda path: write_clip(path, 40, codec="gif", pix_fmt="rgb8", rate=10),
    "one_frame.mp4": lambda path: write_clip(path, 1, options=X264),
    "one_frame.webm": lambda path: write_clip(path, 1, codec="libvpx-vp9"),
    "two_frames.mp4": lambda path: write_clip(path, 2, options=X264),
    "ten_minutes.mp4": lambda path: write_clip(
        path, 3000, rate=5, options={"preset": "ultrafast", "g": "250"}
    ),
}
FIRST_NUMBER = {"cut.mp4": 83, "tail.ts": 100}
"""Number of the first frame where it is not 0."""
COUNTED = (
    "mpeg4_b_frames.avi",
    "h264_b_frames.avi",
    "mpeg2.mpg",
    "raw.h264",
    "clock_starts_again.ts",
)
"""Files without times of display for each frame; their frames are 1/25 s apart."""
DECORD_REFUSED = {
    "h264_b_frames.avi": "container avi",
    "mpeg2.mpg": "container mpeg",
    "raw.h264": "container h264",
    "clock_starts_again.ts": "container mpegts",
    "intra_refresh.mp4": "open GOP",
    "open_gop.mp4": "open GOP",
    "hevc.mp4": "open GOP",
    "hevc_10_bit.mp4": "open GOP",
    "cut.mp4": "edit list",
    "av1.mp4": "codec av1",
    "mpeg4_b_frames.avi": "container avi",
    "h264.ts": "container mpegts",
    "tail.ts": "container mpegts",
    "animation.gif": "container gif",
}


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the file of a kind, written when first asked for."""
    folder = tmp_path_factory.mktemp("kinds")
    return cache(lambda kind: KINDS[kind](folder / kind))


@pytest.fixture(scope="session")
def full(clip: Callable[[str], Path]) -> Callable[[str], tuple[NDArray[np.uint8], list[float]]]:
    """Return a function that gives all frames of a kind and their times, decoded from first to
    last.
    """
    return cache(lambda kind: decode_all(clip(kind)))


@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_a_full_decode_and_carry_their_number(clip, full, kind, backend):
    every, seconds = full(kind)
    frames = read_frames(clip(kind), VideoSettings(num_frames=32, backend=backend))

    assert frames.indices == np.linspace(0, len(every) - 1, min(32, len(every))).round().tolist()
    first, again = FIRST_NUMBER.get(kind, 0), 60 if kind == "clock_starts_again.ts" else 10_000
    assert [read_number(pixels) for pixels in frames.pixels] == [
        (first + index) % again for index in frames.indices
    ]
    np.testing.assert_array_equal(frames.pixels, every[frames.indices])
    times = np.arange(len(every)) / 25 if kind in COUNTED else np.array(seconds)
    np.testing.assert_allclose(frames.times, times[frames.indices], rtol=0, atol=1e-6)
    assert frames.total_frames == len(every)
    assert frames.pixels.flags.c_contiguous


@pytest.mark.parametrize("kind", KINDS)
def test_decord_reads_only_files_it_reads_right_and_says_why_not(clip, kind):
    frames = read_frames(clip(kind), VideoSettings(num_frames=2, backend="decord"))

    assert (probe(clip(kind)).decord_refusal is None) is (kind not in DECORD_REFUSED)
    if kind in DECORD_REFUSED:
        assert frames.backend == "pyav"
        assert frames.note is not None
        assert frames.note.startswith("decord not used: ")
        assert DECORD_REFUSED[kind] in frames.note
    else:
        assert (frames.backend, frames.note) == ("decord", None)


@pytest.mark.parametrize("kind", KINDS)
def test_any_frames_in_any_order_even_twice_are_read_exactly(clip, full, kind):
    every, _ = full(kind)
    indices = np.random.default_rng(0).integers(0, len(every), 40).tolist()

    pixels = decode_pyav(probe(clip(kind)), indices, deadline=time.monotonic() + 60)

    np.testing.assert_array_equal(pixels, every[indices])


def test_all_frames_of_a_clip_can_be_read(clip, full):
    every, _ = full("open_gop.mp4")
    np.testing.assert_array_equal(
        read_frames(clip("open_gop.mp4"), VideoSettings(num_frames=1000)).pixels, every
    )


def test_times_of_a_varying_rate_are_those_it_was_written_with(clip):
    frames = read_frames(clip("varying_rate.mp4"), VideoSettings(num_frames=141))
    np.testing.assert_allclose(frames.times, np.array(VARYING) / 90_000, rtol=0, atol=1e-9)


def test_rotation_gives_an_upright_frame_of_upright_size(clip):
    frames = read_frames(clip("rotated.mp4"), VideoSettings(num_frames=1))
    assert frames.pixels.shape == (1, SIZE[1], SIZE[0], 3)
    drawn = draw_frame(0)
    assert (
        np.abs(frames.pixels[0].astype(int) - drawn).mean() < 12
    )  # a lossy codec, the same picture


def test_rate_and_duration_come_from_the_frames_not_the_header(clip):
    frames = read_frames(clip("rate_23_976.mp4"), VideoSettings())
    assert frames.fps == pytest.approx(24000 / 1001, rel=1e-4)
    assert frames.duration == pytest.approx(150 * 1001 / 24000, rel=1e-4)


def test_a_part_in_seconds_begins_with_the_frame_on_screen(clip):
    """At 25 frames a second frame 50 is on screen from 2.00 to 2.04 s, frame 99 from 3.96 to 4.00
    s.
    """
    frames = read_frames(clip("open_gop.mp4"), VideoSettings(num_frames=1000), start=2.03, end=4.0)
    assert frames.indices == list(range(50, 100))
    assert [read_number(pixels) for pixels in frames.pixels] == frames.indices
    assert (frames.first_index, frames.total_frames) == (50, 50)
    assert frames.start_time == pytest.approx(2.0)
    assert frames.duration == pytest.approx(2.0)
    assert frames.times[0] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("start", "end"), [(8.0, None), (3.0, 2.0), (2.0, 2.0), (-1.0, 2.0), (float("nan"), None)]
)
def test_a_part_without_frames_is_too_few_frames(clip, start, end):
    with pytest.raises(
        VideoError, match=r"no frame from .* seconds to .*; its last frame is at 7\.960"
    ) as caught:
        read_frames(clip("h264.mp4"), VideoSettings(), start=start, end=end)
    assert caught.value.code == "too_few_frames"


def test_thinned_frames_are_spread_over_what_there_was(clip):
    frames = read_frames(clip("h264.mp4"), VideoSettings(num_frames=9))
    thinned = subsample(frames, 3)
    assert thinned.indices == [frames.indices[0], frames.indices[4], frames.indices[8]]
    assert [read_number(pixels) for pixels in thinned.pixels] == thinned.indices
    assert thinned.times.tolist() == frames.times[[0, 4, 8]].tolist()
    assert (thinned.total_frames, thinned.fps, thinned.duration) == (
        200,
        frames.fps,
        frames.duration,
    )
    assert subsample(frames, 9) is frames


def test_a_clip_that_takes_too_long_is_a_timeout(clip):
    with pytest.raises(VideoError, match="took too long") as caught:
        read_frames(clip("ten_minutes.mp4"), VideoSettings(timeout=1e-3))
    assert caught.value.code == "timeout"
