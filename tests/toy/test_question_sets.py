"""The two sets of the toy world whose answers a rule decides: their gold answers are those of the
scene.
"""

import json
import random
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dpo_video.benchmarks.strict import parse_letter
from dpo_video.toy.clips import read_scenes
from dpo_video.toy.gold import grade
from dpo_video.toy.question_sets import SetName, write_question_set
from dpo_video.toy.scene import draw_scene

NUM_CLIPS = 120
"""As the held-out split of the quickstart has."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split as `write_split` leaves it, without the clips, which no set looks at."""
    folder = tmp_path_factory.mktemp("toy")
    rng = random.Random(5)
    lines = []
    for index in range(NUM_CLIPS):
        scene = asdict(draw_scene(rng, part="heldout"))
        lines.append(json.dumps({"video": f"clips/heldout-{index:04d}.mp4", **scene}) + "\n")
    (folder / "scenes.jsonl").write_text("".join(lines))
    return folder


def rows(folder: Path, name: SetName) -> list[dict[str, Any]]:
    path = write_question_set(name, folder)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_right_option_is_right_and_no_other_is(folder: Path) -> None:
    scenes = read_scenes(folder)
    for row in rows(folder, "choices"):
        options = dict(option.split(". ", 1) for option in row["options"])
        right = [
            letter
            for letter, text in options.items()
            if grade(scenes[row["video"]], row["prompt"], text).correct
        ]
        assert right == [row["answer"]]
        assert (
            len(set(options.values())) == len(options) == (3 if row["category"] == "count" else 4)
        )


def test_choices_are_three_a_clip_on_other_facts_with_the_right_one_anywhere(folder: Path) -> None:
    questions = rows(folder, "choices")
    assert len(questions) == 3 * NUM_CLIPS >= 300
    assert len({row["id"] for row in questions}) == len(questions)
    kinds = Counter(row["category"] for row in questions)
    assert kinds["colour"] == kinds["motion"] == kinds["order"] + kinds["count"] == NUM_CLIPS
    assert min(kinds["order"], kinds["count"]) >= 30
    letters = Counter(row["answer"] for row in questions if row["category"] != "count")
    assert set(letters) == set("ABCD") and min(letters.values()) > 0.15 * sum(letters.values())


def test_an_answer_in_a_sentence_chooses_the_option_that_says_the_same(folder: Path) -> None:
    row = next(row for row in rows(folder, "choices") if row["category"] == "colour")
    sentence = row["options"][2].split(". ", 1)[1]
    assert parse_letter(sentence, tuple(row["options"])) == "C"
    assert parse_letter("The circle is brown.", tuple(row["options"])) is None


def test_a_pair_asks_for_a_shape_that_is_there_and_one_that_is_not(folder: Path) -> None:
    scenes = read_scenes(folder)
    pairs = defaultdict(list)
    questions = rows(folder, "yes_no")
    assert len(questions) >= 300 and len({row["id"] for row in questions}) == len(questions)
    for row in questions:
        pairs[row["group"]].append(row)
        shape = row["prompt"].removeprefix("Yes or no?\nIs there a ").rstrip("?")
        figure = scenes[row["video"]].find(shape)
        assert row["answer"] == ("no" if figure is None else "yes")
        if figure is not None:
            assert row["category"] == ("appears later" if figure.late else "from the start")
    assert all([row["answer"] for row in pair] == ["yes", "no"] for pair in pairs.values())
    assert {row["category"] for row in questions} == {"appears later", "from the start"}


@pytest.mark.parametrize("name", ["choices", "yes_no"])
def test_a_set_is_the_same_every_time_and_is_written_once(folder: Path, name: SetName) -> None:
    path = write_question_set(name, folder)
    first = path.read_bytes()
    path.unlink()
    assert write_question_set(name, folder).read_bytes() == first
    path.write_text("as it was\n")
    assert write_question_set(name, folder).read_text() == "as it was\n"
    path.unlink()
