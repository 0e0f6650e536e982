"""Two sets of questions on toy clips whose answers a rule decides: one of options, one of pairs of
yes and no. They stand for the published benchmarks of these kinds.
"""

import random
from pathlib import Path
from typing import Any, Literal

from dpo_video.core import strict_json
from dpo_video.core.jsonl import write_atomic
from dpo_video.core.records import AS_IT_STANDS
from dpo_video.toy.clips import read_scenes
from dpo_video.toy.questions import (
    GOES,
    NUMBERS,
    Question,
    QuestionKind,
    all_questions,
    count_answer,
)
from dpo_video.toy.scene import COLOURS, SHAPES, Scene

SetName = Literal["choices", "yes_no"]
LETTERS = "ABCD"
NUM_OPTIONS = 4


def write_question_set(name: SetName, folder: Path) -> Path:
    """Return `<name>.jsonl` beside the clips of a written split, written unless already there.

    A clip has three questions in `choices`, and in `yes_no` one or two pairs. The same clips give
    the same questions.
    """
    path = folder / f"{name}.jsonl"
    if not path.exists():
        rows: list[dict[str, Any]] = []
        for video, scene in read_scenes(folder).items():
            rng = random.Random(f"{name} {video} {scene.signature}")
            rows += SETS[name](scene, video, rng)
        write_atomic(path, (strict_json.dumps(row) + "\n" for row in rows))
    return path


def choices(scene: Scene, video: str, rng: random.Random) -> list[dict[str, Any]]:
    """Return three questions with lettered options, one of which is right: on a colour, a motion,
    and the order in which shapes appear, or their number where none appears late.

    Options are sentences, as the toy policies speak, and are not shown: a policy answers in its own
    words, and has chosen the option that says the same. No toy policy has learnt to read options.
    """
    questions = all_questions(scene)
    rng.shuffle(questions)
    of_kind: dict[QuestionKind, Question] = {question.kind: question for question in questions}
    rows = []
    for kind in ("colour", "motion", "order" if "order" in of_kind else "count"):
        question = of_kind[kind]
        sentences = _options(scene, question, rng)
        options = [f"{letter}. {text}" for letter, text in zip(LETTERS, sentences, strict=False)]
        rows.append(
            {
                "id": f"{Path(video).stem}-choice-{kind}",
                "video": video,
                "prompt": question.prompt,
                "answer": LETTERS[sentences.index(question.answer)],
                "answer_kind": "letter",
                "options": options,
                "category": kind,
                "meta": {AS_IT_STANDS: True},
            }
        )
    return rows


def yes_no(scene: Scene, video: str, rng: random.Random) -> list[dict[str, Any]]:
    """Return pairs of questions that count together: on a shape that is there, and on one that is
    not.

    A category says when the shape that is there appears. As many pairs as shapes allow without a
    shape in two of them: one or two.
    """
    there = [figure.shape for figure in scene.things]
    absent = [shape for shape in SHAPES if shape not in there]
    rng.shuffle(there)
    rng.shuffle(absent)
    rows = []
    for index, pair in enumerate(zip(there, absent, strict=False)):
        group = f"{Path(video).stem}-pair{index}"
        figure = scene.find(pair[0])
        category = "appears later" if figure is not None and figure.late else "from the start"
        for shape, answer in zip(pair, ("yes", "no"), strict=True):
            rows.append(
                {
                    "id": f"{group}-{answer}",
                    "video": video,
                    "prompt": f"Yes or no?\nIs there a {shape}?",
                    "answer": answer,
                    "answer_kind": "yes_no",
                    "group": group,
                    "category": category,
                }
            )
    return rows


def _options(scene: Scene, question: Question, rng: random.Random) -> list[str]:
    """Return the right answer among wrong ones of its kind, in random order."""
    shape = question.shape or ""
    if question.kind == "colour":
        sentences = [f"The {shape} is {colour}." for colour in COLOURS]
    elif question.kind == "motion":
        sentences = [f"The {shape} {goes}." for goes in GOES.values()]
    elif question.kind == "order":
        when = question.prompt.split()[-1].strip("?")
        sentences = [f"The {each} appears {when}." for each in SHAPES]
    else:
        assert question.answer == count_answer(scene), "count is the only kind left"
        sentences = ["There is one shape.", *(f"There are {word} shapes." for word in NUMBERS[2:])]
    wrong = [sentence for sentence in sentences if sentence != question.answer]
    options = [question.answer, *rng.sample(wrong, min(NUM_OPTIONS - 1, len(wrong)))]
    rng.shuffle(options)
    return options


SETS = {"choices": choices, "yes_no": yes_no}
