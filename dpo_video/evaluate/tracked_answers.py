"""The table of answers that tracking shows: a row a question, both models side by side."""

from collections.abc import Sequence
from typing import Any

from dpo_video.core.turns import texts_before
from dpo_video.evaluate.answer_rows import EvaluatedAnswer

MAX_ROWS = 10_000
"""Rows that W&B shows of a table; answers.jsonl has them all."""
MEASURED = ("text", "parsed", "correct", "exact_match", "judged", "score", "supported", "reason")


def tracked_answers(answers: Sequence[EvaluatedAnswer]) -> list[dict[str, Any]]:
    """Return a row for each question that a model answered, those of both models in it."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for answer in answers:
        empty = {
            "set": answer.set,
            "sample": answer.sample_id,
            "clip": answer.clip,
            "category": answer.category,
            "prompt": "\n".join([*texts_before(answer.history).values(), answer.prompt]),
            "gold": answer.gold,
        } | {f"{name}_{model}": None for name in MEASURED for model in ("before", "after")}
        row = rows.setdefault((answer.set, answer.sample_id), empty)
        for name in MEASURED:
            row[f"{name}_{answer.model}"] = getattr(answer, name)
    return list(rows.values())[:MAX_ROWS]
