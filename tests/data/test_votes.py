"""What votes come to: those taken back, majorities, agreement; lines that are no votes."""

from dataclasses import replace
from pathlib import Path

import pytest
from votes import VOTE

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import to_json
from dpo_video.data.votes import (
    Decision,
    decisions,
    mutual_agreement,
    on_these_texts,
    pair_key,
    read_votes,
    self_agreement,
    standing_votes,
)


def test_an_undone_vote_and_an_older_one_do_not_count() -> None:
    votes = [
        VOTE,
        replace(VOTE, id="2", choice="B"),
        replace(VOTE, id="3", choice="tie", annotator="bob"),
        replace(VOTE, id="4", choice="undo", undoes="3", annotator="bob"),
    ]
    assert [vote.id for vote in standing_votes(votes)] == ["2"]


def test_the_majority_decides_and_a_draw_is_a_tie() -> None:
    swapped = replace(VOTE, id="2", annotator="bob", left_id="s#1", right_id="s#0", choice="B")
    key = pair_key("s#0", "s#1")
    assert decisions([VOTE, swapped]) == {key: Decision("prefers", "s#0")}
    against = replace(VOTE, id="3", annotator="eve", choice="B")
    assert decisions([VOTE, against]) == {key: Decision("tie")}
    bad = replace(VOTE, choice="both_bad")
    assert decisions([bad]) == {key: Decision("both_bad")}
    assert decisions([replace(VOTE, choice="skip"), replace(VOTE, repeat=1)]) == {}


def test_agreement_is_over_meanings_not_sides() -> None:
    again = replace(VOTE, id="2", repeat=1, left_id="s#1", right_id="s#0", choice="B")
    assert self_agreement([VOTE, again]) == (1, 1)
    assert self_agreement([VOTE, replace(again, choice="A")]) == (0, 1)
    bob = replace(VOTE, id="3", annotator="bob", choice="tie")
    eve = replace(VOTE, id="4", annotator="eve")
    assert mutual_agreement([VOTE, bob, eve, again]) == (1, 3)


def test_votes_on_answers_that_were_made_anew_do_not_count() -> None:
    assert on_these_texts([VOTE], {"s#0": "a", "s#1": "b"}) == [VOTE]
    assert on_these_texts([VOTE], {"s#0": "another", "s#1": "b"}) == []
    assert on_these_texts([VOTE], {"s#0": "a"}) == []


def test_a_torn_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    whole = to_json(VOTE) + "\n"
    path.write_text(whole + whole[:40])
    assert read_votes(path) == [VOTE]


def test_a_wrong_line_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text('{"id": "1"}\n' + to_json(VOTE) + "\n")
    with pytest.raises(UserError, match=r"votes\.jsonl:1: missing"):
        read_votes(path)
