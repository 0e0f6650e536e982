"""The sets of published benchmarks: questions and answers read from the files as published.

A set is a function that reads its questions, the published rule, and a row in SETS. Files come from
the authors; none is part of this project, for their licences differ.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dpo_video.benchmarks.published_rules import (
    eventhallusion,
    tempcompass_caption_matching,
    tempcompass_multi_choice,
    tempcompass_yes_no,
    videohallucer,
)
from dpo_video.benchmarks.questions import AnswerKind, BenchmarkQuestion, GradedQuestion, Rule
from dpo_video.benchmarks.strict import LABEL
from dpo_video.core.errors import UserError
from dpo_video.core.text import shortened

Answers = dict[str, str]
"""A model's answers by question id."""
TASK_KINDS: dict[str, AnswerKind] = {
    "multi-choice": "letter",
    "yes_no": "yes_no",
    "caption_matching": "option",
}
"""Tasks of TempCompass that a rule decides; `captioning` needs a judge."""
OPTION_FORMS = {"multi-choice": LABEL, "caption_matching": re.compile(r"^\S+ \S+: .")}
HALVES = ("basic", "hallucination")
YES_OR_NO = "\nPlease answer yes or no:"
BEST_OPTION = "\nPlease directly give the best option:"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkSet:
    """How a set is read, asked and scored."""

    read_questions: Callable[[Path], list[BenchmarkQuestion]]
    read_answers: Callable[[Path, Sequence[BenchmarkQuestion]], Answers]
    """From a file of predictions in the published layout, to these questions."""
    rule: Rule
    source: str
    licence: str


def grade(
    questions: Sequence[BenchmarkQuestion], answers: Mapping[str, str], rule: Rule, *, where: str
) -> list[GradedQuestion]:
    """Return every question with what the rule reads from its answer.

    Raises UserError where a question has no answer; `where` says whose they are.
    """
    unanswered = [question.id for question in questions if question.id not in answers]
    if unanswered:
        raise UserError(
            f"{where}: {len(unanswered)} of the {len(questions)} questions have no answer, first "
            f"{unanswered[0]!r}. Give the answers to this very set"
        )
    return [
        GradedQuestion(
            question=question,
            answer=answers[question.id],
            reading=rule(question, answers[question.id]),
        )
        for question in questions
    ]


def read_videohallucer(path: Path) -> list[BenchmarkQuestion]:
    """Return the questions of one of the seven sets, such as `object_relation.json`: pairs of a
    basic question and a hallucination, each about its own clip.
    """
    questions = []
    for index, row in enumerate(_rows(path, list)):
        for half in HALVES:
            where = f"{path}: pair {index}: {half}"
            text, gold = _text(row, half, "question", where), _text(row, half, "answer", where)
            questions.append(
                BenchmarkQuestion(
                    id=f"{path.stem}-{index}-{half}",
                    video=f"{path.stem}/videos/{_text(row, half, 'video', where)}",
                    text=text,
                    prompt=f"{text}\nAnswer the question using 'yes' or 'no'.",
                    answer=_yes_or_no(gold, where),
                    kind="yes_no",
                    group=f"{path.stem}-{index}",
                    category=str(row.get("type", path.stem)),
                )
            )
    return questions


def read_videohallucer_answers(path: Path, questions: Sequence[BenchmarkQuestion]) -> Answers:
    """Return the answers of a result file: the pairs of the set in its order, each half with
    `predict`.
    """
    answers: Answers = {}
    for index, row in enumerate(_rows(path, list)):
        for number, half in enumerate(HALVES):
            where = f"{path}: pair {index}: {half}"
            if 2 * index + number >= len(questions):
                raise UserError(f"{where}: the set has only {len(questions) // 2} pairs")
            question = questions[2 * index + number]
            answers[question.id] = _answer(_field(row, half, where), "predict", question, where)
    return answers


def read_eventhallusion(path: Path) -> list[BenchmarkQuestion]:
    """Return the binary questions of `entire_questions.json`, `interleave_questions.json` or
    `misleading_questions.json`.
    """
    split = path.stem.removesuffix("_questions")
    questions = []
    for index, row in enumerate(_rows(path, list)):
        name = _field(row, "id", f"{path}: row {index}")
        for number, published in enumerate(_field(row, "questions", f"{path}: row {index}")):
            where = f"{path}: row {index}: question {number}"
            text = str(_field(published, "question", where))
            questions.append(
                BenchmarkQuestion(
                    id=f"{name}-{number}",
                    video=f"{split}/{name}.mp4",
                    text=text,
                    prompt=text + YES_OR_NO,
                    answer=_yes_or_no(str(_field(published, "answer", where)), where),
                    kind="yes_no",
                    category=split,
                )
            )
    return questions


def read_eventhallusion_answers(path: Path, questions: Sequence[BenchmarkQuestion]) -> Answers:
    """Return the answers of a predictions file, which holds all three sets: by set and clip, each
    question under `qa` with `prediction`; one that failed is an empty answer.
    """
    by_id = {question.id: question for question in questions}
    splits = {question.category for question in questions}
    answers: Answers = {}
    for split, clips in _rows(path, dict).items():
        for name, row in clips.items() if split in splits else ():
            where = f"{path}: {split}: {name}"
            for number, answered in enumerate(_field(row, "qa", where)):
                question = _question(by_id, f"{name}-{number}", where)
                answers[question.id] = _answer(answered, "prediction", question, where)
    return answers


