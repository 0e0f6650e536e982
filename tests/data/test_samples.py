"""Samples of a run: unique ids, limits, and no second of a training clip among the held-out
ones.
"""

import json
from pathlib import Path

import pytest
from sample_filters import samples_recipe

from dpo_video.core.control_tokens import ControlTokens
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import to_json
from dpo_video.core.records import Sample
from dpo_video.data.choices import gold_choice
from dpo_video.data.heldout import check_disjoint
from dpo_video.data.samples import TOY_CLIPS, load_pairs, load_samples
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


def test_the_limit_keeps_the_first_samples_and_paths_start_beside_the_file(tmp_path: Path) -> None:
    rows = [{"id": str(n), "video": "a.mp4", "prompt": "p", "caption": "c"} for n in range(5)]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_samples(samples_recipe(tmp_path, limit=2), "samples")
    assert [row.id for row in loaded.samples] == ["0", "1"]
    assert loaded.root == tmp_path
    none = load_samples(samples_recipe(tmp_path), "heldout")
    assert (none.samples, none.root, none.removed) == ([], Path(), [])


def test_a_file_without_samples_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"s.jsonl: no samples in it"):
        load_samples(samples_recipe(tmp_path), "samples")


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
        ({"caption": None}, "s.jsonl:3: missing `caption`. Every sample to train on needs"),
        (
            {"answer_kind": "letter", "answer": "A"},
            "s.jsonl:3: `answer_kind` letter needs 2 to 26 `options`, got 0",
        ),
        (
            {"answer_kind": "letter", "options": ["a cat", "a dog"], "answer": "C"},
            "s.jsonl:3: `answer` must be the letter of one of the 2 options, A to B, got 'C'",
        ),
        (
            {"answer_kind": "letter", "options": ["a cat", "a dog"]},
            "s.jsonl:3: `answer` must be the letter of one of the 2 options, A to B, got None",
        ),
        (
            {"answer_kind": "letter", "options": ["a cat", "a cat"], "answer": "A"},
            "s.jsonl:3: the option 'a cat' stands twice",
        ),
        (
            {"options": ["a cat", " "], "answer": "x"},
            "s.jsonl:3: an option of `options` is empty",
        ),
        (
            {"answer_kind": "yes_no", "answer": "maybe"},
            "s.jsonl:3: `answer` must be yes or no under `answer_kind` yes_no, got 'maybe'",
        ),
        (
            {"answer_kind": "yes_no", "answer": "yes", "options": ["a", "b"]},
            "s.jsonl:3: `options` stand beside `answer_kind` yes_no",
        ),
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
        load_samples(samples_recipe(tmp_path), "samples")
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
        load_samples(samples_recipe(tmp_path, pairs=str(tmp_path / "p.jsonl")), "samples")


def test_clips_outside_of_the_video_root_are_told_by_line_unless_the_recipe_allows_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "clips").mkdir()
    names = ["a.mp4", "../b.mp4", "c.mp4", str(tmp_path / "d.mp4")]
    rows = [{"id": name, "video": name, "prompt": "p", "caption": "c"} for name in names]
    path = tmp_path / "s.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = samples_recipe(tmp_path, samples=str(path), video_root=str(tmp_path / "clips"))
    with pytest.raises(UserError, match=r"2 lines of .* are wrong") as caught:
        load_samples(settings, "samples")
    assert "s.jsonl:2: the clip '../b.mp4' is" in str(caught.value)
    assert "s.jsonl:4: the clip" in str(caught.value)
    assert str(caught.value).count("data.outside_root=true") == 2
    allowed = settings.data.model_copy(update={"outside_root": True})
    loaded = load_samples(settings.model_copy(update={"data": allowed}), "samples")
    assert [sample.video for sample in loaded.samples] == names


