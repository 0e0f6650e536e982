"""Which frames are picked, against the slow obvious way."""

import numpy as np
import pytest
from clips import write_clip
from hypothesis import given
from hypothesis import strategies as st

from dpo_video.recipe import VideoSettings
from dpo_video.video import frame_indices
from dpo_video.video.policies import extent, rate, window
from dpo_video.video.read import read_frames, small_pictures

gaps = st.lists(st.floats(0.01, 2.0), max_size=60)


def seconds(gaps: list[float]) -> np.ndarray:
    """Return ascending times that begin at 0."""
    return np.concatenate([[0.0], np.cumsum(gaps)])


def test_uniform_takes_first_and_last_and_the_nearest_between():
    assert frame_indices(np.arange(100) / 25, VideoSettings(num_frames=4)) == [0, 33, 66, 99]


def test_uniform_takes_every_frame_of_a_clip_that_has_fewer():
    assert frame_indices(np.arange(3) / 25, VideoSettings(num_frames=8)) == [0, 1, 2]


def test_fps_takes_so_many_frames_of_each_second():
    """50 frames at 10 per second are 5 s: 2 per second make 10, evenly from frame 0 to 49
    (qwen-vl-utils' rule).
    """
    picked = frame_indices(np.arange(50) / 10, VideoSettings(policy="fps", fps=2.0))
    assert picked == np.linspace(0, 49, 10).round().tolist()


@pytest.mark.parametrize(("frames", "expected"), [(2, 2), (10, 4), (50, 10), (10_000, 20)])
def test_fps_keeps_to_its_least_and_most_frames_and_to_those_there_are(frames, expected):
    settings = VideoSettings(policy="fps", fps=2.0, min_frames=4, max_frames=20)
    assert len(frame_indices(np.arange(frames) / 10, settings)) == expected


@given(gaps, st.floats(0.1, 30))
def test_fps_picks_by_time_on_a_varying_rate(gaps, fps):
    """Each picked frame is (one of) the nearest in time to its moment; moments are evenly
    spaced.
    """
    times = seconds(gaps)
    picked = frame_indices(times, VideoSettings(policy="fps", fps=fps, min_frames=1, max_frames=16))
    for moment, index in zip(np.linspace(0, times[-1], len(picked)), picked, strict=True):
        assert abs(times[index] - moment) <= np.abs(times - moment).min() + 1e-5


@given(gaps, st.sampled_from(["uniform", "fps"]), st.integers(1, 20), st.integers(1, 4))
def test_positions_are_ascending_within_the_clip_and_a_multiple_in_number(
    gaps, policy, count, multiple_of
):
    times = seconds(gaps)
    settings = VideoSettings(policy=policy, num_frames=count, max_frames=count, min_frames=1)
    picked = frame_indices(times, settings, multiple_of=multiple_of)
    assert picked == sorted(picked)
    assert 0 <= picked[0] <= picked[-1] < len(times)
    assert 1 <= len(picked) <= min(count, len(times))
    assert len(picked) % multiple_of == 0 or len(picked) < multiple_of


@given(gaps, st.floats(0, 100), st.floats(0, 100))
def test_a_part_holds_the_frames_on_screen_between_its_ends(gaps, start, end):
    """Frame k is on screen from its time to the next frame's; the last one as long as the one
    before, or, where no frame stands further than a quarter of a frame off a steady rate, for the
    mean length.
    """
    times = seconds(gaps)
    mean = times[-1] / len(gaps) if gaps else 1.0
    off = max(abs(time - place * mean) for place, time in enumerate(times))
    shown_until = np.append(times[1:], times[-1] + (mean if off <= mean / 4 else gaps[-1]))
    expected = [
        index
        for index in range(len(times))
        if times[index] < end and shown_until[index] > start < end
    ]
    picked = frame_indices(times, VideoSettings(num_frames=1000), start=start, end=end)
    near = np.abs(np.append(times, shown_until[-1])[:, None] - [start, end]).min() < 1e-5
    assert near or picked == expected


@given(
    st.integers(2, 400),
    st.sampled_from([10, 24000 / 1001, 29.97, 60, 120]),
    st.integers(0, 3),
    st.data(),
)
def test_a_part_at_a_steady_rate_lasts_as_many_mean_frames_as_it_has(frames, fps, decimals, data):
    """However its times are rounded, to milliseconds or finer: bit for bit what counting frames
    gives.
    """
    times = (np.arange(frames) / fps).round(3 + decimals)
    first = data.draw(st.integers(0, frames - 1))
    part = range(first, data.draw(st.integers(first + 1, frames)))
    where = extent(times, part, float(times[first]), None)
    assert (where.begin, where.last) == (times[first], times[part.stop - 1])
    assert (where.duration, where.rate) == (len(part) / rate(times), rate(times))


VARYING = np.concatenate([np.arange(300) / 30, np.arange(10, 60)])
"""Ten seconds at 30 frames a second, then fifty at one."""


