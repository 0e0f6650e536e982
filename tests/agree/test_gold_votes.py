"""Votes as gold labels: they change what `agree` says, ties and both-bad included."""

from pathlib import Path
from typing import Any

import pytest
from agree_runs import GRADES, perfect, served, write_run
from judge_server import judge_server

from dpo_video.agree.agreement import agreement_row
from dpo_video.agree.command import agree
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Vote
from dpo_video.data.votes import texts_hash
from dpo_video.recipe.file import load_recipe
from dpo_video.run import open_run

WORDS = list(GRADES)


def vote(number: int, left: int, right: int, choice: str, **facts: Any) -> Vote:
    texts = [f"{WORDS[k]} answer to s{number}" for k in (left, right)]
    return Vote(
        id=f"{number} {left} {right} {facts}",
        sample_id=f"s{number}",
        left_id=f"s{number}#{left}",
        right_id=f"s{number}#{right}",
        texts=texts_hash(texts[0], texts[1]),
        choice=choice,  # type: ignore[arg-type]
        at="",
        **{"annotator": "ann", **facts},
    )


def agreed(folder: Path, votes: list[Vote]) -> dict[str, Any]:
    with judge_server(served(perfect)) as server:
        recipe = write_run(folder, server.url)
        write_jsonl(folder / "votes.jsonl", votes)
        with open_run(load_recipe(str(recipe), ["agree.probes=0", "agree.repeats=0"])) as run:
            return agreement_row(agree(run, gold=str(folder / "votes.jsonl")))


def test_twenty_votes_are_gold(tmp_path: Path) -> None:
    """Of 20 pairs of different answers the judge, which knows the grades, has 15 as people do."""
    votes = [vote(k, 0, 4, "A") for k in range(12)] + [vote(k, 3, 1, "B") for k in range(3)]
    votes += [vote(k, 0, 3, "B") for k in range(5)]
    report = agreed(tmp_path, votes)
    assert report["gold"]["kind"] == "paired" and report["gold"]["labels"] == 20
    accuracy = report["measures"]["pair_accuracy"]
    assert accuracy["value"] == pytest.approx(15 / 20) and accuracy["n"] == 20
    assert accuracy["ci"] is not None


def test_ties_skips_second_votes_and_both_bad(tmp_path: Path) -> None:
    votes = [
        vote(0, 0, 4, "A"),
        vote(1, 0, 4, "tie"),
        vote(2, 3, 4, "both_bad"),
        vote(3, 0, 2, "both_bad"),
        vote(4, 0, 4, "skip"),
        vote(0, 0, 4, "B", repeat=1),
        vote(0, 0, 4, "B", annotator="bob"),
        vote(1, 0, 4, "tie", annotator="bob"),
    ]
    report = agreed(tmp_path, votes)
    assert report["gold"]["annotators"] == 2 and report["gold"]["both_bad"] == 2
    # the annotators draw on s0, call s1 a tie, and both answers of s2 and s3 bad
    assert report["gold"]["ties"] == 4
    assert report["measures"]["pair_accuracy"]["n"] == 0
    # of perfect 5, middling 3, poor 2, useless 1 two are below the threshold of hound_quality
    assert report["measures"]["both_bad_low"]["value"] == pytest.approx(0.5)
    assert report["measures"]["annotator_alpha"]["n"] == 2


def test_votes_of_another_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no vote in it on a candidate of this run"):
        agreed(tmp_path, [vote(99, 0, 4, "A")])


def test_plain_labels_may_be_ties(tmp_path: Path) -> None:
    with judge_server(served(perfect)) as server:
        recipe = write_run(tmp_path, server.url)
        (tmp_path / "gold.jsonl").write_text(
            '{"chosen_id": "s0#0", "rejected_id": "s0#4"}\n'
            '{"chosen_id": "s1#0", "rejected_id": "s1#4", "tie": true}\n'
        )
        with open_run(load_recipe(str(recipe), ["agree.probes=0", "agree.repeats=0"])) as run:
            report = agreement_row(agree(run, gold=str(tmp_path / "gold.jsonl")))
    assert report["gold"]["ties"] == 1 and report["measures"]["pair_accuracy"]["n"] == 1
