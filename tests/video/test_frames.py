"""The records around a clip: what processors are told, clip names, paths."""

import pickle
from pathlib import Path

import pytest
from clips import SIZE, write_clip

from dpo_video.core.records import Sample
from dpo_video.recipe import VideoSettings
from dpo_video.video import (
    ClipRequest,
    VideoError,
    cache,
    clip_key,
    resolve_video,
    subsample,
    video_metadata,
)
from dpo_video.video.cache import frames_identity, part_identity
from dpo_video.video.facts import ClipFacts, probe_clips
from dpo_video.video.read import read_frames


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Return four seconds at 25 frames a second."""
    return write_clip(
        tmp_path_factory.mktemp("clip") / "a.mp4", 100, options={"preset": "ultrafast"}
    )


def sampled_rate(metadata: dict) -> float:
    """Return the rate as transformers reckons it (video_utils.VideoMetadata.sampled_fps, 5.23)."""
    return len(metadata["frames_indices"]) / metadata["total_num_frames"] * metadata["fps"]


def test_metadata_of_a_whole_clip(clip):
    frames = read_frames(clip, VideoSettings(num_frames=5))
    assert video_metadata(frames) == {
        "total_num_frames": 100,
        "fps": pytest.approx(25),
        "duration": pytest.approx(4.0),
        "frames_indices": [0, 25, 50, 74, 99],
        "width": SIZE[0],
        "height": SIZE[1],
        "video_backend": "pyav",
    }


def test_a_part_is_described_as_a_video_of_its_own(clip):
    """8 frames of 2 seconds are 4 a second, whatever the length of the file; times count from the
    part's beginning.
    """
    metadata = video_metadata(read_frames(clip, VideoSettings(num_frames=8), start=1.0, end=3.0))
    assert sampled_rate(metadata) == pytest.approx(4.0)
    assert (metadata["frames_indices"][0], metadata["frames_indices"][-1]) == (0, 49)


def test_thinned_frames_have_the_lower_rate(clip):
    frames = subsample(read_frames(clip, VideoSettings(num_frames=16)), 4)
    assert sampled_rate(video_metadata(frames)) == pytest.approx(1.0)


def test_at_a_varying_rate_indices_tell_the_true_times(tmp_path):
    """20 frames over 1 s, then 10 over 4 s: index / fps is the frame's time to within half a
    nominal frame.
    """
    ticks = [4500 * number for number in range(20)] + [
        90_000 + 36_000 * number for number in range(10)
    ]
    frames = read_frames(
        write_clip(tmp_path / "a.mp4", 30, rate=30, ticks=ticks), VideoSettings(num_frames=30)
    )
    metadata = video_metadata(frames)
    for index, time in zip(metadata["frames_indices"], frames.times, strict=True):
        assert abs(index / metadata["fps"] - time) <= 0.5 / metadata["fps"] + 1e-6


@pytest.fixture(scope="module")
def varying(tmp_path_factory):
    """Return two seconds at 30 frames a second, then ten at one."""
    ticks = [
        *(3000 * number for number in range(60)),
        *(90_000 * second for second in range(2, 12)),
    ]
    return write_clip(tmp_path_factory.mktemp("varying") / "a.mp4", 70, rate=30, ticks=ticks)


@pytest.mark.parametrize(("start", "end", "total"), [(3.0, 9.0, 6), (0.0, 2.0, 60), (1.0, 5.0, 33)])
def test_a_part_at_a_varying_rate_is_described_by_its_own_rate(varying, start, end, total):
    """Not by the file's mean of 6 frames a second: the part of 6 s from 3 on has 6 frames, and 2 a
    second are 6.
    """
    settings = VideoSettings(policy="fps", fps=2.0, min_frames=1)
    frames = read_frames(varying, settings, start=start, end=end)
    metadata = video_metadata(frames)
    assert (metadata["total_num_frames"], metadata["duration"]) == (
        total,
        pytest.approx(end - start),
    )
    assert metadata["fps"] == pytest.approx(total / (end - start))
    assert len(frames.indices) == min(total, 2 * (end - start))
    assert sampled_rate(metadata) == pytest.approx(len(frames.indices) / (end - start))
    for index, time in zip(metadata["frames_indices"], frames.times, strict=True):
        assert abs(index / metadata["fps"] - (time - start)) <= 0.5 / metadata["fps"] + 1e-6
    ((_, facts),) = probe_clips(settings, frames=None, store=None)(
        [ClipRequest(key="a", video=varying, start=start, end=end)]
    )
    assert isinstance(facts, ClipFacts) and facts.seconds == pytest.approx(end - start)


def test_a_part_at_a_varying_rate_begins_at_its_start_within_a_long_frame(varying):
    """From 4.5 to 6.5: the frames of seconds 4, 5 and 6, which come 0, 0.5 and 1.5 s after its
    beginning.
    """
    frames = read_frames(varying, VideoSettings(), start=4.5, end=6.5)
    metadata = video_metadata(frames)
    assert frames.times.tolist() == pytest.approx([4.0, 5.0, 6.0])
    assert (frames.start_time, metadata["duration"], metadata["fps"]) == (
        4.5,
        pytest.approx(2.0),
        pytest.approx(1.5),
    )
    assert metadata["frames_indices"] == [0, 1, 2]


def test_a_part_within_a_long_last_frame_is_that_frame(varying):
    frames = read_frames(varying, VideoSettings(), start=11.5, end=12.0)
    assert frames.times.tolist() == pytest.approx([11.0])
    assert frames.duration == pytest.approx(0.5)
    with pytest.raises(VideoError, match="its last frame is at 11"):
        read_frames(varying, VideoSettings(), start=12.0)


def test_what_was_kept_of_a_part_with_times_reckoned_otherwise_is_not_met_again(clip, monkeypatch):
    """Entries of whole files, whose times did not change, are."""
    whole, part = ClipRequest(key="a", video=clip), ClipRequest(key="a", video=clip, start=1.0)
    settings = VideoSettings()
    now = [frames_identity(request, settings, multiple_of=1) for request in (whole, part)]
    monkeypatch.setattr(cache, "PART_TIMES", 1)
    before = [frames_identity(request, settings, multiple_of=1) for request in (whole, part)]
    assert now[0] == before[0] and now[1] != before[1]
    assert part_identity(None, None) == {"start": None, "end": None}


def test_the_number_of_frames_is_a_multiple_where_asked(clip):
    assert len(read_frames(clip, VideoSettings(num_frames=7), multiple_of=2).indices) == 6
    assert len(read_frames(clip, VideoSettings(num_frames=1), multiple_of=2).indices) == 1


def sample(video, **part):
    return Sample(id="1", video=video, prompt="?", caption=".", **part)


def test_clip_names_differ_where_clips_differ():
    samples = [
        sample("a.mp4"),
        sample("a.mp4", start=1.0),
        sample("a.mp4", end=1.0),
        sample("a.mp4", start=0, end=1.0),
        sample("b.mp4"),
        sample(["1.jpg", "2.jpg"]),
        sample(["1.jpg", "3.jpg"]),
        sample(["2.jpg", "1.jpg"]),
    ]
    names = [clip_key(each) for each in samples]
    assert names[:4] == ["a.mp4", "a.mp4#t=1.0,", "a.mp4#t=,1.0", "a.mp4#t=0.0,1.0"]
    assert len(set(names)) == len(names)
    assert clip_key(sample("a.mp4", start=1)) == clip_key(sample("a.mp4", start=1.0))


def test_relative_paths_start_from_the_root(tmp_path):
    assert resolve_video("clips/a.mp4", tmp_path) == tmp_path / "clips" / "a.mp4"
    assert resolve_video(str(tmp_path / "a.mp4"), Path("elsewhere")) == tmp_path / "a.mp4"
    assert resolve_video(["1.jpg", "2.jpg"], tmp_path) == [tmp_path / "1.jpg", tmp_path / "2.jpg"]


def test_a_local_name_that_looks_like_an_address_is_a_file(tmp_path):
    name = "http:/a b%20#c.mp4"
    (tmp_path / "http:").mkdir()
    write_clip(tmp_path / name, 3)
    assert read_frames(resolve_video(name, tmp_path), VideoSettings()).total_frames == 3


@pytest.mark.parametrize(
    "name", ["clip%03d.mp4", "concat:a.mp4", "-i.mp4", "a b'\"$x.mp4", "\u4e2d.mp4", "a|b.mkv"]
)
def test_any_name_is_a_name(tmp_path, name):
    assert read_frames(write_clip(tmp_path / name, 3), VideoSettings()).total_frames == 3


def test_a_video_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(VideoError("corrupt", Path("a.mp4"), "damaged")))
    assert (error.code, error.path, error.reason) == ("corrupt", Path("a.mp4"), "damaged")
    assert str(error) == "cannot read 'a.mp4': damaged [corrupt]"
