"""What a rule reads from an answer to a question, and both together."""

from collections.abc import Callable
from dataclasses import dataclass

from dpo_video.core.records import Sample
from dpo_video.data.choices import LETTERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a rule reads from an answer."""

    parsed: str | None
    """`yes`, `no`, a letter, or several letters in order; None where the rule finds none of
    them.
    """
    correct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedQuestion:
    """A question with what a rule read from one model's answer to it."""

    question: Sample
    answer: str
    """The model's."""
    reading: Reading


ReadingRule = Callable[[Sample, str], Reading]
"""Reads an answer to a question of kind `letter` or `yes_no`. What it cannot read is wrong: never a
random choice, never left out.
"""
UNREADABLE = Reading(parsed=None, correct=False)


def gold_option(question: Sample) -> str:
    """Return the right option of a question, as the model was shown it: `B. a dog`."""
    assert question.options and question.answer, "a question of options has a right one"
    return question.options[LETTERS.index(question.answer)]
