"""Votes back from Label Studio and Argilla: rows as these export them, made of our own exports."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from format_rows import ASKED, BAD, GOOD, ROWS, VOTED, imported, write_rows
from typer.testing import CliRunner

from dpo_video.cli.app import app
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Pair, Vote
from dpo_video.data.votes import decisions, on_these_texts, pair_key, read_votes
from dpo_video.formats.export_run import ExportSource, export_run


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    """The pairs of a run, on so many questions that each order is drawn."""
    rows = [
        Pair(
            sample_id=f"q{n}",
            video="v.mp4",
            prompt=ASKED,
            chosen=f"{GOOD} {n}",
            rejected=BAD,
            source="s",
            chosen_id=f"q{n}#1",
            rejected_id=f"q{n}#0",
        )
        for n in range(8)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    return rows


def exported(name: str, folder: Path) -> list[dict[str, Any]]:
    export_run(name, ExportSource(folder=folder, samples=list, threshold=3.0), folder / "out.json")
    return json.loads((folder / "out.json").read_text())


def voted_task(row: dict[str, Any], side: str) -> dict[str, Any]:
    """Return a task with the annotation of `ROWS`, another side chosen."""
    (annotation,) = deepcopy(ROWS["label_studio"][0]["annotations"])
    annotation["result"][0]["value"]["selected"] = {"a": "left", "b": "right"}[side]
    annotation["id"] = row["data"]["id"]
    return {"id": 1, **row, "annotations": [annotation]}


def voted_record(row: dict[str, Any], side: str) -> dict[str, Any]:
    """Return a record as it comes back: what is no field or question is not kept."""
    names = ("clip", "question", "answer_a", "answer_b")
    fields = {name: row[name] for name in names}
    return {**ROWS["argilla"][0], "id": row["id"], "fields": fields} | {
        "responses": {"vote": [{"value": side, "user_id": "ann"}]}
    }


@pytest.mark.parametrize("name", ["label_studio", "argilla"])
def test_a_vote_on_an_exported_pair_is_a_vote_on_its_candidates(
    name: str, pairs: list[Pair], tmp_path: Path
) -> None:
    """People agree with the judge on the first half of the pairs and not on the other."""
    rows = []
    for index, row in enumerate(exported(name, tmp_path)):
        side = row.get("data", row)["judge_prefers"]
        if index >= 4:
            side = {"a": "b", "b": "a"}[side]
        rows.append((voted_task if name == "label_studio" else voted_record)(row, side))
    (tmp_path / "back.json").write_text(json.dumps(rows))
    report, votes = imported(name, str(tmp_path / "back.json"), tmp_path / "votes.jsonl")
    assert (report.num_kept, report.dropped) == (8, {})
    assert {vote.choice for vote in votes} == {"A", "B"}, "both sides were drawn"
    text_of = {pair.chosen_id: pair.chosen for pair in pairs}
    text_of |= {pair.rejected_id: pair.rejected for pair in pairs}
    assert on_these_texts(votes, text_of) == votes == read_votes(tmp_path / "votes.jsonl")
    outcome = decisions(votes)
    for index, pair in enumerate(pairs):
        wanted = pair.chosen_id if index < 4 else pair.rejected_id
        assert outcome[pair_key(pair.chosen_id, pair.rejected_id)].preferred_id == wanted
        assert votes[index].sample_id == pair.sample_id


def annotation(identity: int, *results: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": identity, "completed_by": 7, "result": list(results), **more}


def pairwise(side: str) -> dict[str, Any]:
    return {"type": "pairwise", "from_name": "vote", "value": {"selected": side}}


def neither(*names: str) -> dict[str, Any]:
    return {"type": "choices", "from_name": "neither", "value": {"choices": list(names)}}


def votes_of(name: str, rows: list[dict[str, Any]], folder: Path) -> tuple[dict[str, int], Any]:
    report, votes = imported(name, write_rows(folder / "in.jsonl", rows), folder / "out.jsonl")
    return dict(report.dropped), votes


def test_what_a_task_of_label_studio_may_hold(tmp_path: Path) -> None:
    data = ROWS["label_studio"][0]["data"]
    comment = {"type": "textarea", "from_name": "why", "value": {"text": ["hm"]}}
    annotations = [
        annotation(1, pairwise("right"), comment, completed_by={"id": 3, "email": "ann@lab"}),
        annotation(2, neither("tie"), lead_time=2.5, created_at="2026-01-01T00:00:00Z"),
        annotation(3, neither("both_bad")),
        annotation(4, was_cancelled=True),
        annotation(5, pairwise("none"), comment),
        annotation(6, pairwise("left"), neither("tie")),
    ]
    rows = [{"data": data, "annotations": annotations}, {"data": data, "annotations": []}]
    dropped, votes = votes_of("label_studio", rows, tmp_path)
    assert [vote.choice for vote in votes] == ["B", "tie", "both_bad", "skip"]
    assert [vote.annotator for vote in votes] == ["ann@lab", "7", "7", "7"]
    assert (votes[1].seconds, votes[1].at, votes[2].at) == (2.5, "2026-01-01T00:00:00Z", "")
    assert dropped == {"no choice in it": 1, "several choices in it": 1, "not annotated": 1}


def flat(values: list[Any], users: list[str], states: list[str]) -> dict[str, Any]:
    """Return a record of `to_list(flatten=True)`."""
    columns = {"vote.responses": values, "vote.responses.users": users}
    return {"id": VOTED, **ROWS["argilla"][0]["fields"], **columns} | {
        "vote.responses.status": states,
        "vote.suggestion": None,
    }


def test_what_a_record_of_argilla_may_hold(tmp_path: Path) -> None:
    users = ["ann", "bob", "eve", "joe"]
    states = ["submitted", "discarded", "draft", "submitted"]
    dropped, votes = votes_of("argilla", [flat(["b", None, "a", "tie"], users, states)], tmp_path)
    assert dropped == {"response is a draft": 1}
    assert [(vote.annotator, vote.choice) for vote in votes] == [
        ("ann", "B"),
        ("bob", "skip"),
        ("joe", "tie"),
    ]
    ranked: list[tuple[Any, str]] = [
        (["b", "a"], "B"),
        ([{"value": "a", "rank": 1}, {"value": "b", "rank": 2}], "A"),
        ([{"value": "a", "rank": 1}, {"value": "b", "rank": 1}], "tie"),
    ]
    for number, (value, choice) in enumerate(ranked):
        folder = tmp_path / str(number)
        folder.mkdir()
        _, (vote,) = votes_of("argilla", [flat([value], ["ann"], ["submitted"])], folder)
        assert vote.choice == choice


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("label_studio", {"data": None, "vote": "left"}, "not as JSON-MIN"),
        ("label_studio", {"data": {"id": "s#0|s#1"}}, "must be `a=CANDIDATE|b=CANDIDATE`"),
        ("label_studio", {"annotations": [annotation(1, pairwise("up"))]}, "says 'up'; it can say"),
        ("label_studio", {"annotations": [annotation(1, completed_by=None)]}, "no choice"),
        ("label_studio", {"annotations": {"1": []}}, "must be a list of objects"),
        ("argilla", {"id": None}, "must be `a=CANDIDATE|b=CANDIDATE`, there is none"),
        ("argilla", {"responses": {"vote": [{"value": "a"}]}}, "no annotator"),
        ("argilla", {"responses": {"x": [], "y": []}}, "none is called `vote`"),
        ("argilla", {"responses": {"vote": [{"value": "c", "user_id": "u"}]}}, "says 'c'"),
        ("argilla", {"fields": {"answer_a": "x"}}, "no `answer_b`"),
    ],
)
def test_a_row_of_another_form_is_told_with_its_line(
    name: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    row = {**ROWS[name][0], **change}
    with pytest.raises(UserError, match=message.replace("|", r"\|")) as error:
        votes_of(name, [row], tmp_path)
    assert "in.jsonl" in str(error.value)


def test_votes_are_never_written_over(tmp_path: Path) -> None:
    out = tmp_path / "votes.jsonl"
    words = ["import", "argilla", write_rows(tmp_path / "in.jsonl", ROWS["argilla"])]
    done = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert done.exit_code == 0 and "1 votes kept" in done.output
    (vote,) = read_jsonl(out, Vote)
    assert vote.id == f"argilla/{VOTED}/59f7bf7b"
    again = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert isinstance(again.exception, UserError)
    assert "votes are never written over" in str(again.exception)
    out.write_text(out.read_text() * 2)
    assert read_votes(out) == [vote], "a vote that stands twice counts once"
