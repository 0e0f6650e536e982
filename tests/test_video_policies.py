"""Which frames are picked, against the slow obvious way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_video.recipe import VideoSettings
from dpo_video.video import plan_indices

gaps = st.lists(st.floats(0.01, 2.0), max_size=60)


def seconds(gaps: list[float]) -> np.ndarray:
    """Return ascending times that begin at 0."""
    return np.concatenate([[0.0], np.cumsum(gaps)])


def test_uniform_takes_first_and_last_and_the_nearest_between():
    assert plan_indices(np.arange(100) / 25, VideoSettings(num_frames=4)) == [0, 33, 66, 99]


def test_uniform_takes_every_frame_of_a_clip_that_has_fewer():
    assert plan_indices(np.arange(3) / 25, VideoSettings(num_frames=8)) == [0, 1, 2]


def test_fps_takes_so_many_frames_of_each_second():
    """50 frames at 10 per second are 5 s: 2 per second make 10, evenly from frame 0 to 49 (qwen-vl-utils' rule)."""
    picked = plan_indices(np.arange(50) / 10, VideoSettings(policy="fps", fps=2.0))
    assert picked == np.linspace(0, 49, 10).round().tolist()


@pytest.mark.parametrize(("frames", "expected"), [(2, 2), (10, 4), (50, 10), (10_000, 20)])
def test_fps_keeps_to_its_least_and_most_frames_and_to_those_there_are(frames, expected):
    settings = VideoSettings(policy="fps", fps=2.0, min_frames=4, max_frames=20)
    assert len(plan_indices(np.arange(frames) / 10, settings)) == expected


@given(gaps, st.floats(0.1, 30))
def test_fps_picks_by_time_on_a_varying_rate(gaps, fps):
    """Each picked frame is (one of) the nearest in time to its moment; moments are evenly spaced."""
    times = seconds(gaps)
    picked = plan_indices(times, VideoSettings(policy="fps", fps=fps, min_frames=1, max_frames=16))
    for moment, index in zip(np.linspace(0, times[-1], len(picked)), picked, strict=True):
        assert abs(times[index] - moment) <= np.abs(times - moment).min() + 1e-5


@given(gaps, st.sampled_from(["uniform", "fps"]), st.integers(1, 20), st.integers(1, 4))
def test_positions_are_ascending_within_the_clip_and_a_multiple_in_number(gaps, policy, count, multiple_of):
    times = seconds(gaps)
    settings = VideoSettings(policy=policy, num_frames=count, max_frames=count, min_frames=1)
    picked = plan_indices(times, settings, multiple_of=multiple_of)
    assert picked == sorted(picked)
    assert 0 <= picked[0] <= picked[-1] < len(times)
    assert 1 <= len(picked) <= min(count, len(times))
    assert len(picked) % multiple_of == 0 or len(picked) < multiple_of


@given(gaps, st.floats(0, 100), st.floats(0, 100))
def test_a_part_holds_the_frames_on_screen_between_its_ends(gaps, start, end):
    """Frame k is on screen from its time to the next frame's; the last one for the mean length of a frame."""
    times = seconds(gaps)
    mean = times[-1] / len(gaps) if gaps else 1.0
    shown_until = np.append(times[1:], times[-1] + mean)
    expected = [index for index in range(len(times)) if times[index] < end and shown_until[index] > start < end]
    picked = plan_indices(times, VideoSettings(num_frames=1000), start=start, end=end)
    near = np.abs(np.append(times, shown_until[-1])[:, None] - [start, end]).min() < 1e-5
    assert near or picked == expected
