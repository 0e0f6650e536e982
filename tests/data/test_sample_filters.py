"""Cleaning of training samples: each filter, what it counts, and where the counts are shown."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sample_filters import caption_words, load_filtered, make_sample

from dpo_video.check.command import check
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import EarlierTurn
from dpo_video.core.text import shingles, similarity
from dpo_video.data.near_duplicates import is_near, near_index, num_bands
from dpo_video.data.removed import write_removed
from dpo_video.data.sample_filters import is_on, language_of, source_of
from dpo_video.recipe import CleanSettings, Recipe
from dpo_video.recipe.file import load_recipe
from dpo_video.run import open_run

GERMAN = (
    "Ein Hund rennt im Garten umher, zwei Kinder werfen einen Ball und ihre Mutter liest neben dem "
    "Haus ein Buch"
)
CHINESE = (
    "\u4e00\u4e2a\u7a7f\u7ea2\u8272\u886c\u886b\u7684\u7537\u4eba\u5728\u6d77\u6ee9\u4e0a"
    "\u5e26\u7740\u4ed6\u7684\u72d7\u6563\u6b65\u592a\u9633\u6b63\u5728\u843d\u5c71"
)


def test_nothing_is_left_out_unless_a_filter_is_set(tmp_path: Path) -> None:
    rows = [
        make_sample("a", caption="x"),
        make_sample("b", caption="I cannot see the video."),
        make_sample("c", caption="x"),
    ]
    assert load_filtered(tmp_path, rows) == (["a", "b", "c"], {})
    assert not is_on(CleanSettings()) and not is_on(
        CleanSettings(same_answer=0.5, drop_cut_answers=True, frames=2)
    )
    assert is_on(CleanSettings(max_seconds=9.0)) and is_on(CleanSettings(languages=["en"]))


def test_captions_are_judged_by_length_language_and_refusal(tmp_path: Path) -> None:
    rows = [
        make_sample("short", caption="a dog runs"),
        make_sample("long", caption=caption_words(0, 60)),
        make_sample("german", caption=GERMAN),
        make_sample("chinese", caption=CHINESE),
        make_sample(
            "refused",
            caption="I'm sorry, but I cannot view the video that you have sent me here today.",
        ),
        make_sample(
            "fine",
            caption="A dog runs over the green grass while two children throw a red ball to it.",
        ),
    ]
    assert load_filtered(
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
    assert load_filtered(tmp_path, rows, languages=["en", "zh"])[1] == {"german": "language"}
    assert (language_of(rows[2].caption), language_of(rows[3].caption)) == ("de", "zh")


def test_one_question_behind_other_turns_repeats_nothing(tmp_path: Path) -> None:
    caption, turn = caption_words(1), EarlierTurn(question="Who is there?", answer="A woman.")
    histories = [None, (turn,), (EarlierTurn(question="Who is there?", answer="A man."),), (turn,)]
    rows = [
        make_sample(f"s{number}", caption=caption, history=history)
        for number, history in enumerate(histories)
    ]
    assert load_filtered(tmp_path, rows, sample_similarity=1.0)[1] == {
        "s3": "repeats another sample"
    }


def test_repeated_samples_are_found_by_question_and_caption_together(tmp_path: Path) -> None:
    """The same question about other clips is no repetition, nor is another question about the same
    caption.
    """
    caption = caption_words(1)
    rows = [
        make_sample("first", caption=caption),
        make_sample("again", caption=caption.upper() + "!", prompt="what happens"),
        make_sample("near", caption=caption.replace(caption.split()[14], "cat", 1)),
        make_sample("other question", caption=caption, prompt="Who throws the ball?"),
        make_sample("other clip", caption=caption_words(2)),
    ]
    near = similarity(shingles(rows[0].caption), shingles(rows[2].caption))
    assert 0.8 < near < 1
    assert load_filtered(tmp_path, rows, sample_similarity=1.0)[1] == {
        "again": "repeats another sample"
    }
    assert set(load_filtered(tmp_path, rows, sample_similarity=near)[1]) == {"again", "near"}
    assert set(load_filtered(tmp_path, rows, sample_similarity=min(1.0, near + 0.01))[1]) == {
        "again"
    }


def test_a_copy_of_a_held_out_sample_under_another_name_is_left_out(tmp_path: Path) -> None:
    caption = caption_words(5)
    held = [make_sample("h", video="held/x.mp4", caption=caption)]
    rows = [
        make_sample("copy", video="train/y.mp4", caption=caption + " ."),
        make_sample("own", caption=caption_words(6)),
    ]
    kept, reasons = load_filtered(tmp_path, rows, heldout=held, heldout_similarity=0.9)
    assert (kept, reasons) == (["own"], {"copy": "repeats a held-out sample"})
    assert load_filtered(tmp_path, rows, heldout=held)[0] == ["copy", "own"]


def test_the_index_finds_what_comparing_all_pairs_finds() -> None:
    """300 texts with near copies: MinHash may miss one pair in a thousand at the threshold; none of
    these.
    """
    chance = random.Random(0)
    texts = []
    for number in range(100):
        words = caption_words(number, 40).split()
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
        make_sample(f"{folder}{number}", video=f"{folder}/{number}.mp4")
        for number in range(4)
        for folder in "ab"
    ]
    kept, reasons = load_filtered(tmp_path, rows, max_per_source=2)
    assert kept == ["a0", "b0", "a1", "b1"] and set(reasons.values()) == {
        "over the cap of its source"
    }
    assert source_of(make_sample("x", video=["web/clip7/1.png", "web/clip7/2.png"])) == "web"  # type: ignore[arg-type]


def test_a_run_tells_what_was_left_out_with_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        make_sample("good"),
        make_sample("bad", caption="I cannot see the video."),
        make_sample("fine"),
    ]
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
