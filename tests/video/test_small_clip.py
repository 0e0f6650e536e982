"""Clips made small for a page: what plays in a browser shows the same frames at the same times."""

from pathlib import Path

import av
import pytest
from clips import write_clip
from PIL import Image

from dpo_video.video import ClipRequest, VideoError
from dpo_video.video.jobs import SmallClipSettings
from dpo_video.video.small_clip import write_small_clip


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as file:
        return [float(frame.pts * frame.time_base) for frame in file.decode(video=0)]


def test_a_large_clip_is_fitted_and_keeps_its_times(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", 30, size=(1280, 720), rate=10, codec="mpeg4")
    request = ClipRequest(key="a", video=source)
    small = write_small_clip(request, tmp_path / "small" / "a", SmallClipSettings())
    assert (small.width, small.height) == (640, 360)
    assert small.seconds == pytest.approx(3.0) and small.note == ""
    with av.open(str(tmp_path / "small" / "a.mp4")) as file:
        stream = file.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.format.name == "yuv420p"
    assert times_of(tmp_path / "small" / "a.mp4") == pytest.approx(
        [step / 10 for step in range(30)]
    )
    assert Image.open(tmp_path / "small" / "a.jpg").size == (640, 360)
    assert Image.open(tmp_path / "small" / "a-strip.jpg").size == (6 * 160, 90)


def test_a_part_of_a_file_begins_at_zero_and_many_frames_are_thinned(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", 120, rate=60)
    request = ClipRequest(key="a", video=source, start=1.0, end=1.5)
    small = write_small_clip(request, tmp_path / "b", SmallClipSettings())
    times = times_of(tmp_path / "b.mp4")
    assert times[0] == 0 and len(times) == 15 and times[-1] == pytest.approx(28 / 60, abs=1e-3)
    assert small.fps == 30


def test_a_long_clip_is_cut_and_says_so(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", 40, rate=4)
    settings = SmallClipSettings(max_seconds=5, with_video=False)
    small = write_small_clip(ClipRequest(key="a", video=source), tmp_path / "b", settings)
    assert small.note == "the first 5 seconds"
    assert not (tmp_path / "b.mp4").exists() and (tmp_path / "b.jpg").is_file()


def test_a_folder_of_frames_becomes_a_clip(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(4):
        Image.new("RGB", (64, 48), (60 * number, 0, 0)).save(frames / f"{number}.png")
    write_small_clip(ClipRequest(key="a", video=frames), tmp_path / "b", SmallClipSettings())
    assert times_of(tmp_path / "b.mp4") == pytest.approx([0, 0.5, 1.0, 1.5])


def test_what_is_no_video_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(VideoError, match="not_a_video"):
        write_small_clip(
            ClipRequest(key="a", video=tmp_path / "a.mp4"), tmp_path / "b", SmallClipSettings()
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
