"""Sets are read from files in the published layout; what does not fit is told by file and field.

The rows are made here: published files are not part of this project.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dpo_video.benchmarks.metrics import measure
from dpo_video.benchmarks.sets import SETS, grade
from dpo_video.benchmarks.strict import read_strictly
from dpo_video.core.errors import UserError

PAIRS = [
    {
        "basic": {"video": "1_a.mp4", "question": "Is there a cat?", "answer": "yes"},
        "hallucination": {"video": "1_b.mp4", "question": "Is there a dog?", "answer": "no"},
        "type": "subject",
    },
    {
        "basic": {"video": "2.mp4", "question": "Does it rain?", "answer": "yes"},
        "hallucination": {"video": "2.mp4", "question": "Does it snow?", "answer": "no"},
        "type": "relation",
    },
]
EVENTS = [
    {
        "id": "entire_001",
        "questions": [
            {"type": "hallucination", "question": "Is he eating?", "answer": "No."},
            {"type": "hallucination", "question": "Is he running?", "answer": "Yes."},
        ],
    }
]
CHOICES = {
    "77": {
        "action": [{"question": "What is it?\nA. a cat\n B. a dog", "answer": "A. a cat"}],
        "order": [{"question": "What first?\nA. a cat\nB. a dog", "answer": "B. a dog"}],
    }
}
YES_NO = {"77_reverse": {"direction": [{"question": "Does it fall?", "answer": "no"}]}}
CAPTIONS = {
    "77": {
        "speed": [
            {
                "question": "Which fits?\nOption 1: It is slow.\nOption 2: It is fast.",
                "answer": "Option 2: It is fast.",
            }
        ]
    }
}


def written(folder: Path, name: str, rows: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(rows))
    return path


def with_answers(rows: Any, answers: list[str | None], key: str = "prediction") -> Any:
    """The rows of TempCompass with a prediction each, in their order."""
    texts = iter(answers)
    return {
        video: {
            aspect: [{**row, key: next(texts)} for row in questions]
            for aspect, questions in aspects.items()
        }
        for video, aspects in rows.items()
    }


def test_videohallucer_is_pairs_of_which_each_half_has_its_clip(tmp_path: Path) -> None:
    chosen = SETS["videohallucer"]
    questions = chosen.read_questions(written(tmp_path, "object_relation.json", PAIRS))
    assert [
        (question.id, question.video, question.group, question.category)
        for question in questions[:3]
    ] == [
        (
            "object_relation-0-basic",
            "object_relation/videos/1_a.mp4",
            "object_relation-0",
            "subject",
        ),
        (
            "object_relation-0-hallucination",
            "object_relation/videos/1_b.mp4",
            "object_relation-0",
            "subject",
        ),
        (
            "object_relation-1-basic",
            "object_relation/videos/2.mp4",
            "object_relation-1",
            "relation",
        ),
    ]
    assert questions[0].prompt == "Is there a cat?\nAnswer the question using 'yes' or 'no'."
    results = [
        {half: {**pair[half], "predict": text} for half, text in zip(pair, texts, strict=False)}  # type: ignore[dict-question]
        for pair, texts in zip(PAIRS, [("Yes.", "Yes."), ("yes", "no")], strict=True)
    ]
    answers = chosen.read_answers(written(tmp_path, "obj_rel_Model.json", results), questions)
    metrics = measure(grade(questions, answers, chosen.rule, where="here"), resamples=10, seed=0)
    assert metrics.accuracy.value == 0.75 and metrics.bias is not None
    assert metrics.group_accuracy is not None and metrics.group_accuracy.value == 0.5


def test_eventhallusion_takes_its_set_from_a_file_of_all_three(tmp_path: Path) -> None:
    chosen = SETS["eventhallusion"]
    questions = chosen.read_questions(written(tmp_path, "entire_questions.json", EVENTS))
    assert [(question.id, question.video) for question in questions] == [
        ("entire_001-0", "entire/entire_001.mp4"),
        ("entire_001-1", "entire/entire_001.mp4"),
    ]
    assert questions[0].prompt == "Is he eating?\nPlease answer yes or no:"
    asked = [
        {"question": "Is he eating?", "answer": "No.", "prediction": "No, he runs."},
        {"question": "Is he running?", "answer": "Yes.", "prediction": None},
    ]
    predictions = {"entire": {"entire_001": {"qa": asked}}, "misleading": {"m": {"qa": 7}}}
    answers = chosen.read_answers(written(tmp_path, "p.json", predictions), questions)
    graded = grade(questions, answers, chosen.rule, where="here")
    assert [row.reading.parsed for row in graded] == ["no", None]
    assert [row.reading.correct for row in graded] == [True, False]


def test_tempcompass_has_three_tasks_that_a_rule_decides(tmp_path: Path) -> None:
    for key, rows, texts, correct in (
        ("multi_choice", CHOICES, ["A", "A) a cat"], [True, False]),
        ("yes_no", YES_NO, ["No"], [True]),
        ("caption_matching", CAPTIONS, ["Option 2."], [True]),
    ):
        chosen = SETS[f"tempcompass_{key}"]
        questions = chosen.read_questions(written(tmp_path, f"{key}.json", rows))
        predictions = written(tmp_path, "p.json", with_answers(rows, list(texts)))
        answers = chosen.read_answers(predictions, questions)
        for rule in (chosen.rule, read_strictly):
            graded = grade(questions, answers, rule, where="here")
            assert [row.reading.correct for row in graded] == correct, key
    assert questions[0].prompt.endswith(
        "Option 2: It is fast.\nPlease directly give the best option:"
    )
    assert questions[0].id == "77-speed-0" and questions[0].category == "speed"


def test_answers_of_older_files_stand_under_response(tmp_path: Path) -> None:
    chosen = SETS["tempcompass_yes_no"]
    questions = chosen.read_questions(written(tmp_path, "yes_no.json", YES_NO))
    path = written(tmp_path, "p.json", with_answers(YES_NO, ["no"], key="response"))
    assert chosen.read_answers(path, questions) == {"77_reverse-direction-0": "no"}


@pytest.mark.parametrize(
    ("key", "rows", "message"),
    [
        ("videohallucer", {}, "expected a list, as published; got dict"),
        ("videohallucer", [{"basic": PAIRS[0]["basic"]}], "pair 0: hallucination: no field"),
        (
            "videohallucer",
            [{**PAIRS[0], "basic": {"video": "v", "question": "?"}}],
            "pair 0: basic: no field `answer`: the file is of another version or benchmark",
        ),
        (
            "eventhallusion",
            [{"id": "x", "questions": [{"question": "?", "answer": "Maybe."}]}],
            "row 0: question 0: the gold answer 'Maybe.' is neither yes nor no",
        ),
        ("tempcompass_yes_no", [], "expected an object, as published; got list"),
        (
            "tempcompass_multi_choice",
            {"v": {"action": [{"question": "?\nA. a\nB. b", "answer": "C. c"}]}},
            "v: action: question 0: the answer 'C. c' is none of the options",
        ),
        (
            "tempcompass_multi_choice",
            {"v": {"action": [{"question": "?\na\nb", "answer": "a"}]}},
            "v: action: question 0: an option without its label",
        ),
    ],
)
def test_a_file_of_another_version_names_what_is_missing(
    tmp_path: Path, key: str, rows: Any, message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        SETS[key].read_questions(written(tmp_path, "entire_questions.json", rows))


def test_answers_of_another_set_are_refused(tmp_path: Path) -> None:
    chosen = SETS["tempcompass_yes_no"]
    questions = chosen.read_questions(written(tmp_path, "yes_no.json", YES_NO))
    other = {"77_reverse": {"direction": [{"question": "Does it rise?", "answer": "yes"}]}}
    path = written(tmp_path, "p.json", with_answers(other, ["no"]))
    with pytest.raises(UserError, match=r"the answer is to 'Does it rise\?', where the set asks"):
        chosen.read_answers(path, questions)
    path = written(tmp_path, "p.json", with_answers({"78": YES_NO["77_reverse"]}, ["no"]))
    with pytest.raises(UserError, match="'78-direction-0', which is no question of the set"):
        chosen.read_answers(path, questions)
    with pytest.raises(UserError, match=r"here: 1 of the 1 questions have no answer, first '77_"):
        grade(questions, {}, chosen.rule, where="here")
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(UserError, match=r"p\.json: not JSON"):
        chosen.read_answers(tmp_path / "p.json", questions)
