"""Answers that were made elsewhere: rows with an id and an answer, lmms-eval's log, or a file of
predictions as the authors of the benchmark publish them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpo_video.benchmarks.predictions import Answers, AnswerSheet
from dpo_video.benchmarks.published_files import read_published_json, read_table
from dpo_video.benchmarks.sets import BENCHMARKS, Benchmark, benchmark_of
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_rows
from dpo_video.core.records import Sample
from dpo_video.core.text import shortened
from dpo_video.data.lines import check_samples, sample_of

ID_FIELDS = ("id", "sample_id", "question_id", "idx")
ANSWER_FIELDS = ("prediction", "pred", "response", "text", "answer")
"""In the order in which they count: beside a prediction, `answer` is the gold one."""


def read_questions(path: Path) -> list[Sample]:
    """Return the questions of a file of samples; UserError with up to twenty bad lines."""
    check_samples(path, inside=None, needs_caption=False)
    return [sample_of(row, f"{path}:{number}") for number, row in read_rows(path, "Sample records")]


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


def read_rating_files(paths: Sequence[Path], questions: Sequence[Sample]) -> dict[str, bool]:
    """Return how the authors of the benchmark had answers rated that their rule cannot read, where
    the files say so.
    """
    row = _only_benchmark(questions)
    ratings: dict[str, bool] = {}
    for path in paths:
        if row is not None and row.read_ratings is not None and not _has_ids(path):
            ratings |= row.read_ratings(path)
    return ratings


def _only_benchmark(questions: Sequence[Sample]) -> Benchmark | None:
    """Return the benchmark of the questions; None of several, and of others."""
    names = {benchmark_of(question) for question in questions}
    return BENCHMARKS.get(str(next(iter(names)))) if len(names) == 1 else None


def _read_answer_file(path: Path, questions: Sequence[Sample]) -> Answers:
    if not path.is_file():
        raise UserError(f"no file of answers at {str(path)!r}")
    row = _only_benchmark(questions)
    if path.suffix != ".jsonl" and _is_mapping_of_texts(path):
        return _read_mapping(path, questions)
    if _has_ids(path) and not _is_published(path):
        return _read_rows(path, questions)
    if row is None or row.read_answers is None:
        raise UserError(
            f"{path}: no ids in it, and the questions are of no benchmark whose predictions are "
            'published in another form: give answers as lines of {"id": ..., "answer": ...}'
        )
    return row.read_answers(path, questions)


def _is_published(path: Path) -> bool:
    """Return whether rows with ids are those that authors publish: Vinoground's, whose ids stand in
    two files.
    """
    return path.name.startswith(("textscore", "videoscore"))


def _is_mapping_of_texts(path: Path) -> bool:
    """Return whether a file is one object of answers by id, as LongVideoBench takes them."""
    if path.suffix != ".json" or not _opens_with(path, "{"):
        return False
    members = read_published_json(path, dict)
    return bool(members) and all(isinstance(value, str | None) for value in members.values())


def _has_ids(path: Path) -> bool:
    """Return whether a file holds rows, and the first of them an id and an answer."""
    if path.suffix == ".json" and not _opens_with(path, "["):
        return False
    first = next(read_table(path), None)
    if first is None:
        raise UserError(f"{path}: no answers in it")
    _, row = first
    return path.suffix == ".jsonl" or any(name in row for name in ID_FIELDS)


def _opens_with(path: Path, character: str) -> bool:
    return path.read_text(encoding="utf-8-sig").lstrip()[:1] == character


def _read_mapping(path: Path, questions: Sequence[Sample]) -> Answers:
    sheet = AnswerSheet(questions)
    for question_id, text in read_published_json(path, dict).items():
        sheet.add(question_id, text, f"{path}: {question_id}")
    return sheet.checked()


def _read_rows(path: Path, questions: Sequence[Sample]) -> Answers:
    sheet = AnswerSheet(questions)
    for where, row in read_table(path):
        if "doc_id" in row:
            _add_logged(sheet, row, where)
            continue
        answer = _first_of(row, ANSWER_FIELDS, where)
        sheet.add(str(_first_of(row, ID_FIELDS, where)), answer, where)
    return sheet.checked()


def _add_logged(sheet: AnswerSheet, row: Mapping[str, Any], where: str) -> None:
    """Note an answer of a sample log of lmms-eval (`--log_samples`): its `doc` is a row of the
    benchmark, which has an id of ours or stands at the place `doc_id` of the set.
    """
    number, doc = row["doc_id"], row.get("doc") or {}
    named = [str(doc[name]) for name in ID_FIELDS if name in doc and str(doc[name]) in sheet]
    if named:
        question_id = named[0]
    elif isinstance(number, int) and 0 <= number < len(sheet.questions):
        question_id = sheet.questions[number].id
    else:
        question_id = f"document {number}"
    answer = _first_of(row, ("filtered_resps", "resps"), where)
    sheet.add(question_id, answer, where, question=str(doc.get("question") or "").strip())


def _first_of(row: Mapping[str, Any], names: Sequence[str], where: str) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise UserError(
        f"{where}: no field {' or '.join(f'`{name}`' for name in names)}; it has "
        f"{shortened(', '.join(row))}"
    )
