"""Samples of a run: unique ids, limits, and no second of a training clip among the held-out
ones.
"""

import json
from pathlib import Path

import pytest

from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample
from dpo_video.data.heldout import check_disjoint
from dpo_video.data.samples import load_samples
from dpo_video.recipe import Recipe
from dpo_video.video import resolve_video

ROOT = Path("/clips")


def sample(
    name: str, video: str | list[str], start: float | None = None, end: float | None = None
) -> Sample:
    return Sample(id=name, video=video, prompt="p", caption="c", start=start, end=end)


@pytest.mark.parametrize(
    ("trained", "heldout"),
    [
        (sample("a", "c.mp4"), sample("b", "./c.mp4")),
        (sample("a", "c.mp4"), sample("b", "/clips/c.mp4")),
        (sample("a", "c.mp4", end=6.0), sample("b", "c.mp4", start=5.0)),
        (sample("a", "c.mp4"), sample("b", "c.mp4", start=5.0, end=6.0)),
        (sample("a", ["f/1.jpg", "f/2.jpg"]), sample("b", "f")),
    ],
)
def test_a_heldout_clip_that_shows_a_training_second_is_refused(
    trained: Sample, heldout: Sample
) -> None:
    with pytest.raises(UserError, match="held-out sample 'b' is also trained on, by sample 'a'"):
        check_disjoint([trained], [heldout], video_root=ROOT, heldout_root=ROOT)


def test_other_files_and_other_parts_are_allowed() -> None:
    check_disjoint(
        [sample("a", "c.mp4")], [sample("b", "c.mp4")], video_root=ROOT, heldout_root=Path("/other")
    )
    check_disjoint(
        [sample("a", "c.mp4", end=5.0)],
        [sample("b", "c.mp4", start=5.0)],
        video_root=ROOT,
        heldout_root=ROOT,
    )


def recipe(folder: Path, **data: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r",
            "model": {"name": "m"},
            "judge": {"model": "j"},
            "data": {"samples": str(folder / "s.jsonl"), **data},
        }
    )


def test_the_limit_keeps_the_first_samples_and_paths_start_beside_the_file(tmp_path: Path) -> None:
    rows = [{"id": str(n), "video": "a.mp4", "prompt": "p", "caption": "c"} for n in range(5)]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_samples(recipe(tmp_path, limit=2), "samples")
    assert [row.id for row in loaded.samples] == ["0", "1"]
    assert loaded.root == tmp_path
    none = load_samples(recipe(tmp_path), "heldout")
    assert (none.samples, none.root, none.removed) == ([], Path(), [])


def test_a_file_without_samples_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"s.jsonl: no samples in it"):
        load_samples(recipe(tmp_path), "samples")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"caption": " "}, "s.jsonl:3: `caption` is empty. The judge scores answers against it"),
        ({"prompt": ""}, "s.jsonl:3: `prompt` is empty"),
        ({"id": ""}, "s.jsonl:3: `id` is empty"),
        ({"video": []}, "s.jsonl:3: `video` is empty"),
        ({"video": ["a.png", ""]}, "s.jsonl:3: `video` is empty"),
        ({"start": 3.0, "end": 1.5}, "s.jsonl:3: the clip starts at 3 and ends at 1.5 seconds"),
        ({"start": -1.0}, "s.jsonl:3: the clip starts at -1 and ends at None seconds"),
        (
            {"prompt": "<video>\nWhy?"},
            "s.jsonl:3: `prompt` contains '<video>', which other projects write for the clip",
        ),
        ({"prompt": "Why? <image>"}, "s.jsonl:3: `prompt` contains '<image>'"),
        ({"id": "first"}, "s.jsonl:3: the id 'first' stands in line 1 already; ids must be unique"),
    ],
)
def test_a_sample_that_says_nothing_is_named(
    tmp_path: Path, row: dict[str, object], message: str
) -> None:
    good = {"id": "first", "video": "a.mp4", "prompt": "p", "caption": "c"}
    (tmp_path / "s.jsonl").write_text(
        "\n\n".join(json.dumps(each) for each in (good, {**good, "id": "x", **row}))
    )
    with pytest.raises(UserError) as error:
        load_samples(recipe(tmp_path), "samples")
    assert message in str(error.value)


def test_a_pair_with_a_tag_in_its_question_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(
        json.dumps(
            {
                "sample_id": "a",
                "video": "a.mp4",
                "prompt": "<video>Why?",
                "chosen": "yes",
                "rejected": "no",
                "source": "x",
                "chosen_id": "a#0",
                "rejected_id": "a#1",
            }
        )
    )
    with pytest.raises(UserError, match=r"p\.jsonl:1: `prompt` contains '<video>'"):
        load_samples(recipe(tmp_path, pairs=str(tmp_path / "p.jsonl")), "samples")


def test_a_clip_may_be_named_as_nobodys_home(tmp_path: Path) -> None:
    (tmp_path / "~clip.mp4").write_bytes(b"")
    one, other = sample("a", "~clip.mp4"), sample("b", str(tmp_path / "~clip.mp4"))
    assert resolve_video("~clip.mp4", tmp_path) == tmp_path / "~clip.mp4"
    assert resolve_video("~/clip.mp4", tmp_path) == Path.home() / "clip.mp4"
    with pytest.raises(UserError, match="is also trained on"):
        check_disjoint([one], [other], video_root=tmp_path, heldout_root=tmp_path)


def test_an_imported_pair_without_a_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(
        json.dumps(
            {
                "sample_id": "a",
                "video": [],
                "prompt": "p",
                "chosen": "yes",
                "rejected": "no",
                "source": "x",
                "chosen_id": "a#0",
                "rejected_id": "a#1",
            }
        )
    )
    with pytest.raises(UserError, match=r"p\.jsonl:1: `video` is empty"):
        load_samples(recipe(tmp_path, pairs=str(tmp_path / "p.jsonl")), "samples")
