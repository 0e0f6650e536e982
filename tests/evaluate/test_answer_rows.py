"""answers.jsonl: rows as records, and what a wrong file says."""

import json
from pathlib import Path

import pytest

from dpo_video.core.errors import UserError
from dpo_video.evaluate.answer_rows import (
    EvaluatedAnswer,
    answered_by_both,
    answers_by_set,
    read_evaluated,
    write_answers,
)
from dpo_video.evaluate.tracked_answers import tracked_answers


def answer(name: str, model: str = "before", of_set: str = "heldout") -> EvaluatedAnswer:
    return EvaluatedAnswer(
        set=of_set,
        model="before" if model == "before" else "after",
        sample_id=name,
        clip="a.mp4",
        prompt="What runs?",
        text="A dog.",
        exact_match=False,
        unscored={"supported": "unscored: no verdict"},
    )


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [answer("q1"), answer("q1", "after"), answer("q2"), answer("q1", of_set="letters")]
    write_answers(tmp_path / "answers.jsonl", rows)
    assert read_evaluated(tmp_path / "answers.jsonl") == rows
    by_set = answers_by_set(rows)
    assert by_set == {"heldout": ([rows[0], rows[2]], [rows[1]]), "letters": ([rows[3]], [])}
    assert answered_by_both(*by_set["heldout"]) == [(rows[0], rows[1])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "base"}, "answers.jsonl:2: `model` must be 'before' or 'after', got 'base'"),
        ({"judge": 1}, "answers.jsonl:2: unknown field `judge`"),
        ({}, "answers.jsonl:2: the answer before to 'q1' of set 'heldout' stands in line 1"),
    ],
)
def test_a_wrong_row_is_told_with_file_and_line(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    write_answers(tmp_path / "answers.jsonl", [answer("q1")])
    line = (tmp_path / "answers.jsonl").read_text()
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write(json.dumps(json.loads(line) | change) + "\n")
    with pytest.raises(UserError) as error:
        read_evaluated(tmp_path / "answers.jsonl")
    assert message in str(error.value)


def test_the_tracked_table_has_a_row_a_question_with_both_answers() -> None:
    rows = tracked_answers([answer("q1"), answer("q2"), answer("q1", "after")])
    assert [row["sample"] for row in rows] == ["q1", "q2"]
    assert [rows[0][f"text_{model}"] for model in ("before", "after")] == ["A dog.", "A dog."]
    assert rows[1]["text_after"] is None and list(rows[0]) == list(rows[1])
