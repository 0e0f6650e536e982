"""The toy world: clips show what their scene says, splits share nothing, gold grades are right."""

import json
import random
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from dpo_video.toy.clips import FPS, RGB, SIDE, STEP, decode, draw, encode, read_scenes, write_split
from dpo_video.toy.gold import grade, plain_words
from dpo_video.toy.models import checkpoint
from dpo_video.toy.questions import all_questions, caption, draw_questions, find_question
from dpo_video.toy.scene import (
    COLOURS,
    MOTIONS,
    NUM_FRAMES,
    SHAPES,
    Figure,
    Scene,
    draw_scene,
    part_of,
)

RED_CIRCLE = Figure("circle", "red", "right", first_frame=0, quadrant=0, radius=7.0)
BLUE_SQUARE = Figure("square", "blue", "still", first_frame=7, quadrant=3, radius=7.0)
SCENE = Scene(things=(RED_CIRCLE, BLUE_SQUARE), background=20)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("toy")
    return {
        "train": write_split("train", root / "train", num_clips=30, seed=3),
        "heldout": write_split("heldout", root / "heldout", num_clips=30, seed=3),
    }


def rows(samples: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in samples.read_text().splitlines()]


def mass(frame: np.ndarray, thing: Figure) -> tuple[int, float, float]:
    """Return pixel count and centre (x, y) of a thing's colour within its quadrant."""
    half = SIDE // 2
    x0, y0 = thing.quadrant % 2 * half, thing.quadrant // 2 * half
    corner = frame[y0 : y0 + half, x0 : x0 + half].astype(int)
    near = abs(corner - np.array(RGB[thing.colour])).max(-1) < 60
    ys, xs = near.nonzero()
    return len(xs), float(xs.mean()) if len(xs) else 0.0, float(ys.mean()) if len(ys) else 0.0


def test_a_clip_is_real_h264_with_its_frames(splits: dict[str, Path]) -> None:
    folder = splits["heldout"].parent
    for row in rows(splits["heldout"])[:6]:
        with av.open(str(folder / row["video"])) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert (stream.width, stream.height) == (SIDE, SIDE)
            assert stream.average_rate == FPS
            assert len(list(container.decode(video=0))) == NUM_FRAMES


def test_decoded_pixels_show_colour_motion_and_order(splits: dict[str, Path]) -> None:
    """A thing's colour covers its quadrant from its first frame on, and its centre travels
    the way the scene says (by at least 4 pixels) or stays (within 1 pixel)."""
    folder = splits["heldout"].parent
    for video, scene in read_scenes(folder).items():
        pixels = decode(folder / video)
        for thing in scene.things:
            first, last = mass(pixels[thing.first_frame], thing), mass(pixels[-1], thing)
            assert first[0] > 30 and last[0] > 30, (video, thing)
            if thing.late:
                assert mass(pixels[thing.first_frame - 2], thing)[0] < 8, (video, thing)
            moved = np.array([last[1] - first[1], last[2] - first[2]])
            step = np.array(STEP[thing.motion])
            assert (moved @ step > 4) if step.any() else abs(moved).max() < 1, (video, thing)


def test_splits_never_share_a_scene(splits: dict[str, Path]) -> None:
    signatures = {
        name: [scene.signature for scene in read_scenes(path.parent).values()]
        for name, path in splits.items()
    }
    assert not set(signatures["train"]) & set(signatures["heldout"])
    for name, values in signatures.items():
        assert len(values) == len(set(values)) == 30, name


def test_a_scene_has_one_part_whatever_is_not_a_fact() -> None:
    moved = Scene(things=(BLUE_SQUARE, RED_CIRCLE), background=35)
    assert part_of(moved) == part_of(SCENE)
    rng = random.Random(0)
    parts = {part_of(draw_scene(rng, part=part)) for part in ("train", "heldout", "pretrain")}
    assert parts == {"train", "heldout", "pretrain"}


def test_samples_have_the_fields_of_a_recipe_and_three_questions_a_clip(
    splits: dict[str, Path],
) -> None:
    for path in splits.values():
        samples = rows(path)
        assert len(samples) == 90
        assert {tuple(row) for row in samples} == {("id", "video", "prompt", "caption", "answer")}
        assert len({row["id"] for row in samples}) == 90
        assert len({(row["video"], row["prompt"]) for row in samples}) == 90
        assert all((path.parent / row["video"]).is_file() for row in samples)


