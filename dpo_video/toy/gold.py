"""The gold grader: read an answer's statements and hold them against the scene."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dpo_video.toy.questions import GOES, NUMBERS, Question, find_question
from dpo_video.toy.scene import COLOURS, SHAPES, Scene

Verdict = Literal["A", "B", "C"]


@dataclass(frozen=True)
class Grade:
    """What the scene says of an answer.

    `score`: 5 right; 4 right, and more that is true; 3 right, with words that say nothing
    of the clip; 2 something right beside something false or missing; 1 wrong or no answer.
    `hallucinated`: it names a thing the clip does not show. `verdict`: A all of it holds,
    B the clip shows otherwise, C it names what the clip does not show, or says nothing.
    `coverage`: A it holds the right answer, B a part of it, C nothing of it, whatever else it says.
    """

    correct: bool
    score: int
    hallucinated: bool
    verdict: Verdict
    coverage: Verdict


@dataclass(frozen=True)
class Statement:
    """One sentence of an answer: does it hold, does it name an absent thing, is it the answer."""

    holds: bool | None
    absent: bool = False
    answers: bool = False
    partial: bool = False


def normalise(text: str) -> str:
    """Return lower-case words without punctuation, single-spaced, for exact matching."""
    table = str.maketrans("", "", string.punctuation)
    return " ".join(text.lower().translate(table).split())


def grade(scene: Scene, question: Question | str, answer: str) -> Grade:
    """Return the gold grade of an answer to a question (or its prompt) on a scene."""
    if isinstance(question, str):
        question = find_question(scene, question)
    said = [_read(scene, question, s) for s in re.split(r"(?<=[.!?])\s+|\n+", answer) if s.strip()]
    answered = any(s.answers for s in said)
    false = any(s.holds is False for s in said)
    noise = any(s.holds is None for s in said)
    absent = any(s.absent for s in said)
    correct = answered and not false
    if correct:
        extra = len([s for s in said if s.holds]) > 1
        score = 3 if noise else 4 if extra else 5
    else:
        score = 2 if answered or any(s.partial for s in said) else 1
    if absent or not any(s.holds is not None for s in said):
        verdict: Verdict = "C"
    else:
        verdict = "B" if false else "A"
    coverage: Verdict = "A" if answered else "B" if any(s.partial for s in said) else "C"
    return Grade(
        correct=correct, score=score, hallucinated=absent, verdict=verdict, coverage=coverage
    )


def _read(scene: Scene, question: Question, sentence: str) -> Statement:
    text = normalise(sentence)
    right = text == normalise(question.answer)
    for pattern, check in FORMS:
        if found := re.fullmatch(pattern, text):
            read = check(scene, found.groupdict())
            partial = question.kind == "list" and read.partial
            return Statement(read.holds, read.absent, answers=right, partial=partial)
    return Statement(holds=None)


def _colour(scene: Scene, words: dict[str, str]) -> Statement:
    thing = scene.find(words["shape"])
    return Statement(thing is not None and thing.colour == words["colour"], absent=thing is None)


def _motion(scene: Scene, words: dict[str, str]) -> Statement:
    thing = scene.find(words["shape"])
    return Statement(
        thing is not None and GOES[thing.motion] == words["goes"], absent=thing is None
    )


def _count(scene: Scene, words: dict[str, str]) -> Statement:
    return Statement(words["number"] == NUMBERS[len(scene.things)])


def _order(scene: Scene, words: dict[str, str]) -> Statement:
    thing = scene.find(words["shape"])
    if thing is None:
        return Statement(holds=False, absent=True)
    if not any(t.late for t in scene.things):
        return Statement(holds=False)
    return Statement(thing.late == (words["when"] == "last"))


def _exists(scene: Scene, words: dict[str, str]) -> Statement:
    there = scene.find(words["shape"]) is not None
    return Statement(there == (words["yes"] == "yes"), absent=not there and words["yes"] == "yes")


def _list(scene: Scene, words: dict[str, str]) -> Statement:
    named = re.findall(r"a (\w+) (\w+)", words["items"])
    facts = {(t.colour, t.shape) for t in scene.things}
    true = [item for item in named if item in facts]
    return Statement(
        holds=len(true) == len(named),
        absent=len(true) < len(named),
        partial=bool(true),
    )


def _any(words: Sequence[str]) -> str:
    return f"(?:{'|'.join(words)})"


_SHAPE, _ITEM = f"(?P<shape>{_any(SHAPES)})", f"a {_any(COLOURS)} {_any(SHAPES)}"
FORMS = (
    (f"the {_SHAPE} is (?P<colour>{_any(COLOURS)})", _colour),
    (f"the {_SHAPE} (?P<goes>{_any(list(GOES.values()))})", _motion),
    (f"there (?:is|are) (?P<number>{_any(NUMBERS)}) shapes?", _count),
    (f"the {_SHAPE} appears (?P<when>first|last)", _order),
    (f"(?P<yes>yes|no) there is (?:a|no) {_SHAPE}", _exists),
    (f"there is (?:also )?(?P<items>{_ITEM}(?: (?:and )?{_ITEM})*)", _list),
)
"""Sentence forms (normalised text) and what each says of a scene."""
