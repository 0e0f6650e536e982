"""votes.jsonl while people vote: one process at a time, each vote on disk, a torn line cut off."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from votes import VOTE

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import to_json
from dpo_video.review.vote_file import VoteFile


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    whole = to_json(VOTE) + "\n"
    path.write_text(whole + whole[:40])
    with VoteFile(path) as file:
        second = replace(VOTE, id="2", annotator="bob")
        file.append(second)
    assert path.read_text() == whole + to_json(second) + "\n"


def test_two_reviews_of_a_run_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    with VoteFile(path), pytest.raises(UserError, match="open in another review"):
        VoteFile(path)


def test_each_vote_is_on_disk_before_it_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    with VoteFile(tmp_path / "votes.jsonl") as file:
        file.append(VOTE)
        file.append(replace(VOTE, id="2"))
    size = len(to_json(VOTE)) + 1
    assert synced == [size, 2 * size]
