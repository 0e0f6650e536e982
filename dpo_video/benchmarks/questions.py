"""A question of a benchmark, what a rule reads from an answer to it, and both together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

AnswerKind = Literal["yes_no", "letter", "option"]
"""`yes_no`; `letter`, one of the lettered options; `option`, one of the options by its label or its
text.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkQuestion:
    """One question of a benchmark, with the prompt that its authors ask a model."""

    id: str
    video: str
    """Relative to the folder of the benchmark's clips."""
    text: str
    """As published; where options are part of it they stand in lines of their own."""
    prompt: str
    answer: str
    """The gold answer as published."""
    kind: AnswerKind
    options: tuple[str, ...] = ()
    """As shown to the model, each with its label: `A. dunking a basketball`."""
    group: str = ""
    """Questions that count together: right only if all of them are; empty for one by itself."""
    category: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a rule reads from an answer."""

    parsed: str | None
    """`yes`, `no`, a letter or an option; None where the rule finds none of them."""
    correct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedQuestion:
    """A question with what a rule read from one model's answer to it."""

    question: BenchmarkQuestion
    answer: str
    """The model's."""
    reading: Reading


Rule = Callable[[BenchmarkQuestion, str], Reading]
"""Reads an answer to a question. What it cannot read is wrong: never a random choice, never left
out.
"""
