"""Captions, questions and canonical answers of toy scenes.

A question has one canonical answer, so accuracy can be counted by normalised exact match.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dpo_video.toy.scene import SHAPES, Figure, Scene

QuestionKind = Literal["colour", "motion", "count", "order", "exists", "list"]

NUMBERS = ("no", "one", "two", "three")
GOES = {
    "left": "moves to the left",
    "right": "moves to the right",
    "up": "moves up",
    "down": "moves down",
    "still": "stays still",
}


@dataclass(frozen=True)
class Question:
    """A question on a scene with its canonical answer; `shape` is what it asks about."""

    kind: QuestionKind
    prompt: str
    answer: str
    shape: str | None = None


def draw_questions(scene: Scene, rng: random.Random, *, num_questions: int) -> list[Question]:
    """Return distinct questions: always a colour and a motion, then any other kinds."""
    questions = all_questions(scene)
    rng.shuffle(questions)
    chosen = [_first_of_kind(questions, kind) for kind in ("colour", "motion")]
    optional = [question for question in questions if question.kind not in ("colour", "motion")]
    # An order question exists only where a shape appears late: it goes first where it can.
    optional.sort(key=lambda question: question.kind != "order" or rng.random() < 0.3)
    return (chosen + optional)[:num_questions]


def _first_of_kind(questions: Sequence[Question], kind: QuestionKind) -> Question:
    return next(question for question in questions if question.kind == kind)


def all_questions(scene: Scene) -> list[Question]:
    """Return every question that can be put to a scene."""
    questions = [
        Question("count", "How many shapes are there?", count_answer(scene)),
        Question("list", "Which shapes are there?", list_answer(scene.things)),
    ]
    for figure in scene.things:
        shape = figure.shape
        colour = f"The {shape} is {figure.colour}."
        motion = f"The {shape} {GOES[figure.motion]}."
        questions += [
            Question("colour", f"What colour is the {shape}?", colour, shape),
            Question("motion", f"How does the {shape} move?", motion, shape),
        ]
    for shape in SHAPES:
        there = scene.find(shape) is not None
        answer = f"Yes, there is a {shape}." if there else f"No, there is no {shape}."
        questions.append(Question("exists", f"Is there a {shape}?", answer, shape))
    late = [figure for figure in scene.things if figure.late]
    if late:
        answer = f"The {late[0].shape} appears last."
        questions.append(Question("order", "Which shape appears last?", answer))
        if len(scene.things) == 2:
            answer = f"The {scene.things[0].shape} appears first."
            questions.append(Question("order", "Which shape appears first?", answer))
    return questions


def find_question(scene: Scene, prompt: str) -> Question:
    """Return the question with this prompt; ValueError if the scene has none."""
    for question in all_questions(scene):
        if question.prompt == prompt:
            return question
    raise ValueError(f"not a question on the scene {scene.signature!r}: {prompt!r}")


def count_answer(scene: Scene) -> str:
    """Return how many shapes a clip shows, as a sentence."""
    count = len(scene.things)
    return "There is one shape." if count == 1 else f"There are {NUMBERS[count]} shapes."


def list_answer(figures: Sequence[Figure]) -> str:
    """Return the figures as one sentence, in the fixed order of `SHAPES`."""
    ordered = sorted(figures, key=lambda figure: SHAPES.index(figure.shape))
    return (
        f"There is {enumerate_words([f'a {figure.colour} {figure.shape}' for figure in ordered])}."
    )


def enumerate_words(words: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def caption(scene: Scene, rng: random.Random) -> str:
    """Return a detailed caption: every fact of the scene, in one of a few phrasings."""
    count = len(scene.things)
    shapes = "one shape" if count == 1 else f"{NUMBERS[count]} shapes"
    opening = rng.choice(("The clip shows {}.", "This video shows {}.", "We see {}."))
    sentences = [opening.format(shapes)]
    early = [figure for figure in scene.things if not figure.late]
    rng.shuffle(early)
    for figure in early:
        form = rng.choice(
            ("A {c} {s} {g}.", "There is a {c} {s} that {g}.", "One is a {c} {s}: it {g}.")
        )
        sentences.append(form.format(c=figure.colour, s=figure.shape, g=GOES[figure.motion]))
    for figure in scene.things:
        if figure.late:
            form = rng.choice(
                ("Later a {c} {s} appears and {g}.", "Then a {c} {s} appears: it {g}.")
            )
            sentences.append(form.format(c=figure.colour, s=figure.shape, g=GOES[figure.motion]))
    sentences.append("Nothing else is in view.")
    return " ".join(sentences)
