"""Ids of imported rows: several pairs of a question, rows without an id, other projects' ids joined
to ours.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from format_rows import imported_rows

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Candidate, Judgment, Pair, Sample
from dpo_video.formats.export_run import ExportSource, export_run
from dpo_video.formats.exporters import EXPORTERS
from dpo_video.formats.import_file import ImportOptions, import_file
from dpo_video.pair.build import build_pairs
from dpo_video.recipe import PairSettings

PAIR = {
    "id": "v1_0",
    "video": "v1.mp4",
    "prompt": "What is she doing?",
    "chosen": "Cooking.",
    "rejected": "Sleeping.",
}


def all_pairs() -> list[Pair]:
    """Return the three pairs of three answers to a question."""
    samples = [Sample(id="s0", video="v0.mp4", prompt="Why?", caption="c")]
    candidates = [
        Candidate(
            id=f"s0#{k}", sample_id="s0", text=f"Answer {k}.", model="m", settings="x", seed=k
        )
        for k in range(3)
    ]
    judgments = [
        Judgment(
            candidate_id=f"s0#{k}",
            scorer="s",
            judge="j",
            score=1.0 + 2 * k,
            status="scored",
            reason="",
            reply="",
        )
        for k in range(3)
    ]
    made = build_pairs(
        samples,
        candidates,
        judgments,
        threshold=3.0,
        seed=0,
        settings=PairSettings(rule="all_pairs", max_pairs_per_sample=9),
    )
    assert len(made.pairs) == 3
    return made.pairs


@pytest.mark.parametrize("name", [name for name, row in EXPORTERS.items() if row.of == "pairs"])
def test_all_pairs_of_a_question_come_back_from_an_export(name, tmp_path):
    pairs = all_pairs()
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    export_run(
        name,
        ExportSource(folder=tmp_path, samples=lambda: [], threshold=3.0),
        tmp_path / "made.jsonl",
    )
    report = import_file(
        name, str(tmp_path / "made.jsonl"), tmp_path / "again.jsonl", ImportOptions()
    )
    again = list(read_jsonl(tmp_path / "again.jsonl", Pair))
    assert report.dropped == {}
    assert [(pair.chosen_id, pair.rejected_id) for pair in again] == [
        ("s0#chosen", "s0#rejected"),
        ("s0#chosen.2", "s0#rejected.2"),
        ("s0#chosen.3", "s0#rejected.3"),
    ]
    ids = {"chosen_id": "", "rejected_id": "", "source": ""}
    assert [replace(pair, **ids) for pair in again] == [replace(pair, **ids) for pair in pairs]


def test_only_a_pair_that_stood_before_or_an_id_of_another_question_is_dropped(tmp_path):
    rows = [
        PAIR,
        {**PAIR, "rejected": "Reading."},
        PAIR,
        {**PAIR, "prompt": "Where is she?"},
        {**PAIR, "video": "v2.mp4"},
        {**PAIR, "rejected": "Reading."},
        {**PAIR, "rejected": "Running."},
    ]
    report, pairs = imported_rows("hound_pairs", rows, tmp_path)
    assert [pair.rejected for pair in pairs] == ["Sleeping.", "Reading.", "Running."]
    assert report.dropped == {"pair stands twice": 2, "id stands twice": 2}


@pytest.mark.parametrize("empty", [None, "", float("nan")])
@pytest.mark.parametrize("name", ["hound_pairs", "table", "vista_dpo"])
def test_a_row_whose_id_says_nothing_is_named_by_its_number(name, empty, tmp_path):
    rows = [
        {**PAIR, "id": empty, "rejected": text} for text in ("Sleeping.", "Reading.", "Running.")
    ]
    report, pairs = imported_rows(name, rows, tmp_path)
    assert (report.dropped, [pair.sample_id for pair in pairs]) == ({}, ["row1", "row2", "row3"])


def test_a_samples_id_that_says_nothing_is_no_id_either(tmp_path):
    rows = [{**PAIR, "id": empty, "caption": "She cooks."} for empty in (None, "")]
    rows = [
        {key: value for key, value in row.items() if key not in ("chosen", "rejected")}
        for row in rows
    ]
    _, samples = imported_rows("table", rows, tmp_path)
    assert [sample.id for sample in samples] == ["row1", "row2"]


def test_both_pairs_that_rlaif_v_draws_of_a_question_are_kept(tmp_path):
    row = {
        "image_path": "a.jpg",
        "ds_question_id": "q1",
        "question": "What?",
        "chosen": "A cat.",
        "idx": None,
    }
    report, pairs = imported_rows(
        "rlaif_v", [{**row, "rejected": text} for text in ("A dog.", "A cow.")], tmp_path
    )
    assert (report.dropped, Counter(pair.sample_id for pair in pairs)) == ({}, {"q1": 2})


def test_both_questions_of_a_row_are_kept_under_its_id(tmp_path):
    row = {"video_name": "v1", "A": "A cat.", "caption": "A cat."}
    rows = [
        {**row, "question_id": 7, "Q1": "What?", "Q2": "Which thing?"},
        {**row, "question_id": 8, "Q": "What?"},
    ]
    report, samples = imported_rows("video_chatgpt", rows, tmp_path)
    assert (report.dropped, [sample.id for sample in samples]) == ({}, ["7.Q1", "7.Q2", "8"])


def prediction(identity: str | int, clip: str | None) -> dict[str, Any]:
    return {
        "id": identity,
        "modal_path": clip,
        "model_prediction": {"status": "success", "message": "She cooks."},
    }


@pytest.mark.parametrize(
    ("identity", "clip", "wanted"),
    [
        ("v1_0", "clips/v1", "v1_0#0"),
        ("v1_0_3", "clips/v1", "v1_0#3"),
        ("v_abc_0", "clips/v_abc", "v_abc_0#0"),
        ("v_abc_0_3", "clips/v_abc.mp4", "v_abc_0#3"),
        ("v_12_0", "clips/v_12", "v_12_0#0"),
        ("v_12_0_3", "clips/v_12", "v_12_0#3"),
        ("v_12_0_3", "clips/v_12.part.mp4", "v_12_0#3"),
        ("a.b_1_2", "clips/a.b", "a.b_1#2"),
        ("v_abc_0", None, "v_abc_0#0"),
        (12, "clips/v1", "12#0"),
    ],
)
def test_a_prediction_answers_the_question_of_its_clip(identity, clip, wanted, tmp_path):
    _, (candidate,) = imported_rows("hound_predictions", [prediction(identity, clip)], tmp_path)
    assert (candidate.id, candidate.sample_id) == (wanted, wanted.rpartition("#")[0])


@pytest.mark.parametrize("name", ["hound_predictions", "hound_judgments"])
def test_the_questions_decide_what_an_id_means(name, tmp_path):
    write_jsonl(
        tmp_path / "samples.jsonl",
        [
            Sample(id=identity, video="v.mp4", prompt="Why?", caption="c")
            for identity in ("v_12_0", "w_1")
        ],
    )
    ids = ("v_12_0", "v_12_0_1", "w_1", "w_1_2", "w_1_2_3", "x_0")
    rows = [
        {**prediction(identity, None), "response": "Explanation: right.\nScore: 5"}
        for identity in ids
    ]
    report, records = imported_rows(name, rows, tmp_path, samples=tmp_path / "samples.jsonl")
    assert [
        record.candidate_id if isinstance(record, Judgment) else record.id for record in records
    ] == ["v_12_0#0", "v_12_0#1", "w_1#0", "w_1#2"]
    assert report.dropped == {"no such question": 2}


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("hound_judgments", {"id": "v_12_0", "response": "Score: 5"}),
        ("hound_predictions", prediction("v_12_0", "clips/elsewhere")),
    ],
)
def test_an_id_that_may_mean_two_questions_is_not_guessed_at(name, row, tmp_path):
    with pytest.raises(
        UserError,
        match=r"in\.jsonl:1: the id 'v_12_0' is question 'v_12_0', or answer 0 to question "
        r"'v_12': give the imported questions with --samples FILE",
    ):
        imported_rows(name, [row], tmp_path)
