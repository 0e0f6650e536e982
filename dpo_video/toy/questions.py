"""Captions, questions and canonical answers of toy scenes.

A question has one canonical answer, so accuracy can be counted by normalised exact match.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dpo_video.toy.scene import SHAPES, Scene, Thing

Kind = Literal["colour", "motion", "count", "order", "exists", "list"]

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

    kind: Kind
    prompt: str
    answer: str
    shape: str | None = None


def ask(scene: Scene, rng: random.Random, *, num_questions: int) -> list[Question]:
    """Return distinct questions: always a colour and a motion, then any other kinds."""
    every = all_questions(scene)
    rng.shuffle(every)
    first = [next(q for q in every if q.kind == kind) for kind in ("colour", "motion")]
    rest = [q for q in every if q.kind not in ("colour", "motion")]
    # An order question exists only where a shape appears late: it goes first where it can.
    rest.sort(key=lambda q: q.kind != "order" or rng.random() < 0.3)
    return (first + rest)[:num_questions]


def all_questions(scene: Scene) -> list[Question]:
    """Return every question that can be put to a scene."""
    out = [Question("count", "How many shapes are there?", count_answer(scene))]
    out.append(Question("list", "Which shapes are there?", list_answer(scene.things)))
    for thing in scene.things:
        s = thing.shape
        colour = f"The {s} is {thing.colour}."
        motion = f"The {s} {GOES[thing.motion]}."
        out.append(Question("colour", f"What colour is the {s}?", colour, s))
        out.append(Question("motion", f"How does the {s} move?", motion, s))
    for s in SHAPES:
        there = scene.find(s) is not None
        answer = f"Yes, there is a {s}." if there else f"No, there is no {s}."
        out.append(Question("exists", f"Is there a {s}?", answer, s))
    late = [t for t in scene.things if t.late]
    if late:
        last = f"The {late[0].shape} appears last."
        out.append(Question("order", "Which shape appears last?", last))
        if len(scene.things) == 2:
            first = f"The {scene.things[0].shape} appears first."
            out.append(Question("order", "Which shape appears first?", first))
    return out


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


def list_answer(things: Sequence[Thing]) -> str:
    """Return the things as one sentence, in the fixed order of `SHAPES`."""
    ordered = sorted(things, key=lambda t: SHAPES.index(t.shape))
    return f"There is {join([f'a {t.colour} {t.shape}' for t in ordered])}."


def join(words: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def caption(scene: Scene, rng: random.Random) -> str:
    """Return a detailed caption: every fact of the scene, in one of a few phrasings."""
    count = len(scene.things)
    shapes = "one shape" if count == 1 else f"{NUMBERS[count]} shapes"
    opening = rng.choice(("The clip shows {}.", "This video shows {}.", "We see {}."))
    sentences = [opening.format(shapes)]
    early = [t for t in scene.things if not t.late]
    rng.shuffle(early)
    for thing in early:
        form = rng.choice(
            ("A {c} {s} {g}.", "There is a {c} {s} that {g}.", "One is a {c} {s}: it {g}.")
        )
        sentences.append(form.format(c=thing.colour, s=thing.shape, g=GOES[thing.motion]))
    for thing in scene.things:
        if thing.late:
            form = rng.choice(
                ("Later a {c} {s} appears and {g}.", "Then a {c} {s} appears: it {g}.")
            )
            sentences.append(form.format(c=thing.colour, s=thing.shape, g=GOES[thing.motion]))
    sentences.append("Nothing else is in view.")
    return " ".join(sentences)
