"""Answers made elsewhere are read from JSON lines or from the layout in which authors publish
predictions; those to other questions are refused.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmark_rows import (
    CANDIDATE_ROWS,
    CAPTIONS,
    CHOICES,
    CLIP_CHOICES,
    CLIP_PAIRS,
    CONSISTENT,
    EVENTS,
    OPEN_ANSWERS,
    OPEN_QUESTIONS,
    PAIRS,
    TEXT_SCORE,
    VIDEO_ROWS,
    VIDEO_SCORE,
    WRITTEN,
    YES_NO,
    questions_of,
    with_answers,
    written,
)

from dpo_video.benchmarks.answer_files import read_answer_files, read_questions
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Sample

EVENT_ANSWERS = {
    "entire": {
        "entire_001": {
            "qa": [
                {"question": "Is he eating?", "answer": "No.", "prediction": "No, he runs."},
                {"question": "Is he running?", "answer": "Yes.", "prediction": None},
            ]
        }
    },
    "misleading": {"m": {"qa": 7}},
}


def halves(*texts: tuple[str, str]) -> list[dict[str, Any]]:
    """VideoHallucer's result rows for PAIRS."""
    rows = []
    for pair, answers in zip(PAIRS, texts, strict=True):
        basic, hallucination = dict(pair["basic"]), dict(pair["hallucination"])  # type: ignore[call-overload]
        basic["predict"], hallucination["predict"] = answers
        rows.append({"basic": basic, "hallucination": hallucination, "type": "?"})
    return rows


@pytest.mark.parametrize(
    ("name", "questions", "predictions", "expected"),
    [
        (
            "videohallucer",
            ("temporal.json", PAIRS),
            ("temporal_Model.json", halves(("Yes.", "Yes."), ("no", "no"))),
            ["Yes.", "Yes.", "no", "no"],
        ),
        (
            "eventhallusion",
            ("entire_questions.json", EVENTS),
            ("predictions.json", EVENT_ANSWERS),
            ["No, he runs.", ""],
        ),
        (
            "tempcompass_multi_choice",
            ("multi-choice.json", CHOICES),
            ("predictions.json", with_answers(CHOICES, ["A", None])),
            ["A", ""],
        ),
        (
            "tempcompass_yes_no",
            ("yes_no.json", YES_NO),
            ("predictions.json", with_answers(YES_NO, ["no"], key="response")),
            ["no"],
        ),
        (
            "tempcompass_caption_matching",
            ("caption_matching.json", CAPTIONS),
            (
                "predictions.json",
                {
                    f"{clip}.mp4": rows
                    for clip, rows in with_answers(CAPTIONS, ["Option 2."]).items()
                },
            ),
            ["Option 2."],
        ),
        (
            "vidhalluc_binary",
            ("ach_binaryqa.json", CLIP_PAIRS),
            (
                "bqa.json",
                {
                    "0": [
                        {"q": "Does he cut?", "a": {"x_clip_1": "Yes.", "x_clip_2": "no"}},
                        {"q": "Does he stir?", "a": {"x_clip_1": "No", "x_clip_2": "No"}},
                    ]
                },
            ),
            ["Yes.", "no", "No", "No"],
        ),
        (
            "vidhalluc_multi_choice",
            ("ach_mcq.json", CLIP_CHOICES),
            (
                "mcq.json",
                {
                    "gt": CLIP_CHOICES,
                    "pred": {
                        "0": {
                            clip: {**row, "Model Answer": text}
                            for (clip, row), text in zip(
                                CLIP_CHOICES["0"].items(), ["A, C", "B"], strict=True
                            )
                        }
                    },
                },
            ),
            ["A, C", "B"],
        ),
        (
            "videomme",
            ("videomme.json", VIDEO_ROWS),
            (
                "output.json",
                [
                    {"questions": [{"question_id": "001-1", "response": "C"}]},
                    {"questions": [{"question_id": "002-1", "response": "B. b"}]},
                ],
            ),
            ["C", "B. b"],
        ),
        (
            "vcgbench",
            ("generic_qa.json", WRITTEN),
            ("pred.json", [{**WRITTEN[0], "pred": "A cook."}]),
            ["A cook."],
        ),
        (
            "vcgbench",
            ("consistency_qa.json", CONSISTENT),
            ("pred.json", [{**CONSISTENT[0], "pred1": "A cook.", "pred2": "He."}]),
            ["A cook.", "He."],
        ),
    ],
)
def test_predictions_are_read_as_their_authors_publish_them(
    tmp_path: Path,
    name: str,
    questions: tuple[str, Any],
    predictions: tuple[str, Any],
    expected: list[str],
) -> None:
    samples = questions_of(name, written(tmp_path, *questions))
    answers = read_answer_files([written(tmp_path, *predictions)], samples)
    assert list(answers.values()) == expected
    assert list(answers) == [sample.id for sample in samples]