def test_pairs_of_a_clip_outside_of_the_video_root_are_told_by_line(tmp_path: Path) -> None:
    row = {
        "sample_id": "a",
        "video": "a.mp4",
        "rejected_video": "../b.mp4",
        "prompt": "p",
        "chosen": "yes",
        "rejected": "no",
        "source": "x",
        "chosen_id": "a#0",
        "rejected_id": "a#1",
    }
    (tmp_path / "p.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=r"p\.jsonl:1: the clip '\.\./b\.mp4' is"):
        load_pairs(samples_recipe(tmp_path, pairs=str(tmp_path / "p.jsonl")))


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
        load_samples(samples_recipe(tmp_path, pairs=str(tmp_path / "p.jsonl")), "samples")


GOOD = {"id": "a", "video": "a.mp4", "prompt": "What happens?", "caption": "A dog runs."}
TOKENS = ControlTokens(
    tokens=frozenset({"<|im_start|>", "<|im_end|>", "<|image_pad|>"}),
    ends=frozenset({"<|im_end|>"}),
)


def write(folder: Path, *rows: dict[str, object]) -> None:
    lines = [json.dumps({**GOOD, "id": str(n), **row}) for n, row in enumerate(rows)]
    (folder / "s.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", ["question", "query", "instruction"])
def test_other_words_for_the_question_are_understood(tmp_path: Path, name: str) -> None:
    row = {key: value for key, value in GOOD.items() if key != "prompt"}
    (tmp_path / "s.jsonl").write_text(json.dumps({**row, name: "What happens?"}))
    with pytest.raises(UserError, match=rf"s.jsonl:1: unknown field `{name}`. Did you mean `pro"):
        load_samples(samples_recipe(tmp_path), "samples")


def test_a_field_of_another_project_is_kept_as_meta_and_told(tmp_path: Path) -> None:
    write(tmp_path, {"duration": 3.5}, {"source": {"set": "x"}, "meta": {"shot": 2}}, {})
    loaded = load_samples(samples_recipe(tmp_path), "samples")
    assert [sample.meta for sample in loaded.samples] == [
        {"duration": 3.5},
        {"shot": 2, "source": {"set": "x"}},
        None,
    ]
    assert loaded.meta_fields == ("duration", "source")


def test_a_misspelt_field_is_no_meta(tmp_path: Path) -> None:
    write(tmp_path, {"anser": "A dog."})
    with pytest.raises(UserError, match=r"unknown field `anser`.* Did you mean `answer`"):
        load_samples(samples_recipe(tmp_path), "samples")


def test_a_list_of_samples_is_told_how_to_become_jsonl(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(json.dumps([GOOD], indent=1))
    with pytest.raises(UserError, match=r"a JSON list, .* dpo-video import table .*s.jsonl --out"):
        load_samples(samples_recipe(tmp_path), "samples")


def test_up_to_twenty_bad_lines_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    write(tmp_path, *({"caption": ""} if n % 2 else {} for n in range(60)))
    with pytest.raises(UserError) as error:
        load_samples(samples_recipe(tmp_path), "samples")
    lines = str(error.value).splitlines()
    assert lines[0].startswith("30 lines of") and lines[-1] == "and 10 more lines"
    shown = [line.partition("s.jsonl:")[2].partition(":")[0] for line in lines[1:-1]]
    assert shown == [str(number) for number in range(2, 42, 2)]


@pytest.mark.parametrize(
    "line",
    [
        '{"id": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"id": "a", "start": ' + "9" * 5000 + "}",
        '{"id": "a", "end": NaN}',
        json.dumps(GOOD)[:-1] + ', "meta": {"a":' + "[" * 300 + "]" * 300 + "}}",
    ],
)
def test_a_line_that_python_does_not_read_is_told_in_one(tmp_path: Path, line: str) -> None:
    (tmp_path / "s.jsonl").write_text(line)
    with pytest.raises(UserError, match=r"s\.jsonl:1: not JSON") as error:
        load_samples(samples_recipe(tmp_path), "samples")
    assert len(str(error.value)) < 400


def test_a_number_beyond_all_numbers_is_no_second(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(json.dumps(GOOD)[:-1] + ', "end": 1e999}')
    with pytest.raises(UserError, match=r"s\.jsonl:1: .*(ends at inf seconds|`end`|not JSON)"):
        load_samples(samples_recipe(tmp_path), "samples")


def test_a_clip_inside_a_row_is_no_path(tmp_path: Path) -> None:
    for video in ("data:video/mp4;base64,AAAA", "QUJD" * 5000):
        write(tmp_path, {"video": video})
        with pytest.raises(UserError, match="`video` holds the clip itself") as error:
            load_samples(samples_recipe(tmp_path), "samples")
        assert len(str(error.value)) < 400


def test_control_tokens_drop_a_sample_and_an_end_token_leaves_its_answer(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"answer": "A dog.<|im_end|>"},
        {"prompt": "What is <|image_pad|>?"},
        {"answer": "<|im_start|>assistant\nA dog.<|im_end|>"},
        {"answer": " A dog.\n"},
    )
    loaded = load_samples(samples_recipe(tmp_path), "samples", tokens=TOKENS)
    assert [(row.id, row.answer) for row in loaded.samples] == [("0", "A dog."), ("3", " A dog.\n")]
    assert loaded.num_stripped == 1
    assert [(row.where[-10:], row.reason, row.detail) for row in loaded.removed] == [
        ("/s.jsonl:2", "control token", "<|image_pad|> in `prompt`"),
        ("/s.jsonl:3", "control token", "<|im_start|> in `answer`"),
    ]


def test_control_tokens_drop_a_given_pair(tmp_path: Path) -> None:
    names = {"video": "a.mp4", "source": "x", "chosen_id": "c", "rejected_id": "r"}
    answers = [("Yes.<|im_end|>", "No.<|im_end|>"), ("Yes.", "<|im_start|>No."), ("Yes.", "No.")]
    rows = [
        {**names, "sample_id": str(n), "prompt": "Why?", "chosen": chosen, "rejected": rejected}
        for n, (chosen, rejected) in enumerate(answers)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_pairs(samples_recipe(tmp_path, pairs=str(tmp_path / "p.jsonl")), TOKENS)
    assert loaded.pairs is not None
    assert [(pair.chosen, pair.rejected) for pair in loaded.pairs] == [("Yes.", "No.")] * 2
    assert loaded.num_stripped == 2
    assert [(row.unit, row.id, row.detail) for row in loaded.removed] == [
        ("pair", "1", "<|im_start|> in `rejected`")
    ]


def test_held_out_questions_to_choose_from_need_no_caption(tmp_path: Path) -> None:
    rows = [
        {"id": "l", "video": "a.mp4", "prompt": "p", "answer_kind": "letter"}
        | {"options": ["a cat", "a dog"], "answer": "b", "category": "animals"},
        {"id": "y", "video": "a.mp4", "prompt": "p", "answer_kind": "yes_no"}
        | {"answer": "Yes.", "group": "pair 1"},
    ]
    (tmp_path / "h.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "s.jsonl").write_text("")
    heldout = load_samples(
        samples_recipe(tmp_path, heldout=str(tmp_path / "h.jsonl")), "heldout"
    ).samples
    assert [gold_choice(sample) for sample in heldout] == ["B", "yes"]
    assert [sample.caption for sample in heldout] == [None, None]
    assert json.loads(to_json(heldout[0])) == rows[0]


def test_toy_questions_with_a_rule_lie_beside_the_held_out_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TOY_CLIPS, "toy:heldout", 4)
    toy = samples_recipe(tmp_path, samples="toy:train", heldout="toy:choices")
    choices = load_samples(toy, "heldout")
    pairs = load_samples(
        samples_recipe(tmp_path, samples="toy:train", heldout="toy:yes_no"), "heldout"
    )
    assert choices.root == pairs.root == toy.run_folder / "toy" / "heldout"
    assert {sample.answer_kind for sample in choices.samples} == {"letter"}
    assert {sample.answer_kind for sample in pairs.samples} == {"yes_no"}
    assert all(sample.caption is None for sample in (*choices.samples, *pairs.samples))
    with pytest.raises(UserError, match=r"Known: toy:train, toy:heldout, toy:choices, toy:yes_no"):
        load_samples(samples_recipe(tmp_path, samples="toy:train", heldout="toy:no_yes"), "heldout")
