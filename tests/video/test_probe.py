"""What the packets of a file say: its clock, its streams, its length, how it is to be turned."""

import shutil
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from clips import draw_frame, read_number, write_clip

from dpo_video.recipe import VideoSettings
from dpo_video.video import VideoError
from dpo_video.video.probe import probe
from dpo_video.video.read import read_frames

X264 = {"preset": "veryfast", "g": "25"}
ALL = VideoSettings(num_frames=1000)
MILLISECONDS = [0, 33, 66, 5000, 5033, 20000, 20033, 30000, 40000, 40033, 55000, 59000]
"""Times of a recording of a screen, which has a frame where something changes."""
ONE = 1 << 16
"""1 in the fixed point of a display matrix."""


def write_recording(path: Path, milliseconds: list[int]) -> Path:
    """Write a WebM of numbered frames at these times, which need not differ."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libvpx", rate=30, options={"lag-in-frames": "0"})
        stream.width, stream.height, stream.pix_fmt = 160, 64, "yuv420p"
        packets = []
        for number in range(len(milliseconds)):
            frame = av.VideoFrame.from_ndarray(draw_frame(number), format="rgb24")
            packets += stream.encode(frame)
        for packet, time in zip([*packets, *stream.encode(None)], milliseconds, strict=True):
            packet.pts = packet.dts = time
            packet.time_base, packet.stream = Fraction(1, 1000), stream
            file.mux(packet)
    return path


def test_one_repeated_time_costs_one_frame_and_the_others_keep_theirs(tmp_path):
    repeated = [*MILLISECONDS[:4], 5000, *MILLISECONDS[5:]]
    frames = read_frames(write_recording(tmp_path / "a.webm", repeated), ALL)
    assert frames.times.tolist() == [time / 1000 for time in sorted(set(repeated))]
    assert [read_number(pixels) for pixels in frames.pixels] == [0, 1, 2, 3, *range(5, 12)]
    assert frames.note == "1 of 12 frames whose time stands twice left out"


def test_a_part_of_a_recording_with_a_repeated_time_is_the_part_of_that_time(tmp_path):
    repeated = [*MILLISECONDS[:4], 5000, *MILLISECONDS[5:]]
    clip = write_recording(tmp_path / "a.webm", repeated)
    frames = read_frames(clip, ALL, start=15, end=45)
    assert [read_number(pixels) for pixels in frames.pixels] == [3, 5, 6, 7, 8, 9]
    assert frames.duration == pytest.approx(30.0)


def test_times_that_mostly_repeat_are_counted_and_the_reader_is_told(tmp_path):
    clip = write_recording(tmp_path / "a.webm", [0] * 6 + [33] * 6)
    frames = read_frames(clip, ALL)
    assert [read_number(pixels) for pixels in frames.pixels] == list(range(12))
    np.testing.assert_allclose(frames.times, np.arange(12) / 30)
    assert frames.note == "most of its times cannot be used: 30 frames a second"


def test_one_missing_time_costs_one_frame_and_the_others_keep_theirs(tmp_path):
    """A B-frame of a broadcast whose packet has lost its time; FFmpeg does not guess it."""
    ticks = [3600 * (number + 25 * (number >= 20)) for number in range(40)]
    options = {"preset": "veryfast", "g": "40", "bf": "2", "x264-params": "b-adapt=0"}
    path = write_clip(tmp_path / "a.ts", 40, ticks=ticks, options=options)
    before = read_frames(path, ALL)
    content, begin = bytearray(path.read_bytes()), -1
    for _ in range(15):
        begin = content.index(b"\x00\x00\x01\xe0", begin + 1)
    content[begin + 7] &= 0x3F
    path.write_bytes(content)
    frames = read_frames(path, ALL)
    assert frames.note == "1 of 40 frames without a time left out"
    assert set(frames.times.tolist()) < set(before.times.tolist())
    assert [read_number(pixels) for pixels in frames.pixels] == [
        int(np.flatnonzero(before.times == time)[0]) for time in frames.times
    ]


def patch(path: Path, box: bytes, offset: int, content: bytes) -> Path:
    """Overwrite bytes of the first such box of an MP4 file, counted from behind its name."""
    data = bytearray(path.read_bytes())
    begin = data.index(box) + 4 + offset
    data[begin : begin + len(content)] = content
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("box", "offset", "content", "reason"),
    [
        (b"mdhd", 12, struct.pack(">I", 0), "the timescale is 0"),
        (b"stts", 12, struct.pack(">i", -512), "10 of 10 frames have a negative duration"),
        (b"stts", 12, struct.pack(">i", 0), "none of its 10 frames has a duration"),
    ],
)
def test_a_broken_table_of_times_is_told_instead_of_a_few_frames_shown(
    tmp_path, box, offset, content, reason
):
    clip = patch(write_clip(tmp_path / "a.mp4", 10, options=X264), box, offset, content)
    with pytest.raises(VideoError, match=f"its table of times cannot be used: {reason}") as caught:
        read_frames(clip, ALL)
    assert caught.value.code == "corrupt"


def test_a_single_duration_of_zero_is_no_broken_table(tmp_path):
    """The last frame of many recordings has none."""
    clip = write_clip(tmp_path / "a.mp4", 10, options=X264)
    content = clip.read_bytes()
    begin = content.index(b"stts") - 4
    # one entry of 10 frames becomes two: 9 frames, and 1 without a duration, in the room of `free`
    table = struct.pack(">I4sIIIIII", 32, b"stts", 0, 2, 9, 512, 1, 0)
    grown = content[:begin] + table + content[begin + 24 :]
    for name in (b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        place = grown.index(name) - 4
        size = struct.unpack(">I", grown[place : place + 4])[0]
        grown = grown[:place] + struct.pack(">I", size + 8) + grown[place + 4 :]
    clip.write_bytes(grown)
    frames = read_frames(clip, ALL)
    assert [read_number(pixels) for pixels in frames.pixels] == list(range(10))


def test_the_film_is_read_and_not_the_preview_before_it(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        preview = file.add_stream("mjpeg", rate=1)
        preview.width, preview.height, preview.pix_fmt = 64, 48, "yuvj420p"
        film = file.add_stream("libx264", rate=10, options=X264)
        film.width, film.height, film.pix_fmt = 160, 64, "yuv420p"
        preview.disposition, film.disposition = Disposition(0), Disposition.default
        for stream, images in (
            (preview, [draw_frame(0)[:48, :64]]),
            (film, [draw_frame(number) for number in range(20)]),
        ):
            for image in images:
                image = np.ascontiguousarray(image)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            file.mux(stream.encode(None))
    for backend in ("pyav", "decord"):
        frames = read_frames(path, VideoSettings(num_frames=100, backend=backend))
        assert [read_number(pixels) for pixels in frames.pixels] == list(range(20))
        assert frames.note is not None
        assert frames.note.endswith("2 video streams in it; number 1, 160x64, is read")


def test_a_subtitle_that_outlasts_the_pictures_is_no_truncation(tmp_path):
    """A piece cut out of a film begins with a line of dialogue that stands for 8 seconds."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options=X264)
        stream.width, stream.height, stream.pix_fmt = 160, 64, "yuv420p"
        lines = file.add_mux_stream("subrip")
        line = av.Packet(b"a long line")
        line.stream, line.time_base = lines, Fraction(1, 1000)
        line.pts = line.dts = 0
        line.duration = 8000
        file.mux(line)
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(draw_frame(number), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert read_frames(path, ALL).total_frames == 50


MATRICES = {
    "hflip": ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
    "vflip": ((1, 0, 0, -1), lambda frame: frame[::-1]),
    "transpose": ((0, 1, 1, 0), lambda frame: frame.transpose(1, 0, 2)),
    "transverse": ((0, -1, -1, 0), lambda frame: frame[::-1, ::-1].transpose(1, 0, 2)),
    "clockwise": ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
    "counterclockwise": ((0, -1, 1, 0), lambda frame: np.rot90(frame)),
    "half a turn": ((-1, 0, 0, -1), lambda frame: frame[::-1, ::-1]),
    "twice as large": ((2, 0, 0, 2), lambda frame: frame),
    "nothing": ((0, 0, 0, 0), lambda frame: frame),
}
"""What `ffmpeg -i` (7.1) shows of a display matrix's a, b, c and d."""


def with_matrix(clip: Path, a: float, b: float, c: float, d: float) -> Path:
    """Return a copy of an MP4 file with this display matrix in its track's header."""
    path = clip.with_name("turned.mp4")
    shutil.copy(clip, path)
    numbers = [int(value * ONE) for value in (a, b, c, d)]
    matrix = struct.pack(">9i", *numbers[:2], 0, *numbers[2:], 0, 0, 0, 1 << 30)
    return patch(path, b"tkhd", 40, matrix)


@pytest.mark.parametrize("backend", ["pyav", "decord"])
@pytest.mark.parametrize("name", MATRICES)
def test_a_frame_is_turned_and_mirrored_as_players_show_it(tmp_path, name, backend):
    matrix, show = MATRICES[name]
    settings = VideoSettings(num_frames=3, backend=backend)
    clip = write_clip(tmp_path / "a.mp4", 10, options=X264)
    plain = read_frames(clip, settings).pixels
    frames = read_frames(with_matrix(clip, *matrix), settings)
    np.testing.assert_array_equal(frames.pixels, [show(frame) for frame in plain])
    assert frames.pixels.flags.c_contiguous


@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_an_angle_that_is_no_quarter_turn_is_refused(tmp_path, backend):
    plain = write_clip(tmp_path / "a.mp4", 10, options=X264)
    clip = with_matrix(plain, 0.7071, 0.7071, -0.7071, 0.7071)
    with pytest.raises(VideoError, match="no quarter turn") as caught:
        read_frames(clip, VideoSettings(num_frames=3, backend=backend))
    assert caught.value.code == "rotated"


def test_a_clip_whose_frames_take_too_much_memory_is_refused_before_it_is_decoded(tmp_path):
    """40 frames of 160x64 are 1.2 MB."""
    clip = write_clip(tmp_path / "a.mp4", 40, options=X264)
    settings = VideoSettings(num_frames=40, max_clip_gb=0.001)
    with pytest.raises(VideoError, match=r"video\.max_clip_gb allows 0\.001") as caught:
        read_frames(clip, settings)
    assert caught.value.code == "too_large"
    assert len(read_frames(clip, settings.model_copy(update={"num_frames": 30})).indices) == 30


def test_a_stream_that_grows_in_the_middle_is_held_to_the_limit_too(tmp_path):
    first = write_clip(tmp_path / "first.ts", 10, options=X264)
    ticks = [3600 * number for number in range(10, 20)]
    second = write_clip(tmp_path / "second.ts", 10, size=(640, 320), ticks=ticks, options=X264)
    clip = tmp_path / "a.ts"
    clip.write_bytes(first.read_bytes() + second.read_bytes())
    assert probe(clip).width == 160
    with pytest.raises(VideoError, match="too_large"):
        read_frames(clip, VideoSettings(num_frames=20, max_clip_gb=0.002))
