"""Every number of metrics.json, computed again from answers.jsonl and heldout_pairs.jsonl."""

import json
from dataclasses import replace
from pathlib import Path

from evaluation_runs import HELDOUT, PAIRWISE, opened
from tiny_judge import write_scorer

from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Pair, Sample
from dpo_video.evaluate.answer_rows import read_evaluated
from dpo_video.evaluate.metrics import normalise_answer
from dpo_video.evaluate.report import metrics_row, read_metrics
from dpo_video.evaluate.stage import evaluate, measure_answers

NOT_OF_ANSWERS = ("seconds", "adapter")
COUNTS_OF_PAIRING = ("questions", "questions_dropped", "answers", "answers_dropped")


def test_every_number_is_that_of_the_files_beside_it(world: Path, tmp_path: Path) -> None:
    """Of the sampled answers that made no pair only the counts are kept: those are taken over."""
    letters = [
        Sample(
            id=f"h{clip}-q0",
            video=f"h{clip}.mp4",
            prompt="what happens ?",
            options=["a dog", "a cat"],
            answer_kind="letter",
            answer="AB"[clip % 2],
            category=f"clip {clip % 2}",
        )
        for clip in range(3)
    ]
    yes_no = [
        Sample(
            id=f"{clip}-{answer}",
            video=f"h{clip}.mp4",
            prompt="is it a dog ?",
            answer_kind="yes_no",
            answer=answer,
            group=str(clip),
            meta={"benchmark": "videohallucer"},
        )
        for clip in range(2)
        for answer in ("yes", "no")
    ]
    write_jsonl(tmp_path / "letters.jsonl", letters)
    write_jsonl(tmp_path / "pairs.jsonl", yes_no)
    heldout = [replace(HELDOUT[0], answer="a dog", category="animals"), *HELDOUT[1:]]
    sets = [
        {"name": "letters", "samples": str(tmp_path / "letters.jsonl"), "video_root": str(world)},
        {"name": "pairs", "samples": str(tmp_path / "pairs.jsonl"), "video_root": str(world)},
    ]
    pairwise = str(write_scorer(tmp_path, PAIRWISE, name="five"))
    settings = {"sets": sets, "pairwise_scorer": pairwise, "correctness_scorer": "hound_quality"}
    with opened(world, tmp_path, heldout, **settings) as run:
        evaluate(run)
        written = json.loads((run.folder / "metrics.json").read_text())
        rows = read_evaluated(run.folder / "answers.jsonl")
        pairs = list(read_jsonl(run.folder / "heldout_pairs.jsonl", Pair))
        counts = {name: written["heldout_pairs"][name] for name in COUNTS_OF_PAIRING}
        again = metrics_row(measure_answers(run, rows, pairs, counts, judge="steady"))
        assert metrics_row(read_metrics(run.folder / "metrics.json")) == written
    for name in NOT_OF_ANSWERS:
        del written[name], again[name]
    assert json.loads(json.dumps(again)) == written

    assert list(written["sets"]) == ["heldout", "letters", "pairs"]
    assert len(rows) == 2 * (6 + 3 + 4)
    assert written["sets"]["letters"]["measured_by"] == ["letter"]
    assert list(written["sets"]["letters"]["categories"]) == ["clip 0", "clip 1"]
    assert written["sets"]["pairs"]["before"]["all_of_group_n"] == 2
    assert "judged_score" not in written["sets"]["letters"]["before"], "they have no captions"
    assert written["sets"]["heldout"]["measured_by"] == ["judged"]
    for row in rows:
        assert row.exact_match == (
            None
            if row.gold is None or row.kind != "text"
            else normalise_answer(row.text) == normalise_answer(row.gold)
        )
        assert (row.score is None) == (row.set != "heldout")
        assert (row.correct is None) == (row.kind == "text")
        assert (row.comparison is None) == (row.set != "heldout" or row.model == "before")
