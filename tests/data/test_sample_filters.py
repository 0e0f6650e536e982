"""Cleaning of training samples: each filter, what it counts, and where the counts are shown."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from clips import draw_frame, write_clip
from PIL import Image

from dpo_video.check.command import check
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Sample
from dpo_video.core.text import shingles, similarity
from dpo_video.data.near_duplicates import is_near, near_index, num_bands
from dpo_video.data.removed import write_removed
from dpo_video.data.sample_filters import is_on, language_of, source_of
from dpo_video.data.samples import load_samples
from dpo_video.recipe import CleanSettings, Recipe
from dpo_video.recipe.file import load_recipe
from dpo_video.run import open_run
from dpo_video.store import RunStore
from dpo_video.video import ClipRequest, VideoError
from dpo_video.video.facts import KIND, probe_clips

STORY = """dog runs over green grass while two children throw a red ball and their mother reads
beside the old wooden house near a river with boats"""

GERMAN = (
    "Ein Hund rennt im Garten umher, zwei Kinder werfen einen Ball und ihre Mutter liest neben dem "
    "Haus ein Buch"
)
CHINESE = (
    "\u4e00\u4e2a\u7a7f\u7ea2\u8272\u886c\u886b\u7684\u7537\u4eba\u5728\u6d77\u6ee9\u4e0a"
    "\u5e26\u7740\u4ed6\u7684\u72d7\u6563\u6b65\u592a\u9633\u6b63\u5728\u843d\u5c71"
)


def text(seed: int, count: int = 30) -> str:
    return " ".join(random.Random(seed).choices(STORY.split(), k=count))


def sample(
    name: str,
    *,
    video: str = "a/v.mp4",
    prompt: str = "What happens?",
    caption: str | None = None,
    **given: Any,
) -> Sample:
    return Sample(
        id=name, video=video, prompt=prompt, caption=caption or text(crc32(name.encode())), **given
    )


def load(
    folder: Path,
    samples: list[Sample],
    *,
    heldout: list[Sample] | None = None,
    limit: int | None = None,
    store: RunStore | None = None,
    **clean: Any,
) -> tuple[list[str], dict[str, str]]:
    """Return the ids that stay, and the reasons by id of those that do not."""
    write_jsonl(folder / "samples.jsonl", samples)
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "runs_folder": str(folder / "runs"),
            "model": {"name": "m"},
            "judge": {"model": "j"},
            "data": {
                "samples": str(folder / "samples.jsonl"),
                "limit": limit,
                "outside_root": True,
            },
            "clean": clean,
            "video": {"workers": 1},
        }
    )
    loaded = load_samples(recipe, "samples", heldout=heldout or (), store=store)
    return [row.id for row in loaded.samples], {row.id: row.reason for row in loaded.removed}


def test_nothing_is_left_out_unless_a_filter_is_set(tmp_path: Path) -> None:
    rows = [
        sample("a", caption="x"),
        sample("b", caption="I cannot see the video."),
        sample("c", caption="x"),
    ]
    assert load(tmp_path, rows) == (["a", "b", "c"], {})
    assert not is_on(CleanSettings()) and not is_on(
        CleanSettings(same_answer=0.5, drop_cut_answers=True, frames=2)
    )
    assert is_on(CleanSettings(max_seconds=9.0)) and is_on(CleanSettings(languages=["en"]))


def test_captions_are_judged_by_length_language_and_refusal(tmp_path: Path) -> None:
    rows = [
        sample("short", caption="a dog runs"),
        sample("long", caption=text(0, 60)),
        sample("german", caption=GERMAN),
        sample("chinese", caption=CHINESE),
        sample(
            "refused",
            caption="I'm sorry, but I cannot view the video that you have sent me here today.",
        ),
        sample(
            "fine",
            caption="A dog runs over the green grass while two children throw a red ball to it.",
        ),
    ]
    assert load(
        tmp_path,
        rows,
        caption_min_words=5,
        caption_max_words=50,
        languages=["en"],
        drop_refusals=True,
    ) == (
        ["fine"],
        {
            "short": "short caption",
            "long": "long caption",
            "german": "language",
            "refused": "refusal",
            "chinese": "short caption",
        },
    )  # without spaces it is one word
    assert load(tmp_path, rows, languages=["en", "zh"])[1] == {"german": "language"}
    assert (language_of(rows[2].caption), language_of(rows[3].caption)) == ("de", "zh")


def test_repeated_samples_are_found_by_question_and_caption_together(tmp_path: Path) -> None:
    """The same question about other clips is no repetition, nor is another question about the same
    caption.
    """
    caption = text(1)
    rows = [
        sample("first", caption=caption),
        sample("again", caption=caption.upper() + "!", prompt="what happens"),
        sample("near", caption=caption.replace(caption.split()[14], "cat", 1)),
        sample("other question", caption=caption, prompt="Who throws the ball?"),
        sample("other clip", caption=text(2)),
    ]
    near = similarity(shingles(rows[0].caption), shingles(rows[2].caption))
    assert 0.8 < near < 1
    assert load(tmp_path, rows, sample_similarity=1.0)[1] == {"again": "repeats another sample"}
    assert set(load(tmp_path, rows, sample_similarity=near)[1]) == {"again", "near"}
    assert set(load(tmp_path, rows, sample_similarity=min(1.0, near + 0.01))[1]) == {"again"}


def test_a_copy_of_a_held_out_sample_under_another_name_is_left_out(tmp_path: Path) -> None:
    caption = text(5)
    held = [sample("h", video="held/x.mp4", caption=caption)]
    rows = [
        sample("copy", video="train/y.mp4", caption=caption + " ."),
        sample("own", caption=text(6)),
    ]
    kept, reasons = load(tmp_path, rows, heldout=held, heldout_similarity=0.9)
    assert (kept, reasons) == (["own"], {"copy": "repeats a held-out sample"})
    assert load(tmp_path, rows, heldout=held)[0] == ["copy", "own"]


def test_the_index_finds_what_comparing_all_pairs_finds() -> None:
    """300 texts with near copies: MinHash may miss one pair in a thousand at the threshold; none of
    these.
    """
    chance = random.Random(0)
    texts = []
    for number in range(100):
        words = text(number, 40).split()
        texts.append(" ".join(words))
        for changes in (1, 3):
            other = list(words)
            for place in chance.sample(range(40), changes):
                other[place] = "changed"
            texts.append(" ".join(other))
    least = 0.8
    add, find = near_index(least)
    found, wanted = [], []
    for number, each in enumerate(texts):
        found.append(list(find(each)))
        wanted.append([other for other in range(number) if is_near(each, texts[other], least)])
        add(each, number)
    assert found == wanted and sum(map(len, wanted)) > 80


@pytest.mark.parametrize("least", [0.3, 0.5, 0.8, 0.9, 0.95, 0.99])
def test_bands_are_the_fewest_that_miss_at_most_one_in_a_thousand(least: float) -> None:
    bands = num_bands(least)
    rows = 128 // bands
    assert (1 - least**rows) ** bands <= 1e-3 or bands == 128
    if bands > 1:
        assert (1 - least ** (rows * 2)) ** (bands // 2) > 1e-3


def test_a_source_gives_at_most_so_many_samples_the_first_ones(tmp_path: Path) -> None:
    rows = [
        sample(f"{folder}{number}", video=f"{folder}/{number}.mp4")
        for number in range(4)
        for folder in "ab"
    ]
    kept, reasons = load(tmp_path, rows, max_per_source=2)
    assert kept == ["a0", "b0", "a1", "b1"] and set(reasons.values()) == {
        "over the cap of its source"
    }
    assert source_of(sample("x", video=["web/clip7/1.png", "web/clip7/2.png"])) == "web"  # type: ignore[arg-type]


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
        *(sample(name, video=str(clips / f"{name}.mp4")) for name in names),
        sample("frames", video=str(clips / "frames")),
        sample("part", video=str(clips / "long.mp4"), start=1.0, end=3.0),
        sample("remote", video="https://example.com/v.mp4"),
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
    kept, found = load(tmp_path, rows, **settings)
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
            kept, _ = load(
                tmp_path,
                [sample("c", video=str(clip))],
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
        sample(f"{name}{number}", video=str(clips / f"{name}.mp4"))
        for number in range(3)
        for name in ("black", "good")
    ]
    for workers_see_ahead in (True, False):
        settings: dict[str, Any] = (
            {"min_brightness": 16.0} if workers_see_ahead else {"max_per_source": 2}
        )
        kept, reasons = load(tmp_path, rows, limit=2, **settings)
        assert (kept, list(reasons)) == (
            (["good0", "good1"], ["black0", "black1"])
            if workers_see_ahead
            else (["black0", "good0"], [])
        )
    with pytest.raises(UserError, match="ids must be unique"):
        load(tmp_path, [*rows, rows[0]], limit=1, min_brightness=16.0)


def test_a_run_tells_what_was_left_out_with_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [sample("good"), sample("bad", caption="I cannot see the video."), sample("fine")]
    write_jsonl(tmp_path / "samples.jsonl", rows)
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "runs_folder": str(tmp_path),
            "model": {"name": "m"},
            "tracking": {"to": "none"},
            "data": {"samples": str(tmp_path / "samples.jsonl")},
            "clean": {"drop_refusals": True},
            "judge": {"model": "j", "scorer": "caption_score"},
        }
    )
    with open_run(recipe) as run:
        assert [row.id for row in run.samples] == ["good", "fine"] and run.cleaned == {"refusal": 1}
    said = capsys.readouterr().out
    assert f"clean: samples in 3, out 2 (refusal 1); {tmp_path / 'r' / 'cleaned.jsonl'}" in said
    row = json.loads((tmp_path / "r" / "cleaned.jsonl").read_text())
    assert row == {
        "unit": "sample",
        "id": "bad",
        "reason": "refusal",
        "detail": "I cannot see the video.",
        "where": f"{tmp_path / 'samples.jsonl'}:2",
    }


def test_samples_and_answers_have_their_own_lines_in_one_file(tmp_path: Path) -> None:
    def lines() -> list[tuple[str, str]]:
        return [
            (row["unit"], row["id"]) for row in map(json.loads, (tmp_path / "cleaned.jsonl").open())
        ]

    from dpo_video.data.removed import Removed

    def row(unit: Any, name: str) -> Iterator[Removed]:
        yield Removed(unit=unit, id=name, reason="r", detail="", where="")

    write_removed(tmp_path, "sample", [])
    assert not (tmp_path / "cleaned.jsonl").exists()
    write_removed(tmp_path, "answer", row("answer", "a"))
    write_removed(tmp_path, "sample", row("sample", "s"))
    assert lines() == [("sample", "s"), ("answer", "a")]
    write_removed(tmp_path, "answer", row("answer", "b"))
    write_removed(tmp_path, "sample", [])
    assert lines() == [("answer", "b")]


def test_check_shows_what_cleaning_leaves_out(tmp_path: Path) -> None:
    plan = check(load_recipe("quickstart", [f"runs_folder={tmp_path}", "clean.max_per_source=50"]))
    assert "cleaning: samples in 240, out 50 (over the cap of its source 190)" in plan.warnings
    assert plan.questions == 50
