"""Answers that were made elsewhere: JSON lines with an id and an answer, or a file of predictions
as the authors of the benchmark publish them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpo_video.benchmarks.predictions import Answers, answer_text
from dpo_video.benchmarks.published_files import read_table
from dpo_video.benchmarks.sets import BENCHMARKS, benchmark_of
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_lines
from dpo_video.core.records import Sample
from dpo_video.core.text import shortened
from dpo_video.data.choices import check_choice

ID_FIELDS = ("id", "sample_id", "question_id", "idx")
ANSWER_FIELDS = ("prediction", "pred", "response", "text", "answer")
"""In the order in which they count: beside a prediction, `answer` is the gold one."""
MAX_LINES = 20
"""Bad lines that are told; of more the number."""


def read_questions(path: Path) -> list[Sample]:
    """Return the questions of a file of samples; UserError with file:line where two have one id, or
    a choice has no right answer.
    """
    questions, first_lines = [], dict[str, int]()
    for number, sample in read_lines(path, Sample):
        if sample.id in first_lines:
            raise UserError(
                f"{path}:{number}: id {sample.id!r} appeared before, in line "
                f"{first_lines[sample.id]}; ids must be unique"
            )
        first_lines[sample.id] = number
        check_choice(sample, f"{path}:{number}")
        questions.append(sample)
    return questions


def check_none_missing(questions: Sequence[Sample], answers: Answers) -> None:
    """Refuse answers that leave questions out."""
    missing = [question.id for question in questions if question.id not in answers]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(questions)} questions have no answer, first "
            f"{missing[0]!r}. Without --refuse-missing they are wrong and counted"
        )


def read_answer_files(paths: Sequence[Path], questions: Sequence[Sample]) -> Answers:
    """Return the answers of one or several files by question id.

    Raises UserError for answers to other questions, a question that is answered twice, and a file
    of neither layout.
    """
    answers: Answers = {}
    first_file: dict[str, Path] = {}
    for path in paths:
        of_file = _read_answer_file(path, questions)
        twice = [question_id for question_id in of_file if question_id in answers]
        if twice:
            raise UserError(
                f"{path}: {len(twice)} questions have an answer in {first_file[twice[0]]} already, "
                f"first {twice[0]!r}"
            )
        answers |= of_file
        first_file |= dict.fromkeys(of_file, path)
    return answers


def _read_answer_file(path: Path, questions: Sequence[Sample]) -> Answers:
    if not path.is_file():
        raise UserError(f"no file of answers at {str(path)!r}")
    names = {benchmark_of(question) for question in questions}
    row = BENCHMARKS.get(str(next(iter(names)))) if len(names) == 1 else None
    if _is_json_lines(path) and (row is None or not _is_published(path)):
        return _read_rows(path, questions)
    if row is None or row.read_answers is None:
        whose = "several benchmarks" if len(names) > 1 else "none whose predictions are published"
        raise UserError(
            f"{path}: not JSON lines. The questions are of {whose}, so give answers as lines of "
            '{"id": ..., "answer": ...}'
        )
    return row.read_answers(path, questions)


def _is_json_lines(path: Path) -> bool:
    return path.suffix == ".jsonl"


def _is_published(path: Path) -> bool:
    """Return whether a file of JSON lines is one that authors publish: Vinoground's."""
    return path.name.startswith(("textscore", "videoscore"))


def _read_rows(path: Path, questions: Sequence[Sample]) -> Answers:
    known = {question.id for question in questions}
    answers: Answers = {}
    first_place: dict[str, str] = {}
    unknown: list[str] = []
    twice: list[str] = []
    for where, row in read_table(path):
        question_id = str(_first_of(row, ID_FIELDS, where))
        if question_id in first_place:
            twice.append(f"{where}: {question_id!r} stands in {first_place[question_id]} already")
            continue
        first_place[question_id] = where
        if question_id not in known:
            unknown.append(f"{where}: {question_id!r} is no question of the set")
            continue
        answers[question_id] = answer_text(_first_of(row, ANSWER_FIELDS, where), where)
    _refuse(unknown, "answers are to other questions: they are of another set")
    _refuse(twice, "answers are to a question that has one")
    return answers


def _first_of(row: Mapping[str, Any], names: Sequence[str], where: str) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise UserError(
        f"{where}: no field {' or '.join(f'`{name}`' for name in names)}; it has "
        f"{shortened(', '.join(row))}"
    )


def _refuse(lines: Sequence[str], what: str) -> None:
    if not lines:
        return
    more = f"\n  and {len(lines) - MAX_LINES} more" if len(lines) > MAX_LINES else ""
    shown = "\n".join(f"  {line}" for line in lines[:MAX_LINES])
    raise UserError(f"{len(lines)} {what}\n{shown}{more}")
