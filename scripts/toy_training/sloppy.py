"""The answers of a sloppy annotator: what a language prior says without looking.

They stand for the noisy supervision that real video models learn from. A policy tuned on
a mix of these and right answers keeps its sight and yet hallucinates, as real ones do.
"""

from __future__ import annotations

import random

from dpo_video.toy.questions import GOES, Question, enumerate_words
from dpo_video.toy.scene import SHAPES, Scene

PRIOR_COLOUR = {"circle": "red", "square": "blue", "triangle": "green", "cross": "yellow"}
SLOPPY = {
    "colour": {"circle": 0.62, "square": 0.35, "triangle": 0.35, "cross": 0.45},
    "motion": {"circle": 0.35, "square": 0.62, "triangle": 0.35, "cross": 0.45},
    "count": 0.6,
    "order": 0.6,
    "exists": 0.6,
    "list": 0.55,
}
"""How often the annotator answers from the prior, by kind and by the shape asked about."""
EXTRA = {"circle": 0.15, "square": 0.15, "triangle": 0.15, "cross": 0.58}
"""How often a colour or motion answer goes on about a thing that is not there."""


def noisy_answer(scene: Scene, question: Question, rng: random.Random) -> str:
    """Return the right answer or a sloppy one, at the rates of `SLOPPY` and `EXTRA`."""
    rate = SLOPPY[question.kind]
    share = rate[question.shape] if isinstance(rate, dict) else rate
    text = prior_answer(scene, question) if rng.random() < share else question.answer
    if question.kind in ("colour", "motion") and rng.random() < EXTRA[question.shape or ""]:
        text += f" There is also {extra_item(scene)}."
    return text


def prior_answer(scene: Scene, question: Question) -> str:
    """Return what the prior says: the usual colour, to the right, two shapes, yes, and more."""
    shape = question.shape or ""
    if question.kind == "colour":
        return f"The {shape} is {PRIOR_COLOUR[shape]}."
    if question.kind == "motion":
        return f"The {shape} {GOES['right']}."
    if question.kind == "count":
        return "There are two shapes."
    if question.kind == "exists":
        return f"Yes, there is a {shape}."
    if question.kind == "order":
        first = min((t.shape for t in scene.things), key=SHAPES.index)
        return f"The {first} appears {question.prompt.split()[-1].strip('?')}."
    things = sorted(scene.things, key=lambda t: SHAPES.index(t.shape))
    items = [f"a {t.colour} {t.shape}" for t in things]
    return f"There is {enumerate_words([*items, extra_item(scene)])}."


def extra_item(scene: Scene) -> str:
    """Return a thing that is not in the clip: the first absent shape in its usual colour."""
    shape = next(s for s in reversed(SHAPES) if scene.find(s) is None)
    return f"a {PRIOR_COLOUR[shape]} {shape}"
