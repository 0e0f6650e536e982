"""A file that is missing is told with the way to get it, one of another version by the field that
it lacks.
"""

import re
from pathlib import Path
from typing import Any

import pytest
from benchmark_rows import (
    CANDIDATE_ROWS,
    LONG_ROWS,
    PAIRS,
    TEXT_SCORE,
    VIDEO_ROWS,
    WRITTEN,
    questions_of,
    written,
)

from dpo_video.benchmarks.sets import BENCHMARKS
from dpo_video.core.errors import UserError


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_missing_file_is_told_with_the_way_to_get_it(tmp_path: Path, name: str) -> None:
    row = BENCHMARKS[name]
    for path in (tmp_path, tmp_path / "gone.json"):
        with pytest.raises(UserError) as caught:
            questions_of(name, path)
        assert row.title in str(caught.value) and row.origin in str(caught.value)
        assert row.licence in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file_name", "rows", "message"),
    [
        ("videohallucer", "temporal.json", {}, "expected a list, as published; got dict"),
        (
            "videohallucer",
            "temporal.json",
            [{"basic": PAIRS[0]["basic"]}],
            "row 0: no field `hallucination`: the file is of another version or benchmark",
        ),
        (
            "videohallucer",
            "temporal.json",
            [{**PAIRS[0], "basic": {"video": "v", "question": "?"}}],
            "row 0: basic: no field `answer`",
        ),
        (
            "eventhallusion",
            "entire_questions.json",
            [{"id": "x", "questions": [{"question": "?", "answer": "Maybe."}]}],
            "row 0: question 0: the gold answer 'Maybe.' is neither yes nor no",
        ),
        ("tempcompass_yes_no", "yes_no.json", {"v": [1]}, "v: expected an object, got [1]"),
        (
            "tempcompass_multi_choice",
            "multi-choice.json",
            {"v": {"action": [{"question": "?\nA. a\nB. b", "answer": "C. c"}]}},
            "v: action: question 0: the answer 'C. c' is none of the options",
        ),
        (
            "tempcompass_multi_choice",
            "multi-choice.json",
            {"v": {"action": [{"question": "?\na\nb", "answer": "a"}]}},
            "v: action: question 0: an option without its label",
        ),
        (
            "vidhalluc_binary",
            "ach_binaryqa.json",
            {"0": [{"q": "?"}]},
            "0: question 0: no field `a`",
        ),
        (
            "vidhalluc_multi_choice",
            "ach_mcq.json",
            {"0": {"x": {"Question": "?", "Choices": {"A": "a"}, "Correct Answer": "B"}}},
            "0: x: the gold answer 'B' is none of the options",
        ),
        (
            "mvbench",
            "action_count.json",
            [{**CANDIDATE_ROWS[0], "answer": "He flies."}],
            "row 0: the answer 'He flies.' is none of the options",
        ),
        (
            "mlvu",
            "4_count.json",
            [{"video": "a.mp4", "question": "?", "answer": "3"}],
            "row 0: no field `candidates`",
        ),
        (
            "videomme",
            "videomme.json",
            [{**VIDEO_ROWS[0], "options": ["1", "2"]}],
            "row 0: options without the labels A. to D.",
        ),
        (
            "longvideobench",
            "lvb_val.json",
            [{**LONG_ROWS[0], "video_path": None}],
            "row 0: no field `video_path`",
        ),
        (
            "vinoground",
            "vinoground_textscore.json",
            [{**TEXT_SCORE[0], "GT": "C"}],
            "row 0: `GT` is 'C', neither A nor B",
        ),
        ("vinoground", "captions.json", TEXT_SCORE, "must have textscore or videoscore in it"),
        ("vcgbench", "other.json", WRITTEN, "no file of VCGBench; it has generic_qa.json"),
    ],
)
def test_a_file_of_another_version_names_what_is_missing(
    tmp_path: Path, name: str, file_name: str, rows: Any, message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        questions_of(name, written(tmp_path, file_name, rows))


def test_a_key_that_stands_twice_and_a_file_that_is_no_json_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "yes_no.json"
    path.write_text('{"v": {}, "w": {}, "v": {}}')
    with pytest.raises(UserError, match="the key 'v' stands twice"):
        questions_of("tempcompass_yes_no", path)
    path.write_text("{")
    with pytest.raises(UserError, match=r"yes_no\.json: not JSON"):
        questions_of("tempcompass_yes_no", path)


def test_a_folder_with_two_files_of_one_name_is_refused(tmp_path: Path) -> None:
    """As the authors' repository is, where predictions are called like the questions."""
    written(tmp_path, "questions/temporal.json", PAIRS)
    written(tmp_path, "predictions/temporal.json", PAIRS)
    with pytest.raises(UserError, match=r"2 files in it are called 'temporal\.json', such as .*: "):
        questions_of("videohallucer", tmp_path)
    assert len(questions_of("videohallucer", tmp_path / "questions")) == 4
