"""Filters of what clips show: length, size, brightness, motion."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import draw_frame, write_clip
from PIL import Image
from sample_filters import load_filtered, make_sample

from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample
from dpo_video.recipe import Recipe
from dpo_video.store import RunStore
from dpo_video.video import ClipRequest, VideoError
from dpo_video.video.facts import KIND, probe_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 2 s at 5 frames per second unless named otherwise, and a folder of 4 frames."""
    folder = tmp_path_factory.mktemp("clips")
    black, still = np.zeros((64, 160, 3), np.uint8), draw_frame(3)
    write_clip(folder / "good.mp4", 10, rate=5)
    write_clip(folder / "turned.mp4", 10, rate=5, rotation=90)
    write_clip(folder / "black.mp4", 10, rate=5, pixels=[black] * 10)
    write_clip(folder / "still.mp4", 10, rate=5, pixels=[still] * 10)
    write_clip(folder / "short.mp4", 2, rate=5)
    write_clip(folder / "long.mp4", 50, rate=5)
    write_clip(folder / "small.mp4", 10, rate=5, size=(128, 32))
    (folder / "frames").mkdir()
    for number in range(4):
        Image.fromarray(draw_frame(number * 30)).save(folder / "frames" / f"{number}.png")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def about(clips: Path) -> list[Sample]:
    names = ["good", "turned", "black", "still", "short", "long", "small", "broken"]
    return [
        *(make_sample(name, video=str(clips / f"{name}.mp4")) for name in names),
        make_sample("frames", video=str(clips / "frames")),
        make_sample("part", video=str(clips / "long.mp4"), start=1.0, end=3.0),
        make_sample("remote", video="https://example.com/v.mp4"),
    ]


@pytest.mark.parametrize(
    ("settings", "reasons"),
    [
        ({"min_seconds": 1.0, "max_seconds": 5.0}, {"short": "short clip", "long": "long clip"}),
        ({"min_side": 48}, {"small": "small frames"}),
        ({"max_aspect": 3.0}, {"small": "aspect ratio"}),
        ({"min_brightness": 16.0}, {"black": "black"}),
        ({"min_motion": 1.0}, {"black": "still", "still": "still"}),
        (
            {"min_motion": 1.0, "min_seconds": 1.0, "frames": 3},
            {"black": "still", "still": "still", "short": "short clip"},
        ),
    ],
)
def test_clips_are_judged_by_what_they_show_and_unreadable_ones_left_for_later(
    tmp_path: Path, clips: Path, settings: dict[str, Any], reasons: dict[str, str]
) -> None:
    rows = about(clips)
    kept, found = load_filtered(tmp_path, rows, **settings)
    assert found == reasons
    assert kept == [row.id for row in rows if row.id not in reasons]


def test_headers_and_decoded_frames_tell_the_same_length_and_size(clips: Path) -> None:
    settings = Recipe.model_validate(
        {
            "name": "r",
            "model": {"name": "m"},
            "judge": {"model": "j"},
            "data": {"samples": "s"},
            "video": {"workers": 1},
        }
    ).video
    requests = [
        ClipRequest(key=name, video=clips / name, start=start, end=end)
        for name, start, end in (
            ("good.mp4", None, None),
            ("turned.mp4", None, None),
            ("long.mp4", 1.0, 3.0),
            ("frames", None, None),
        )
    ]
    headers = [facts for _, facts in probe_clips(settings, frames=None, store=None)(requests)]
    frames = [facts for _, facts in probe_clips(settings, frames=4, store=None)(requests)]
    for one, other in zip(headers, frames, strict=True):
        assert not isinstance(one, VideoError) and not isinstance(other, VideoError)
        assert (one.seconds, one.shorter, one.longer) == (
            other.seconds,
            other.shorter,
            other.longer,
        )
        assert one.brightness is None and other.brightness is not None and other.motion is not None
    assert [facts.seconds for facts in headers] == [2.0, 2.0, 2.0, 2.0]  # type: ignore[union-attr]


def test_what_is_known_of_a_clip_is_looked_up_until_its_file_changes(
    tmp_path: Path, clips: Path
) -> None:
    clip = tmp_path / "c.mp4"
    clip.write_bytes((clips / "good.mp4").read_bytes())
    with RunStore(tmp_path / "run") as store:

        def seconds() -> tuple[list[str], int]:
            kept, _ = load_filtered(
                tmp_path,
                [make_sample("c", video=str(clip))],
                store=store,
                max_seconds=9.0,
                min_seconds=0.1,
            )
            return kept, len(list(store.rows(KIND)))

        assert seconds() == (["c"], 1) and seconds() == (["c"], 1)
        clip.write_bytes((clips / "long.mp4").read_bytes())
        with pytest.raises(
            UserError,
            match=r"cleaning left none of 1 samples \(long clip 1\). Loosen the settings in",
        ):
            seconds()


def test_the_limit_counts_what_stays_and_drops_behind_it_are_not_told(
    tmp_path: Path, clips: Path
) -> None:
    rows = [
        make_sample(f"{name}{number}", video=str(clips / f"{name}.mp4"))
        for number in range(3)
        for name in ("black", "good")
    ]
    for workers_see_ahead in (True, False):
        settings: dict[str, Any] = (
            {"min_brightness": 16.0} if workers_see_ahead else {"max_per_source": 2}
        )
        kept, reasons = load_filtered(tmp_path, rows, limit=2, **settings)
        assert (kept, list(reasons)) == (
            (["good0", "good1"], ["black0", "black1"])
            if workers_see_ahead
            else (["black0", "good0"], [])
        )
    with pytest.raises(UserError, match="ids must be unique"):
        load_filtered(tmp_path, [*rows, rows[0]], limit=1, min_brightness=16.0)
