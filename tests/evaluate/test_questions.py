"""What the models are asked, and how questions of several sets share a clip."""

from dataclasses import replace
from pathlib import Path

import pytest

from dpo_video.core.records import Sample
from dpo_video.data.choices import labelled_options
from dpo_video.data.samples import EvaluationSet, LoadedSamples
from dpo_video.evaluate.questions import asked_prompt, evaluation_questions
from dpo_video.recipe import Recipe
from dpo_video.run import Run
from dpo_video.store import RunStore
from dpo_video.tracking import Tracker

LETTER = Sample(
    id="q", video="a.mp4", prompt="What runs?", options=["a dog", "a cat"], answer_kind="letter",
    answer="A",
)  # fmt: skip
SHOWN = "What runs?\n(A) a dog\n(B) a cat"
YES_NO = Sample(id="q", video="a.mp4", prompt="Does it run?", answer_kind="yes_no", answer="no")
ASKED = "What runs?\nA. a dog\nB. a cat\nAnswer with the option's letter from the given choices "


@pytest.mark.parametrize(
    ("sample", "asked"),
    [
        (LETTER, ASKED + "directly."),
        (replace(LETTER, options=["A. a dog", "B. a cat"]), ASKED + "directly."),
        (replace(LETTER, prompt=SHOWN), SHOWN),
        (replace(LETTER, prompt="A dog or a cat?"), "A dog or a cat?" + ASKED[10:] + "directly."),
        (YES_NO, "Does it run?\nPlease answer yes or no."),
        (replace(YES_NO, prompt="Does it run? Yes or no?"), "Does it run? Yes or no?"),
        (replace(YES_NO, meta={"benchmark": "videohallucer"}), "Does it run?"),
        (replace(LETTER, answer_kind="text"), "What runs?"),
    ],
)  # fmt: skip
def test_a_prompt_shows_what_is_to_be_chosen_from(sample: Sample, asked: str) -> None:
    assert asked_prompt(sample) == asked


def test_options_keep_the_labels_that_they_have_all_of() -> None:
    assert labelled_options(["(A) red", "(B) blue"]) == ("(A) red", "(B) blue")
    assert labelled_options(["A. red", "blue"]) == ("A. A. red", "B. blue")
    assert labelled_options(["B. red", "A. blue"]) == ("A. B. red", "B. A. blue")


def test_questions_of_a_set_have_ids_of_their_own_and_the_clips_of_held_out_ones(
    tmp_path: Path,
) -> None:
    """Held-out clips lie in clips/; the set counts from the folder above, or from another one."""
    (tmp_path / "clips").mkdir()
    heldout = Sample(id="q", video="a.mp4", prompt="p", caption="c")
    frames = ["clips/f/0.png", "clips/f/1.png"]
    near = [
        replace(LETTER, video="clips/a.mp4"),
        replace(LETTER, id="r", video=frames),
        replace(LETTER, id="s", video="other/b.mp4"),
        replace(LETTER, id="t", video="https://example.org/b.mp4"),
    ]
    recipe = Recipe.model_validate(
        {"name": "r", "model": {"name": "m"}, "judge": {"model": "j"}, "data": {"samples": "s"}}
    )
    with RunStore(tmp_path / "run") as store:
        run = Run(
            recipe=recipe,
            store=store,
            samples=[],
            heldout=[heldout],
            video_root=tmp_path,
            heldout_root=tmp_path / "clips",
            tracker=Tracker(),
            sets=[
                EvaluationSet(
                    name="near", loaded=LoadedSamples(samples=near, root=tmp_path, removed=[])
                )
            ],
        )
        questions = evaluation_questions(run)
    assert [question.set for question in questions] == ["heldout", *["near"] * 4]
    assert questions[0].asked == heldout
    assert [question.asked.id for question in questions[1:]] == [
        f"{name} of set near" for name in "qrst"
    ]
    assert [question.asked.video for question in questions[1:]] == [
        "a.mp4",
        ["f/0.png", "f/1.png"],
        str(tmp_path / "other/b.mp4"),
        "https://example.org/b.mp4",
    ]
    assert [question.sample for question in questions[1:]] == near
