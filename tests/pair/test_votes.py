"""What people's votes do to pairs, alone and in a run."""

import json
from pathlib import Path

import pytest
from shown_runs import make_shown_run

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Pair, Vote
from dpo_video.data.votes import Decision, pair_key, texts_hash
from dpo_video.pair.votes import apply_votes
from dpo_video.pipeline import do_stages
from dpo_video.recipe.file import change_recipe
from dpo_video.run import open_run, recipe_of


def make_pair(number: int) -> Pair:
    return Pair(
        sample_id=f"s{number}",
        video="v.mp4",
        prompt="?",
        chosen="good",
        rejected="bad",
        chosen_score=4.0,
        rejected_score=2.0,
        source="best_worst",
        chosen_id=f"s{number}#0",
        rejected_id=f"s{number}#1",
        implicit_margin=0.5,
    )


PAIRS = [make_pair(number) for number in range(5)]
VOTED = {
    pair_key("s0#0", "s0#1"): Decision("prefers", "s0#0"),
    pair_key("s1#0", "s1#1"): Decision("prefers", "s1#1"),
    pair_key("s2#0", "s2#1"): Decision("tie"),
    pair_key("s3#0", "s3#1"): Decision("both_bad"),
}


def test_prefer_turns_pairs_and_drops_ties() -> None:
    voted = apply_votes(PAIRS, VOTED, "prefer", finish_of={"s1#0": "length"})
    assert [pair.sample_id for pair in voted.pairs] == ["s0", "s1", "s4"]
    turned = voted.pairs[1]
    assert (turned.chosen, turned.rejected, turned.chosen_id) == ("bad", "good", "s1#1")
    assert (turned.chosen_score, turned.rejected_score) == (2.0, 4.0)
    assert turned.source == "votes" and turned.rejected_finish == "length"
    assert turned.implicit_margin == -0.5
    assert voted.counts == {"confirmed": 1, "turned": 1, "dropped": 2}
    assert [(drop.sample_id, drop.unit, drop.reason) for drop in voted.drops] == [
        ("s2", "pair", "voted tie"),
        ("s2", "question", "voted tie"),
        ("s3", "pair", "voted both bad"),
        ("s3", "question", "voted both bad"),
    ]


def test_filter_drops_what_is_voted_the_other_way() -> None:
    voted = apply_votes(PAIRS, VOTED, "filter")
    assert [pair.sample_id for pair in voted.pairs] == ["s0", "s4"]
    assert {drop.reason for drop in voted.drops if drop.sample_id == "s1"} == {
        "voted the other way"
    }


def vote(number: int, choice: str, texts: tuple[str, str]) -> Vote:
    return Vote(
        id=f"v{number}",
        sample_id=f"s{number}",
        left_id=f"s{number}#0",
        right_id=f"s{number}#1",
        texts=texts_hash(*texts),
        choice=choice,  # type: ignore[arg-type]
        annotator="ann",
        at="",
    )


def test_a_run_goes_by_votes_only_when_told_and_anew_for_each_new_vote(tmp_path: Path) -> None:
    folder = make_shown_run(tmp_path, num_questions=4)
    first = {pair.sample_id: pair for pair in read_jsonl(folder / "pairs.jsonl", Pair)}
    texts = (first["s0"].chosen, first["s0"].rejected)
    votes = [vote(0, "B", texts), vote(1, "tie", ("made anew", "since"))]
    write_jsonl(folder / "votes.jsonl", votes)
    with open_run(recipe_of(folder)) as run:
        assert do_stages(run, ["pair"]) == []
    recipe = change_recipe(recipe_of(folder), ["pair.votes=prefer"])
    with open_run(recipe) as run:
        assert do_stages(run, ["pair"]) == ["pair"]
        assert do_stages(run, ["pair"]) == []
    pairs = list(read_jsonl(folder / "pairs.jsonl", Pair))
    assert [pair.chosen_id for pair in pairs] == ["s0#1", "s1#0", "s2#0", "s3#0"]
    summary = json.loads((folder / "manifest.json").read_text())["stages"]["pair"]["summary"]
    assert summary["votes"] == {"turned": 1, "dropped": 0} and summary["pairs"] == 4
    undo = Vote(**{**_row(votes[0]), "id": "u", "choice": "undo", "undoes": "v0"})
    write_jsonl(folder / "votes.jsonl", [*votes, undo])
    with open_run(recipe) as run:
        assert do_stages(run, ["pair"]) == ["pair"]
    pairs = list(read_jsonl(folder / "pairs.jsonl", Pair))
    assert pairs[0].chosen_id == "s0#0"


def _row(row: Vote) -> dict[str, object]:
    return {name: getattr(row, name) for name in ("sample_id", "left_id", "right_id", "texts")} | {
        "annotator": "ann",
        "at": "",
    }


def test_votes_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    folder = make_shown_run(tmp_path, num_questions=2)
    recipe = change_recipe(recipe_of(folder), ["pair.votes=filter"])
    with open_run(recipe) as run, pytest.raises(UserError, match="dpo-video review"):
        do_stages(run, ["pair"])
