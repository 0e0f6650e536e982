"""Earlier turns in files of samples and pairs: what is wrong with them, and control tokens in
them.
"""

import json
from pathlib import Path

import pytest
from sample_filters import samples_recipe

from dpo_video.core.control_tokens import ControlTokens
from dpo_video.core.errors import UserError
from dpo_video.core.turns import turn_rows
from dpo_video.data.samples import load_pairs, load_samples

TURN = {"question": "Who is there?", "answer": "A woman."}
TOKENS = ControlTokens(
    tokens=frozenset({"<|im_start|>", "<|im_end|>", "<|image_pad|>"}),
    ends=frozenset({"<|im_end|>"}),
)


def write(folder: Path, *rows: dict[str, object]) -> None:
    base = {"video": "a.mp4", "prompt": "p", "caption": "c"}
    lines = [json.dumps({"id": str(number), **base, **row}) for number, row in enumerate(rows)]
    (folder / "s.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"history": "Who?"}, "s.jsonl:2: `history` must be a list or null, got 'Who?'"),
        ({"history": ["Who?"]}, "s.jsonl:2: `history`, turn 1 must be an object with `question`"),
        ({"history": [TURN, {"question": "Who?"}]}, "s.jsonl:2: `history`, turn 2: missing `ans"),
        (
            {"history": [{**TURN, "anser": "x"}]},
            "s.jsonl:2: `history`, turn 1: unknown field `anser`. Did you mean 'answer'?",
        ),
        (
            {"history": [{**TURN, "answer": 3}]},
            "s.jsonl:2: `history`, turn 1: `answer` must be a string in quotes, got 3",
        ),
        (
            {"history": [TURN, {**TURN, "answer": " "}]},
            "s.jsonl:2: `history`, turn 2: `answer` is empty. Every turn needs a question and its",
        ),
        (
            {"history": [{**TURN, "question": "<video>Who?"}]},
            "s.jsonl:2: `history`, turn 1: `question` contains '<video>'",
        ),
    ],
)
def test_turns_that_say_nothing_are_told_with_file_and_line(
    tmp_path: Path, row: dict[str, object], message: str
) -> None:
    write(tmp_path, {}, row)
    with pytest.raises(UserError) as error:
        load_samples(samples_recipe(tmp_path), "samples")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_control_tokens_in_earlier_turns_drop_a_sample_and_a_pair(tmp_path: Path) -> None:
    ended = {"question": "Who is there?", "answer": "A woman.<|im_end|>"}
    asked = {"question": "Who is <|image_pad|>?", "answer": "A woman."}
    answered = {"question": "Who?", "answer": "<|im_start|>A woman."}
    turns = [[ended], [TURN, asked], [TURN, answered], []]
    write(tmp_path, *({"history": history} for history in turns))
    loaded = load_samples(samples_recipe(tmp_path), "samples", tokens=TOKENS)
    assert [(row.id, turn_rows(row.history)) for row in loaded.samples] == [
        ("0", [TURN]),
        ("3", []),
    ]
    assert loaded.num_stripped == 1
    assert [(row.where[-10:], row.detail) for row in loaded.removed] == [
        ("/s.jsonl:2", "<|image_pad|> in `history, question 2`"),
        ("/s.jsonl:3", "<|im_start|> in `history, answer 2`"),
    ]
    pair = {"video": "a.mp4", "source": "x", "chosen_id": "c", "rejected_id": "r", "prompt": "Why?"}
    rows = [
        {**pair, "sample_id": str(n), "chosen": "Yes.", "rejected": "No.", "history": history}
        for n, history in enumerate(turns)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_pairs(samples_recipe(tmp_path, pairs=str(tmp_path / "p.jsonl")), TOKENS)
    assert [row.id for row in loaded.removed] == ["1", "2"]
    assert [turn_rows(sample.history) for sample in loaded.samples] == [[TURN], []]
    with pytest.raises(UserError, match=r"p.jsonl:1: `history`, turn 1: `answer` is empty"):
        (tmp_path / "p.jsonl").write_text(
            json.dumps({**rows[0], "history": [{**TURN, "answer": ""}]})
        )
        load_pairs(samples_recipe(tmp_path, pairs=str(tmp_path / "p.jsonl")), TOKENS)