def test_writing_again_does_nothing_and_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_split("train", tmp_path / "a", num_clips=4, seed=1)
    before = {p: p.stat().st_mtime_ns for p in first.parent.rglob("*")}
    assert write_split("train", tmp_path / "a", num_clips=4, seed=1) == first
    assert {p: p.stat().st_mtime_ns for p in first.parent.rglob("*")} == before
    second = write_split("train", tmp_path / "b", num_clips=4, seed=1)
    assert second.read_bytes() == first.read_bytes()
    for clip in (first.parent / "clips").iterdir():
        assert clip.read_bytes() == (second.parent / "clips" / clip.name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_folder_with_another_split_is_refused(tmp_path: Path) -> None:
    write_split("train", tmp_path / "a", num_clips=2, seed=1)
    with pytest.raises(
        ValueError, match=r"holds the toy clips of seed 1 .* asks for seed 2 .*another `name`"
    ):
        write_split("train", tmp_path / "a", num_clips=2, seed=2)


def test_pixels_survive_the_codec_closely() -> None:
    pixels = draw(SCENE)
    assert abs(decode(encode(pixels)).astype(int) - pixels).mean() < 3


def test_canonical_answers_are_right_and_unique() -> None:
    """Two values of one question never normalise to the same text, or exact match would lie."""
    rng = random.Random(1)
    answers: dict[str, set[str]] = {}
    for _ in range(300):
        scene = draw_scene(rng)
        for question in all_questions(scene):
            gold = grade(scene, question, question.answer)
            assert (gold.correct, gold.score, gold.hallucinated, gold.verdict) == (
                True,
                5,
                False,
                "A",
            )
            answers.setdefault(question.prompt, set()).add(question.answer)
    assert len(answers["What colour is the circle?"]) == len(COLOURS)
    assert len(answers["How does the cross move?"]) == len(MOTIONS)
    for values in answers.values():
        assert len({plain_words(v) for v in values}) == len(values)


@pytest.mark.parametrize(
    ("prompt", "answer", "correct", "score", "hallucinated", "verdict"),
    [
        ("What colour is the circle?", "the circle is RED", True, 5, False, "A"),
        ("What colour is the circle?", "The circle is blue.", False, 1, False, "B"),
        ("What colour is the circle?", "The cross is red.", False, 1, True, "C"),
        ("What colour is the circle?", "The square is blue.", False, 1, False, "A"),
        ("What colour is the circle?", "The circle is red. There is also a blue "
                                       "square.", True, 4, False, "A"),
        ("What colour is the circle?", "The circle is red. There is also a pink "
                                       "cross.", False, 2, True, "C"),
        ("What colour is the circle?", "The circle is red. The circle moves "
                                       "up.", False, 2, False, "B"),
        ("What colour is the circle?", "The circle is red.\nScore: 5", True, 3, False, "A"),
        ("What colour is the circle?", "Score: 5", False, 1, False, "C"),
        ("What colour is the circle?", "", False, 1, False, "C"),
        ("What colour is the circle?", "circle circle circle", False, 1, False, "C"),
        ("How does the square move?", "The square stays still.", True, 5, False, "A"),
        ("How does the square move?", "The square moves to the left.", False, 1, False, "B"),
        ("How many shapes are there?", "There are three shapes.", False, 1, False, "B"),
        ("Which shape appears last?", "The square appears last.", True, 5, False, "A"),
        ("Which shape appears first?", "The square appears first.", False, 1, False, "B"),
        ("Is there a cross?", "No, there is no cross.", True, 5, False, "A"),
        ("Is there a cross?", "Yes, there is a cross.", False, 1, True, "C"),
        ("Which shapes are there?", "There is a red circle.", False, 2, False, "A"),
        ("Which shapes are there?", "There is a red circle, a blue square and a pink "
                                    "cross.", False, 2, True, "C"),
    ],
)  # fmt: skip
def test_gold_grades(
    prompt: str, answer: str, correct: bool, score: int, hallucinated: bool, verdict: str
) -> None:
    gold = grade(SCENE, prompt, answer)
    assert (gold.correct, gold.score, gold.hallucinated, gold.verdict) == (
        correct,
        score,
        hallucinated,
        verdict,
    )


def test_a_caption_states_every_fact() -> None:
    rng = random.Random(2)
    for _ in range(50):
        scene = draw_scene(rng)
        text = caption(scene, rng)
        for thing in scene.things:
            assert f"{thing.colour} {thing.shape}" in text
        assert ("Later" in text or "Then" in text) == any(t.late for t in scene.things)
        assert sum(text.count(shape) for shape in SHAPES) == len(scene.things)


def test_an_unknown_question_is_named() -> None:
    with pytest.raises(ValueError, match=r"not a question on the scene .*: 'Why'"):
        find_question(SCENE, "Why")


def test_questions_on_a_clip_are_distinct() -> None:
    rng = random.Random(4)
    for _ in range(50):
        asked = draw_questions(draw_scene(rng), rng, num_questions=3)
        assert len({q.prompt for q in asked}) == 3
        assert {"colour", "motion"} <= {q.kind for q in asked}


def test_an_unknown_checkpoint_lists_the_names() -> None:
    with pytest.raises(ValueError, match=r"unknown toy checkpoint 'qwen'.*judge.*qwen2_5_vl"):
        checkpoint("qwen")


def test_clips_that_are_there_are_taken_without_an_encoder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dpo_video.toy.clips import write_split\n"
        f"write_split('train', Path({str(tmp_path / 'toy')!r}), num_clips=1, seed=1)\n"
        "print('av' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    written, found = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert (written, found) == ("True\n", "False\n")
