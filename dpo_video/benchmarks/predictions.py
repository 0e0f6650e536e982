"""Answers in the layouts in which authors publish a model's predictions: what the files of several
benchmarks have in common.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dpo_video.benchmarks.published_files import field
from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample
from dpo_video.core.text import shortened

Answers = dict[str, str]
"""A model's answers by question id."""


class AnswerSheet:
    """The questions of a set, and the answers to them as they come: to no other question, and to
    each once.
    """

    def __init__(self, questions: Sequence[Sample]) -> None:
        self._by_id = {question.id: question for question in questions}
        self.answers: Answers = {}

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
            raise UserError(
                f"{where}: an answer to {question_id!r}, which is no question of the set"
            )
        if question and not sample.prompt.startswith(question):
            raise UserError(
                f"{where}: the answer is to {shortened(question)!r}, where the set asks "
                f"{shortened(sample.prompt)!r}: it is of another set or version"
            )
        if question_id in self.answers:
            raise UserError(f"{where}: a second answer to {question_id!r}")
        self.answers[question_id] = answer_text(text, where)


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
