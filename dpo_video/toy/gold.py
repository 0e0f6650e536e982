"""The gold grader: read an answer's statements and hold them against the scene."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dpo_video.toy.questions import GOES, NUMBERS, Question, find_question
from dpo_video.toy.scene import COLOURS, SHAPES, Scene

GoldLabel = Literal["A", "B", "C"]


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
    verdict: GoldLabel
    coverage: GoldLabel


@dataclass(frozen=True)
class Statement:
    """One sentence of an answer: does it hold, does it name an absent thing, is it the answer."""

    holds: bool | None
    absent: bool = False
    answers: bool = False
    partial: bool = False


def plain_words(text: str) -> str:
    """Return lower-case words without punctuation, single-spaced, for exact matching."""
    table = str.maketrans("", "", string.punctuation)
    return " ".join(text.lower().translate(table).split())


def grade(scene: Scene, question: Question | str, answer: str) -> Grade:
    """Return the gold grade of an answer to a question (or its prompt) on a scene."""
    if isinstance(question, str):
        question = find_question(scene, question)
    sentences = re.split(r"(?<=[.!?])\s+|\n+", answer)
    statements = [_read(scene, question, text) for text in sentences if text.strip()]
    answered = any(statement.answers for statement in statements)
    partial = any(statement.partial for statement in statements)
    false = any(statement.holds is False for statement in statements)
    noise = any(statement.holds is None for statement in statements)
    absent = any(statement.absent for statement in statements)
    correct = answered and not false
    if correct:
        extra = sum(bool(statement.holds) for statement in statements) > 1
        score = 3 if noise else 4 if extra else 5
    else:
        score = 2 if answered or partial else 1
    if absent or all(statement.holds is None for statement in statements):
        verdict: GoldLabel = "C"
    else:
        verdict = "B" if false else "A"
    coverage: GoldLabel = "A" if answered else "B" if partial else "C"
    return Grade(
        correct=correct, score=score, hallucinated=absent, verdict=verdict, coverage=coverage
    )


def _read(scene: Scene, question: Question, sentence: str) -> Statement:
    text = plain_words(sentence)
    right = text == plain_words(question.answer)
    for pattern, check in FORMS:
        if match := re.fullmatch(pattern, text):
            statement = check(scene, match.groupdict())
            partial = question.kind == "list" and statement.partial
            return Statement(statement.holds, statement.absent, answers=right, partial=partial)
    return Statement(holds=None)


def _colour(scene: Scene, words: dict[str, str]) -> Statement:
    figure = scene.find(words["shape"])
    return Statement(figure is not None and figure.colour == words["colour"], absent=figure is None)


def _motion(scene: Scene, words: dict[str, str]) -> Statement:
    figure = scene.find(words["shape"])
    return Statement(
        figure is not None and GOES[figure.motion] == words["goes"], absent=figure is None
    )


def _count(scene: Scene, words: dict[str, str]) -> Statement:
    return Statement(words["number"] == NUMBERS[len(scene.things)])


def _order(scene: Scene, words: dict[str, str]) -> Statement:
    figure = scene.find(words["shape"])
    if figure is None:
        return Statement(holds=False, absent=True)
    if not any(figure.late for figure in scene.things):
        return Statement(holds=False)
    return Statement(figure.late == (words["when"] == "last"))


def _exists(scene: Scene, words: dict[str, str]) -> Statement:
    there = scene.find(words["shape"]) is not None
    return Statement(there == (words["yes"] == "yes"), absent=not there and words["yes"] == "yes")


def _list(scene: Scene, words: dict[str, str]) -> Statement:
    named = re.findall(r"a (\w+) (\w+)", words["items"])
    facts = {(figure.colour, figure.shape) for figure in scene.things}
    true = [pair for pair in named if pair in facts]
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