def test_activitynet_qa_and_vinoground_have_json_lines_of_their_own(tmp_path: Path) -> None:
    written(tmp_path, "test_a.json", OPEN_ANSWERS)
    samples = questions_of("activitynet_qa", written(tmp_path, "test_q.json", OPEN_QUESTIONS))
    rows = [{"id": "v_xyz_1", "question": "?", "answer": "cooking", "pred": "He cooks."}]
    path = written(tmp_path, "merged.jsonl", rows)
    assert read_answer_files([path], samples) == {"v_xyz_1": "He cooks."}
    written(tmp_path, "vinoground_textscore.json", TEXT_SCORE)
    written(tmp_path, "vinoground_videoscore.json", VIDEO_SCORE)
    samples = questions_of("vinoground", tmp_path)
    paths = [
        written(
            tmp_path,
            f"{kind}score-response.jsonl",
            [{"idx": row["idx"], "response": [kind]} for row in TEXT_SCORE],
        )
        for kind in ("text", "video")
    ]
    answers = read_answer_files(paths, samples)
    assert len(answers) == 8 and answers["1_neg-video"] == "video"
    with pytest.raises(UserError, match=r"4 questions have an answer in .*, first '0_pos-text'"):
        read_answer_files([paths[0], paths[0]], samples)


def test_json_lines_have_an_id_and_an_answer_by_several_names(tmp_path: Path) -> None:
    samples = questions_of("eventhallusion", written(tmp_path, "entire_questions.json", EVENTS))
    for rows in (
        [{"id": "entire_001-0", "answer": "No"}],
        [{"sample_id": "entire_001-0", "text": "No"}],
        [{"question_id": "entire_001-0", "answer": "gold", "prediction": "No"}],
    ):
        path = written(tmp_path, "answers.jsonl", rows)
        assert read_answer_files([path], samples) == {"entire_001-0": "No"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"id": "x", "answer": "a"}, {"id": "entire_001-0", "answer": "a"}],
            r"1 answers are to other questions: they are of another set or version\n  .*:1: 'x' is",
        ),
        (
            [{"id": "entire_001-0", "answer": "a"}, {"id": "entire_001-0", "answer": "b"}],
            r"1 answers are to a question that has one\n  .*:2: 'entire_001-0' has an answer .*:1",
        ),
        ([{"answer": "a"}], r":1: no field `id` or `sample_id` or .*; it has answer"),
        ([{"id": "entire_001-0"}], r":1: no field `prediction` or .*; it has id"),
        ([{"id": "entire_001-0", "answer": 3}], r":1: an answer must be a text, got 3"),
        ([[1]], r":1: expected an object, got \[1\]"),
    ],
)
def test_wrong_lines_are_told_by_file_line_and_count(
    tmp_path: Path, rows: list[Any], message: str
) -> None:
    samples = questions_of("eventhallusion", written(tmp_path, "entire_questions.json", EVENTS))
    with pytest.raises(UserError, match=message):
        read_answer_files([written(tmp_path, "answers.jsonl", rows)], samples)


def test_of_many_bad_lines_the_first_twenty_are_shown(tmp_path: Path) -> None:
    samples = questions_of("eventhallusion", written(tmp_path, "entire_questions.json", EVENTS))
    rows = [{"id": f"x{number}", "answer": "a"} for number in range(30)]
    with pytest.raises(UserError) as caught:
        read_answer_files([written(tmp_path, "answers.jsonl", rows)], samples)
    assert str(caught.value).startswith("30 answers are to other questions")
    assert str(caught.value).endswith("and 10 more") and "'x19'" in str(caught.value)


