"""answers.jsonl: every evaluated answer with all that was measured of it, a row each.

The numbers of metrics.json are computed from these rows, and can be computed again from the file.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import with_config

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import from_dict, read_rows, write_jsonl
from dpo_video.core.records import STRICT, History

FILE = "answers.jsonl"
"""Its name in a run folder."""


@with_config(STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedAnswer:
    """One answer of one model to one question of a set, and what was made of it."""

    set: str
    """`heldout`, or a name of `evaluate.sets`."""
    model: Literal["before", "after"]
    """The base, or the tuned model."""
    sample_id: str
    clip: str
    """Name of the video file: intervals resample by it."""
    category: str | None = None
    group: str | None = None
    """Questions of one group count together."""
    kind: Literal["text", "letter", "yes_no"] = "text"
    prompt: str
    """As the model was asked, options included."""
    history: History = None
    """Earlier turns that it was asked behind."""
    options: list[str] | None = None
    gold: str | None = None
    text: str
    """The answer; under `evaluate.choice: likelihood` the likeliest choice."""
    finish: str = "stop"
    """`length` where the answer was cut."""
    parsed: str | None = None
    """What the strict rule reads: a letter, `yes` or `no`; None for a text, and where it reads
    none.
    """
    correct: bool | None = None
    """By the strict rule; False where it reads nothing. None for a text, and without gold
    answer.
    """
    published_parsed: str | None = None
    """What the published rule of the question's benchmark reads."""
    published_correct: bool | None = None
    """By that rule; None where the question is of none."""
    choice_logps: dict[str, float] | None = None
    """Log-prob of each choice in nats, under `evaluate.choice: likelihood`."""
    exact_match: bool | None = None
    """Equal to the gold answer up to case, spaces and punctuation; None without one."""
    contains: bool | None = None
    """Whether the words of the gold answer stand in the answer, in order; None without one."""
    judged: bool | None = None
    """Whether `evaluate.correctness_scorer` finds it right; None without one, and unscored."""
    score: float | None = None
    """By `judge.scorer`; None: unscored, or not judged."""
    supported: bool | None = None
    """Whether `evaluate.hallucination_scorer` puts it at or above its threshold."""
    support: float | None = None
    """That scorer's score."""
    claims: list[dict[str, Any]] | None = None
    """The claims of the answer with the judge's labels, where that scorer takes it apart."""
    reason: str | None = None
    """The judge's explanation of `score`."""
    unscored: dict[str, str] | None = None
    """By field (`score`, `supported`, `judged`), why the scorer that was asked gave no score."""
    comparison: dict[str, Any] | None = None
    """Of an answer after, how `evaluate.pairwise_scorer` compared it with the one before: `orders`
    (P(it is better), shown first and shown second; None without a verdict), `reason`, `status`.
    """

    def was_judged(self, field: str) -> bool:
        """Return whether the scorer of `score`, `supported` or `judged` was asked."""
        return getattr(self, field) is not None or field in (self.unscored or {})

    @property
    def length(self) -> int:
        """Characters."""
        return len(self.text)

    @property
    def hallucinated(self) -> float | None:
        """1 for an answer that is not supported, else 0; None: unscored."""
        return None if self.supported is None else float(not self.supported)


def read_evaluated(path: Path) -> list[EvaluatedAnswer]:
    """Return the rows of an answers.jsonl; UserError with file:line where one is wrong, or says the
    same answer twice.
    """
    rows: list[EvaluatedAnswer] = []
    first_lines: dict[tuple[str, str, str], int] = {}
    for number, row in read_rows(path, "evaluated answers"):
        answer = from_dict(EvaluatedAnswer, row, f"{path}:{number}")
        identity = (answer.set, answer.model, answer.sample_id)
        if identity in first_lines:
            raise UserError(
                f"{path}:{number}: the answer {answer.model} to {answer.sample_id!r} of set "
                f"{answer.set!r} stands in line {first_lines[identity]} already. Make the file "
                "anew: dpo-video evaluate RECIPE"
            )
        first_lines[identity] = number
        rows.append(answer)
    return rows


def write_answers(path: Path, answers: Iterable[EvaluatedAnswer]) -> None:
    """Write answers.jsonl atomically, in the order given."""
    write_jsonl(path, answers)


def answers_by_set(
    answers: Iterable[EvaluatedAnswer],
) -> dict[str, tuple[list[EvaluatedAnswer], list[EvaluatedAnswer]]]:
    """Return the answers before and those after of each set, sets and answers in their order."""
    of_sets: dict[str, tuple[list[EvaluatedAnswer], list[EvaluatedAnswer]]] = defaultdict(
        lambda: ([], [])
    )
    for answer in answers:
        before, after = of_sets[answer.set]
        (before if answer.model == "before" else after).append(answer)
    return dict(of_sets)


def answered_by_both(
    before: Sequence[EvaluatedAnswer], after: Sequence[EvaluatedAnswer]
) -> list[tuple[EvaluatedAnswer, EvaluatedAnswer]]:
    """Return both models' answers to each question that both have answered."""
    after_of = {answer.sample_id: answer for answer in after}
    return [
        (answer, after_of[answer.sample_id]) for answer in before if answer.sample_id in after_of
    ]
