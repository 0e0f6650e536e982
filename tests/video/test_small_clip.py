"""Clips made small for a page: what plays in a browser shows the same frames at the same times."""

from pathlib import Path

import av
import numpy as np
import pytest
from clips import write_clip
from numpy.typing import NDArray
from PIL import Image

from dpo_video.toy.clips import SIDE, SOUND_RATE, encode
from dpo_video.video import ClipRequest, VideoError
from dpo_video.video.jobs import SmallClipSettings
from dpo_video.video.small_clip import write_small_clip


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as file:
        return [float(frame.pts * frame.time_base) for frame in file.decode(video=0)]


def sound_of(path: Path) -> tuple[NDArray[np.float32], int]:
    """Return all samples (S,) of a file's sound, and how many there are a second."""
    with av.open(str(path)) as file:
        rate = file.streams.audio[0].rate
        parts = [frame.to_ndarray()[0] for frame in file.decode(audio=0)]
    return np.concatenate(parts), rate


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


def test_what_is_heard_of_a_clip_is_heard_of_the_small_one_at_its_time(tmp_path: Path) -> None:
    """Noise from 1.0 to 1.2 s, in a part that begins at 0.5 s."""
    sound = np.zeros(2 * SOUND_RATE, np.float32)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, SOUND_RATE // 5)
    sound[SOUND_RATE : SOUND_RATE + len(noise)] = noise
    source = tmp_path / "a.mp4"
    source.write_bytes(encode(np.zeros((16, SIDE, SIDE, 3), np.uint8), sound))
    request = ClipRequest(key="a", video=source, start=0.5)
    small = write_small_clip(request, tmp_path / "b", SmallClipSettings())
    assert small.has_sound and small.note == ""
    heard, rate = sound_of(tmp_path / "b.mp4")
    assert rate == 32_000
    assert len(heard) / rate == pytest.approx(small.seconds, abs=0.1)
    loud = np.flatnonzero(np.abs(heard) > 0.1) / rate
    assert loud[0] == pytest.approx(0.5, abs=0.01) and loud[-1] == pytest.approx(0.7, abs=0.01)
    assert np.sqrt(np.mean(heard[np.abs(heard) > 0.1] ** 2)) == pytest.approx(0.3, abs=0.1)


def test_a_clip_without_sound_has_no_track_of_it(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", 20)
    small = write_small_clip(
        ClipRequest(key="a", video=source), tmp_path / "b", SmallClipSettings()
    )
    assert not small.has_sound
    with av.open(str(tmp_path / "b.mp4")) as file:
        assert not file.streams.audio


def test_sound_stands_beside_its_frames_in_the_file(tmp_path: Path) -> None:
    """A player that has read half a minute has the sound of half a minute: the bytes of both come
    in the order of their times, to a second or so.
    """
    source = write_clip(tmp_path / "a.mp4", 200, rate=5, sound=40.0)
    write_small_clip(ClipRequest(key="a", video=source), tmp_path / "b", SmallClipSettings())
    with av.open(str(tmp_path / "b.mp4")) as file:
        places = sorted(
            (packet.pos, packet.stream.type, float(packet.pts * packet.time_base))
            for packet in file.demux()
            if packet.pts is not None
        )
    reached = {"audio": 0.0, "video": 0.0}
    for _, kind, second in places:
        reached[kind] = max(reached[kind], second)
        if max(reached.values()) < 39:
            assert abs(reached["audio"] - reached["video"]) < 12
    assert reached["audio"] > 39 and reached["video"] > 39
