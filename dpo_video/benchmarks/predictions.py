"""Answers to the questions of a set as they come from a file: to no other question, and to each
once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dpo_video.benchmarks.published_files import field
from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample
from dpo_video.core.text import shortened

Answers = dict[str, str]
"""A model's answers by question id."""
MAX_LINES = 20
"""Bad lines that are told; of more the number."""


class AnswerSheet:
    """The questions of a set, and the answers to them as they come."""

    def __init__(self, questions: Sequence[Sample]) -> None:
        self.questions = questions
        self._by_id = {question.id: question for question in questions}
        self._answers: Answers = {}
        self._places: dict[str, str] = {}
        self._unknown: list[str] = []
        self._repeated: list[str] = []

    def __contains__(self, question_id: object) -> bool:
        return question_id in self._by_id

    def id_by_text(self, question: str, candidates: Sequence[str]) -> str:
        """Return the first of several ids whose question has this text, else the first of them."""
        for question_id in candidates:
            sample = self._by_id.get(question_id)
            if sample is not None and sample.prompt.startswith(question):
                return question_id
        return candidates[0]

    def add(self, question_id: str, text: object, where: str, *, question: str = "") -> None:
        """Note an answer; None, which a model that failed gives, is an empty one.

        Args:
            question: its text as it stands beside the answer, held against that of the set.
        """
        sample = self._by_id.get(question_id)
        if sample is None:
            self._unknown.append(f"{where}: {question_id!r} is no question of the set")
        elif question not in sample.prompt:
            self._unknown.append(
                f"{where}: the answer is to {shortened(question)!r}, where the set asks "
                f"{shortened(sample.prompt)!r}"
            )
        elif question_id in self._answers:
            first = self._places[question_id]
            self._repeated.append(f"{where}: {question_id!r} has an answer already, in {first}")
        else:
            self._answers[question_id] = answer_text(text, where)
            self._places[question_id] = where

    def checked(self) -> Answers:
        """Return the answers; UserError with up to twenty places and the number of all where some
        are to other questions, or second ones.
        """
        _refuse(self._unknown, "answers are to other questions: they are of another set or version")
        _refuse(self._repeated, "answers are to a question that has one")
        return self._answers


def answer_text(value: object, where: str) -> str:
    """Return an answer as a text: of a list of one, that one; of null, nothing."""
    if isinstance(value, list) and len(value) == 1:
        return answer_text(value[0], where)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: an answer must be a text, got {shortened(repr(value))}")
    return value


def predicted(row: Any, where: str, *names: str) -> object:
    """Return what a model has answered, by the first of these fields that a row has; it may be
    null.
    """
    for name in names:
        if isinstance(row, Mapping) and name in row:
            return row[name]
    return field(row, names[0], where)


def _refuse(lines: Sequence[str], what: str) -> None:
    if not lines:
        return
    more_lines = f"\n  and {len(lines) - MAX_LINES} more" if len(lines) > MAX_LINES else ""
    listed = "\n".join(f"  {line}" for line in lines[:MAX_LINES])
    raise UserError(f"{len(lines)} {what}\n{listed}{more_lines}")
