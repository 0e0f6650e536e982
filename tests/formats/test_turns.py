"""Rows of several turns: the last one is judged and trained, those before it are kept; out and in
again they are the same.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from format_rows import ASKED, BAD, GOOD, imported, write_rows

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Candidate, EarlierTurn, Judgment, Pair, Sample
from dpo_video.formats.export_run import ExportSource, export_run

TURNS = (
    EarlierTurn(question=" Who is there? ", answer="A woman.\n"),
    EarlierTurn(question="Where?", answer="In a kitchen."),
)
PAIR = Pair(
    sample_id="s",
    video="v.mp4",
    prompt=ASKED,
    history=TURNS,
    chosen=GOOD,
    rejected=BAD,
    source="s",
    chosen_id="s#chosen",
    rejected_id="s#rejected",
)
FIRST = {"question": "Who is there?", "answer": "A woman."}
SWIFT = [
    {"role": "user", "content": "<video>Who is there?"},
    {"role": "assistant", "content": "A woman."},
    {"role": "user", "content": ASKED},
    {"role": "assistant", "content": GOOD},
]
SHAREGPT = [
    {"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]}
    for turn in SWIFT
]
REST = {"videos": ["v.mp4"], "rejected_response": BAD}
MESSAGES_OF_TRL = [
    {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Who is there?"}]},
    *SWIFT[1:3],
]
KEPT: dict[str, tuple[str, dict[str, Any]]] = {
    "messages": ("ms_swift", {"messages": SWIFT, **REST}),
    "query, response and history": (
        "ms_swift",
        {
            "query": ASKED,
            "response": GOOD,
            "history": [["<video>Who is there?", "A woman."]],
            **REST,
        },
    ),
    "rejected_messages": (
        "ms_swift",
        {
            "messages": SWIFT,
            "rejected_messages": [*SWIFT[:3], {"role": "assistant", "content": BAD}],
            "videos": ["v.mp4"],
        },
    ),
    "sharegpt ranking": (
        "llama_factory",
        {
            "conversations": SHAREGPT[:3],
            "chosen": {"from": "gpt", "value": GOOD},
            "rejected": {"from": "gpt", "value": BAD},
            "videos": ["v.mp4"],
        },
    ),
    "trl with a prompt": (
        "trl",
        {
            "prompt": MESSAGES_OF_TRL,
            "chosen": [SWIFT[3]],
            "rejected": [{"role": "assistant", "content": BAD}],
            "videos": ["v.mp4"],
        },
    ),
    "trl with the prompt in both answers": (
        "trl",
        {
            "chosen": [*MESSAGES_OF_TRL, SWIFT[3]],
            "rejected": [*MESSAGES_OF_TRL, {"role": "assistant", "content": BAD}],
            "videos": ["v.mp4"],
        },
    ),
    "a field of a plain row": (
        "hound_pairs",
        {"video": "v.mp4", "prompt": ASKED, "history": [FIRST], "chosen": GOOD, "rejected": BAD},
    ),
    "a column of a table": (
        "table",
        {
            "video": "v.mp4",
            "prompt": ASKED,
            "history": json.dumps([FIRST]),
            "chosen": GOOD,
            "rejected": BAD,
        },
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_the_last_turn_is_trained_and_those_before_it_are_its_history(
    case: str, tmp_path: Path
) -> None:
    name, row = KEPT[case]
    source = write_rows(tmp_path / "in.jsonl", [row])
    report, (pair,) = imported(name, source, tmp_path / "out.jsonl")
    assert pair.history == (EarlierTurn(question="Who is there?", answer="A woman."),)
    assert (pair.prompt, pair.chosen, pair.rejected) == (ASKED, GOOD, BAD)
    assert (report.dropped, report.unread) == ({}, {})


def test_the_last_turn_of_a_conversation_is_the_sample(tmp_path: Path) -> None:
    row = {"id": "b", "video": "v.mp4", "caption": "A woman cooks.", "conversations": SHAREGPT}
    source = write_rows(tmp_path / "in.jsonl", [row])
    _, (sample,) = imported("hound_qa", source, tmp_path / "out.jsonl")
    assert sample.history == (EarlierTurn(question="Who is there?", answer="A woman."),)
    assert (sample.prompt, sample.answer) == (ASKED, GOOD)


OTHER_TURN = {"role": "user", "content": "<video>Who is not there?"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [SWIFT[0], SWIFT[2], SWIFT[3]]}, "turns do not alternate"),
        ({"messages": [SWIFT[0], SWIFT[1], SWIFT[3]]}, "turns do not alternate"),
        ({"messages": [*SWIFT[:2], {**SWIFT[2], "content": f"<video>{ASKED}"}, SWIFT[3]]}, "later"),
        ({"messages": [SWIFT[0], {**SWIFT[1], "content": " "}, *SWIFT[2:]]}, "empty turn"),
        (
            {
                "messages": SWIFT,
                "rejected_messages": [OTHER_TURN, *SWIFT[1:3], {**SWIFT[3], "content": BAD}],
            },
            "another question for the rejected answer",
        ),
        ({"messages": SWIFT, "history": [["a", "b"]]}, "several turns"),
    ],
)
def test_turns_that_cannot_be_told_drop_the_row(
    row: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{**row, **REST}, {"messages": SWIFT, **REST}])
    report, _ = imported("ms_swift", source, tmp_path / "out.jsonl")
    (dropped,) = report.dropped
    assert reason in dropped
    assert report.num_kept == 1


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ("hello", "`history` is a text, and no JSON of turns"),
        ([["Who?"]], "`history` must hold a question and an answer a turn, got ['Who?']"),
        ([{"question": "Who?"}], "`history` must hold a question and an answer a turn"),
        ({"question": "Who?"}, "`history` must be a list of turns"),
    ],
)
def test_a_history_of_no_turns_stops_with_file_and_line(
    history: Any, said: str, tmp_path: Path
) -> None:
    row = {"video": "v", "prompt": ASKED, "chosen": GOOD, "rejected": BAD, "history": history}
    source = write_rows(tmp_path / "in.jsonl", [row])
    with pytest.raises(UserError, match=r"in\.jsonl:1: ") as caught:
        imported("table", source, tmp_path / "out.jsonl")
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["trl", "llama_factory", "ms_swift"])
def test_a_pair_with_turns_is_the_same_to_the_last_space_once_exported_and_imported(
    name: str, tmp_path: Path
) -> None:
    pair = Pair(**{field: getattr(PAIR, field) for field in PAIR.__slots__} | {"source": name})
    write_jsonl(tmp_path / "pairs.jsonl", [pair])
    source = ExportSource(folder=tmp_path, samples=lambda: [], threshold=3.0)
    made = export_run(name, source, tmp_path / "out.jsonl")
    assert (made.num_rows, made.dropped) == (1, {})
    _, again = imported(name, str(tmp_path / "out.jsonl"), tmp_path / "again.jsonl")
    assert again == [pair]


def test_what_takes_one_question_a_row_drops_turns_and_counts_them(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [PAIR])
    source = ExportSource(folder=tmp_path, samples=lambda: [], threshold=3.0)
    with pytest.raises(UserError, match=r"nothing to export .* earlier turns \(1\)"):
        export_run("hound_pairs", source, tmp_path / "out.jsonl")


def test_best_answers_end_the_conversation_that_they_go_on_from(tmp_path: Path) -> None:
    sample = Sample(id="s", video="v.mp4", prompt=ASKED, history=TURNS[1:], caption="c")
    candidate = Candidate(id="s#0", sample_id="s", text=GOOD, model="m", settings="x", seed=0)
    judgment = Judgment(
        candidate_id="s#0", scorer="q", judge="j", score=5, status="scored", reason="", reply=""
    )
    write_jsonl(tmp_path / "candidates.jsonl", [candidate])
    write_jsonl(tmp_path / "judgments.jsonl", [judgment])
    source = ExportSource(folder=tmp_path, samples=lambda: [sample], threshold=3.0)
    export_run("messages", source, tmp_path / "m.jsonl")
    export_run("sharegpt", source, tmp_path / "s.jsonl")
    (row,) = map(json.loads, (tmp_path / "m.jsonl").read_text().splitlines())
    assert row["messages"] == [
        {"role": "user", "content": "<video>Where?"},
        {"role": "assistant", "content": "In a kitchen."},
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": GOOD},
    ]
    (row,) = map(json.loads, (tmp_path / "s.jsonl").read_text().splitlines())
    assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt", "human", "gpt"]
    assert row["conversations"][0]["value"] == "<video>\nWhere?"


def test_a_question_behind_other_turns_is_another_question(tmp_path: Path) -> None:
    rows = [
        {"id": "a", **REST, "messages": SWIFT},
        {"id": "a", **REST, "messages": [OTHER_TURN, *SWIFT[1:]]},
    ]
    source = write_rows(tmp_path / "in.jsonl", rows)
    report, records = imported("ms_swift", source, tmp_path / "out.jsonl")
    assert (len(records), report.dropped) == (1, {"id stands twice": 1})
