"""Candidates and judgments as a run's files hold them: what was changed in them is told by file and
line.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from preferences import Row, records

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.pair.answers import read_judged

QUESTIONS: dict[str, Sequence[Row]] = {
    "q": [("good", 4.0), ("bad", 1.0)],
    "r": [("fine", 5.0), ("poor", 2.0)],
}
SAMPLES, CANDIDATES, JUDGMENTS = records(QUESTIONS)
Edit = Callable[[list[str]], list[str]]


def write_files(folder: Path) -> None:
    write_jsonl(folder / "candidates.jsonl", CANDIDATES)
    write_jsonl(folder / "judgments.jsonl", JUDGMENTS)


def test_candidates_come_in_the_order_of_the_file_with_their_judgments(tmp_path: Path) -> None:
    write_files(tmp_path)
    candidates, judgment_of = read_judged(tmp_path, SAMPLES)
    assert candidates == CANDIDATES
    assert judgment_of == {row.candidate_id: row for row in JUDGMENTS}


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        (
            "candidates.jsonl",
            lambda lines: [*lines, lines[1]],
            "candidates.jsonl:5: candidate 'q#1' stands in line 2 already",
        ),
        (
            "candidates.jsonl",
            lambda lines: [line.replace('"sample_id": "r"', '"sample_id": "x"') for line in lines],
            "candidates.jsonl:3: candidate 'r#0' answers 'x', which is not among the samples",
        ),
        (
            "candidates.jsonl",
            lambda lines: lines[:2] + lines[3:],
            "judgments.jsonl:3: the judgment of 'r#0' is of no candidate in",
        ),
        (
            "judgments.jsonl",
            lambda lines: [lines[0], "\n", *lines],
            "judgments.jsonl:3: the judgment of 'q#0' stands in line 1 already",
        ),
        (
            "judgments.jsonl",
            lambda lines: [lines[0], *lines[2:3]],
            "judgments.jsonl: no judgment of 2 of the 4 candidates, first 'q#1' (",
        ),
        (
            "judgments.jsonl",
            lambda lines: [line.replace("r#1", "s#1") for line in lines],
            "judgments.jsonl:4: the judgment of 's#1' is of no candidate in",
        ),
    ],
)
def test_a_row_that_is_doubled_foreign_or_gone_is_told_with_file_and_line(
    tmp_path: Path, file: str, edit: Edit, message: str
) -> None:
    write_files(tmp_path)
    path = tmp_path / file
    path.write_text("".join(edit(path.read_text().splitlines(keepends=True))))
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        read_judged(tmp_path, SAMPLES)
    command = "judge" if "judgment" in message else "generate"
    assert f"run dpo-video {command} RECIPE again" in str(raised.value)


def test_the_candidate_that_lost_its_judgment_is_named_by_its_line(tmp_path: Path) -> None:
    write_files(tmp_path)
    write_jsonl(tmp_path / "judgments.jsonl", JUDGMENTS[:2])
    with pytest.raises(UserError, match=r"2 of the 4 .*'r#0' \(.*candidates\.jsonl:3\)"):
        read_judged(tmp_path, SAMPLES)