def test_published_answers_of_another_set_are_refused(tmp_path: Path) -> None:
    samples = questions_of("tempcompass_yes_no", written(tmp_path, "yes_no.json", YES_NO))
    other = {"77_reverse": {"direction": [{"question": "Does it rise?", "answer": "yes"}]}}
    path = written(tmp_path, "p.json", with_answers(other, ["no"]))
    with pytest.raises(UserError, match=r"the answer is to 'Does it rise\?', where the set asks"):
        read_answer_files([path], samples)
    path = written(tmp_path, "p.json", with_answers({"78": YES_NO["77_reverse"]}, ["no"]))
    with pytest.raises(UserError, match="'78-direction-0' is no question of the set"):
        read_answer_files([path], samples)
    with pytest.raises(UserError, match="no file of answers at"):
        read_answer_files([tmp_path / "gone.json"], samples)


def test_all_answers_of_another_version_are_counted(tmp_path: Path) -> None:
    samples = questions_of("eventhallusion", written(tmp_path, "entire_questions.json", EVENTS))
    other = {"question": "Is he flying?", "answer": "No.", "prediction": "No."}
    path = written(tmp_path, "p.json", {"entire": {"entire_001": {"qa": [other, other]}}})
    with pytest.raises(UserError, match=r"^2 answers are to other questions: .* of another set or"):
        read_answer_files([path], samples)


def test_a_set_without_published_predictions_takes_ids(tmp_path: Path) -> None:
    samples = [Sample(id="a", video="a.mp4", prompt="?", answer="yes", answer_kind="yes_no")]
    with pytest.raises(UserError, match=r'give answers as lines of \{"id": ..., "answer": ...\}'):
        read_answer_files([written(tmp_path, "p.json", [{"qa": 1}])], samples)
    with pytest.raises(UserError, match=r"p\.json: no answers in it"):
        read_answer_files([written(tmp_path, "p.json", [])], samples)
    for rows in ([{"id": "a", "answer": "Yes"}], {"a": "Yes"}):
        assert read_answer_files([written(tmp_path, "p.json", rows)], samples) == {"a": "Yes"}


def test_a_log_of_lmms_eval_is_matched_by_id_or_place_and_held_against_the_question(
    tmp_path: Path,
) -> None:
    samples = questions_of("videomme", written(tmp_path, "videomme.json", VIDEO_ROWS))
    logged = [
        {"doc_id": 1, "doc": VIDEO_ROWS[1], "resps": [["B"]], "filtered_resps": ["A"]},
        {"doc_id": 0, "doc": VIDEO_ROWS[0], "resps": [["C. 3."]]},
    ]
    path = written(tmp_path, "samples_videomme.jsonl", logged)
    assert read_answer_files([path], samples) == {"002-1": "A", "001-1": "C. 3."}
    samples = questions_of("mvbench", written(tmp_path, "action_count.json", CANDIDATE_ROWS))
    logged = [{"doc_id": 1, "doc": CANDIDATE_ROWS[1], "filtered_resps": ["A"]}]
    path = written(tmp_path, "samples_mvbench.jsonl", logged)
    assert read_answer_files([path], samples) == {"action_count-1": "A"}
    path = written(tmp_path, "samples_mvbench.jsonl", [{**logged[0], "doc_id": 0}])
    with pytest.raises(UserError, match=r":1: the answer is to 'And here\?', where the set asks"):
        read_answer_files([path], samples)
    path = written(tmp_path, "samples_mvbench.jsonl", [{**logged[0], "doc_id": 7}])
    with pytest.raises(UserError, match=r":1: 'document 7' is no question of the set"):
        read_answer_files([path], samples)


def test_questions_to_score_are_checked_line_by_line(tmp_path: Path) -> None:
    sample = Sample(id="a", video="a.mp4", prompt="?", answer="yes", answer_kind="yes_no")
    path = tmp_path / "samples.jsonl"
    without_options = Sample(id="b", video="a.mp4", prompt="?", answer="A", answer_kind="letter")
    write_jsonl(path, [sample, sample, without_options])
    with pytest.raises(UserError) as caught:
        read_questions(path)
    assert ":2: the id 'a' stands in line 1 already" in str(caught.value)
    assert ":3: `answer_kind` letter needs 2 to 26 `options`, got 0" in str(caught.value)
    several = Sample(
        id="c",
        video="a.mp4",
        prompt="?",
        options=["a", "b", "c"],
        answer="AC",
        answer_kind="letter",
        meta={"several_letters": True},
    )
    write_jsonl(path, [sample, several])
    assert read_questions(path) == [sample, several]
    write_jsonl(path, [replace(several, meta=None)])
    with pytest.raises(UserError, match=r":1: `answer` must be the letter of one of the 3 options"):
        read_questions(path)