@pytest.mark.parametrize(
    ("start", "end", "duration", "count"),
    [
        (20.0, 50.0, 30.0, 30),
        (0.0, 10.0, 10.0, 10),
        (5.0, 15.0, 10.0, 10),
        (30.5, 40.5, 10.0, 10),
        (20.0, None, 40.0, 40),
        (None, 10.0, 10.0, 10),
        (50.0, 1000.0, 10.0, 10),
    ],
)
def test_a_part_of_a_varying_rate_lasts_as_long_as_it_is_shown(start, end, duration, count):
    part = window(VARYING, start, end)
    where = extent(VARYING, part, start, end)
    assert where.duration == pytest.approx(duration)
    assert where.rate == pytest.approx(len(part) / duration)
    picked = frame_indices(
        VARYING, VideoSettings(policy="fps", fps=1.0, min_frames=2), start=start, end=end
    )
    assert len(picked) == count
    moments = np.maximum(VARYING[picked], where.begin) - where.begin
    np.testing.assert_allclose(moments, np.arange(count) * duration / count, atol=1.0)


def test_a_last_frame_that_stands_is_picked_for_all_its_moments():
    """Thirty frames in one second, then one that stands to the end of a part of 9 s: 2 a second are
    18 frames, about two of which are of the first second."""
    times = np.concatenate([np.arange(30) / 30, [1.0, 41.0, 42.0]])
    picked = frame_indices(times, VideoSettings(policy="fps", fps=2.0), start=0.0, end=9.0)
    assert len(picked) == 18 and picked == sorted(picked)
    assert picked.count(30) == 16


def film(shots: list[tuple[int, int]]) -> np.ndarray:
    """Return frames (F, 64, 96, 3) of shots: grey of one brightness for so many frames each."""
    return np.concatenate([np.full((length, 64, 96, 3), grey, np.uint8) for length, grey in shots])


def planned(pixels: np.ndarray, **settings: object) -> list[int]:
    """Return the plan for frames at 10 a second, all looked at."""
    video = VideoSettings.model_validate({"fps": 10.0, "min_frames": 1, **settings})
    return frame_indices(
        np.arange(len(pixels)) / 10, video, look=lambda at: small_pictures(pixels[at])
    )


def test_scene_takes_the_middle_frame_of_each_shot():
    """Shots of frames 0-9, 10-29 and 30-34: middles 4 (of 0..9), 19 and 32."""
    assert planned(film([(10, 40), (20, 200), (5, 90)]), policy="scene") == [4, 19, 32]


def test_scene_keeps_the_greatest_changes_over_the_most_and_fills_up_to_the_least():
    """Steps of brightness 60, 20 and 120 of 255: with room for 3, the shot that opens with the
    smallest goes.
    """
    shots = film([(10, 20), (10, 80), (10, 100), (10, 220)])
    assert planned(shots, policy="scene", max_frames=3, change=0.05) == [4, 14, 34]
    assert planned(film([(9, 50)]), policy="scene", min_frames=3) == [0, 4, 8]


def test_diff_prune_compares_with_the_last_frame_taken_not_with_the_one_before():
    """A ramp of 1 of 255 a frame never changes between neighbours by 10 of 255; against the last
    one taken it does.
    """
    ramp = np.stack([np.full((64, 96, 3), 100 + step, np.uint8) for step in range(45)])
    assert planned(ramp, policy="diff_prune", change=10 / 255 - 1e-4) == [0, 10, 20, 30, 40]
    assert planned(ramp, policy="scene", change=10 / 255) == [22]


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 255)), min_size=1, max_size=8),
    st.sampled_from(["scene", "diff_prune"]),
    st.integers(1, 6),
    st.integers(0, 10),
    st.integers(1, 3),
)
def test_looking_policies_keep_to_their_bounds(shots, policy, least, more, multiple_of):
    pixels = film(shots)
    video = VideoSettings.model_validate(
        {"policy": policy, "fps": 10.0, "min_frames": least, "max_frames": least + more}
    )
    picked = frame_indices(
        np.arange(len(pixels)) / 10,
        video,
        multiple_of=multiple_of,
        look=lambda at: small_pictures(pixels[at]),
    )
    assert picked == sorted(set(picked))
    assert (
        min(least, len(pixels), least + more) - multiple_of
        < len(picked)
        <= min(least + more, len(pixels))
    )
    assert len(picked) % multiple_of == 0 or len(picked) < multiple_of


def test_all_takes_every_frame_up_to_its_most():
    times = np.arange(30) / 25
    assert frame_indices(times, VideoSettings(policy="all")) == list(range(30))
    assert frame_indices(times, VideoSettings(policy="all", max_frames=4)) == [0, 10, 19, 29]


def test_a_file_is_looked_at_by_the_rate_and_then_read_exactly(tmp_path):
    """At 5 of 25 frames a second, 60 frames are looked at as 12; the file has shots of 20, 25 and
    15 frames.
    """
    path = write_clip(
        tmp_path / "shots.mp4",
        60,
        size=(96, 64),
        pixels=iter(film([(20, 40), (25, 200), (15, 90)])),
    )
    frames = read_frames(path, VideoSettings(policy="scene", fps=5.0, min_frames=1))
    assert frames.looked_at == 12
    assert len(frames.indices) == 3
    for index, low, high, grey in zip(
        frames.indices, (0, 20, 45), (20, 45, 60), (40, 200, 90), strict=True
    ):
        assert low <= index < high
        assert abs(float(frames.pixels[frames.indices.index(index)].mean()) - grey) < 4
    assert read_frames(path, VideoSettings(policy="uniform")).looked_at == 0