def read_tempcompass(task: str, path: Path) -> list[BenchmarkQuestion]:
    """Return the questions of a task from its file, by clip and temporal aspect.

    Args:
        task: `multi-choice`, `yes_no` or `caption_matching`.
    """
    questions = []
    for video, aspect, number, row in _tempcompass_rows(path):
        where = f"{path}: {video}: {aspect}: question {number}"
        text = str(_field(row, "question", where))
        answer = str(_field(row, "answer", where))
        options = () if task == "yes_no" else tuple(text.split("\n")[1:])
        if task == "yes_no":
            _yes_or_no(answer, where)
        elif answer not in options:
            raise UserError(f"{where}: the answer {answer!r} is none of the options {options}")
        elif not all(map(OPTION_FORMS[task].match, options)):
            raise UserError(f"{where}: an option without its label among {options}")
        questions.append(
            BenchmarkQuestion(
                id=f"{video}-{aspect}-{number}",
                video=f"{video}.mp4",
                text=text,
                prompt=text + (YES_OR_NO if task == "yes_no" else BEST_OPTION),
                answer=answer,
                kind=TASK_KINDS[task],
                options=options,
                category=aspect,
            )
        )
    return questions


def read_tempcompass_answers(path: Path, questions: Sequence[BenchmarkQuestion]) -> Answers:
    """Return the answers of a predictions file: the questions with `prediction`, or `response`."""
    by_id = {question.id: question for question in questions}
    answers: Answers = {}
    for video, aspect, number, row in _tempcompass_rows(path):
        key = "response" if "prediction" not in row and "response" in row else "prediction"
        where = f"{path}: {video}: {aspect}: question {number}"
        question = _question(by_id, f"{video}-{aspect}-{number}", where)
        answers[question.id] = _answer(row, key, question, where)
    return answers


def _tempcompass_rows(path: Path) -> Iterator[tuple[str, str, int, Mapping[str, Any]]]:
    for video, aspects in _rows(path, dict).items():
        for aspect, rows in aspects.items():
            for number, row in enumerate(rows):
                yield video, aspect, number, row


def _rows(path: Path, kind: type) -> Any:
    """Return the contents of a JSON file that is a list, or an object."""
    if not path.is_file():
        raise UserError(f"no file at {str(path)!r}")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(rows, kind):
        expected = "a list" if kind is list else "an object"
        raise UserError(f"{path}: expected {expected}, as published; got {type(rows).__name__}")
    return rows


def _field(row: Any, name: str, where: str) -> Any:
    """Return a field of a row; UserError names the one that a file of another version lacks."""
    if not isinstance(row, Mapping) or name not in row:
        raise UserError(f"{where}: no field `{name}`: the file is of another version or benchmark")
    return row[name]


def _text(row: Any, half: str, name: str, where: str) -> str:
    return str(_field(_field(row, half, where), name, where))


def _question(by_id: Mapping[str, BenchmarkQuestion], name: str, where: str) -> BenchmarkQuestion:
    if name not in by_id:
        raise UserError(f"{where}: an answer to {name!r}, which is no question of the set")
    return by_id[name]


def _answer(row: Any, key: str, question: BenchmarkQuestion, where: str) -> str:
    """Return the answer that a row of predictions gives to a question; none is an empty one."""
    text = _field(row, "question", where)
    if text != question.text:
        raise UserError(
            f"{where}: the answer is to {shortened(str(text))!r}, where the set asks "
            f"{shortened(question.text)!r}: it is of another set or version"
        )
    return str(_field(row, key, where) or "")


def _yes_or_no(answer: str, where: str) -> str:
    if answer.lower().rstrip(".") not in ("yes", "no"):
        raise UserError(f"{where}: the gold answer {answer!r} is neither yes nor no")
    return answer


def _tempcompass_set(task: str, rule: Rule) -> BenchmarkSet:
    return BenchmarkSet(
        read_questions=partial(read_tempcompass, task),
        read_answers=read_tempcompass_answers,
        rule=rule,
        source="github.com/llyx97/TempCompass",
        licence="CC BY-NC 4.0",
    )


SETS: dict[str, BenchmarkSet] = {
    "videohallucer": BenchmarkSet(
        read_questions=read_videohallucer,
        read_answers=read_videohallucer_answers,
        rule=videohallucer,
        source="github.com/patrick-tssn/VideoHallucer",
        licence="MIT",
    ),
    "eventhallusion": BenchmarkSet(
        read_questions=read_eventhallusion,
        read_answers=read_eventhallusion_answers,
        rule=eventhallusion,
        source="github.com/Stevetich/EventHallusion",
        licence="none stated",
    ),
    "tempcompass_multi_choice": _tempcompass_set("multi-choice", tempcompass_multi_choice),
    "tempcompass_yes_no": _tempcompass_set("yes_no", tempcompass_yes_no),
    "tempcompass_caption_matching": _tempcompass_set(
        "caption_matching", tempcompass_caption_matching
    ),
}
"""By name; of VideoHallucer and EventHallusion each file is a set."""
