"""TempCompass: what happens when, in four tasks on the same clips and temporal aspects.

Layout: questions/ and predictions/ of llyx97/TempCompass at e1b4631, or the rows of
lmms-lab/TempCompass (`video_id`, `dim`). Prompts: lmms_eval/tasks/tempcompass.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dpo_video.benchmarks.predictions import Answers, AnswerSheet, predicted
from dpo_video.benchmarks.published_files import (
    beside,
    gold_letter,
    gold_yes_no,
    list_field,
    object_items,
    read_published_json,
    read_table,
    text_field,
)
from dpo_video.benchmarks.strict import LABEL, NAMED_OPTION
from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample

PREDICTION_RATED = "video-llm-prediction"
"""What the authors' files of ratings call an answer."""
YES_OR_NO = "\nPlease answer yes or no:"
BEST_OPTION = "\nPlease directly give the best option:"
TaskName = Literal["multi-choice", "yes_no", "caption_matching", "captioning"]
PROMPTS: dict[TaskName, str] = {
    "multi-choice": BEST_OPTION,
    "yes_no": YES_OR_NO,
    "caption_matching": BEST_OPTION,
    "captioning": "",
}
OPTION_FORMS: dict[TaskName, re.Pattern[str]] = {
    "multi-choice": LABEL,
    "caption_matching": NAMED_OPTION,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AspectRow:
    """One question about one temporal aspect of a clip, in either layout."""

    where: str
    video: str
    aspect: str
    index: int
    """Among the questions about the aspect."""
    row: Mapping[str, Any]

    @property
    def id(self) -> str:
        """Of the question: `1034419625-action-0`."""
        return f"{self.video}-{self.aspect}-{self.index}"


def read(task: TaskName, path: Path, clips: Path | None) -> Iterator[Sample]:
    """Yield the questions of a task from its file, by clip and temporal aspect."""
    choices = _choice_questions(path) if task == "captioning" else {}
    for aspect_row in _aspect_rows(path):
        text = text_field(aspect_row.row, "question", aspect_row.where)
        if task == "captioning":
            kind_fields = _captioning_fields(aspect_row, choices)
        elif task == "yes_no":
            answer = text_field(aspect_row.row, "answer", aspect_row.where)
            kind_fields = {
                "answer_kind": "yes_no",
                "answer": gold_yes_no(answer, aspect_row.where),
            }
        else:
            kind_fields = _option_fields(task, text, aspect_row)
        yield Sample(
            id=aspect_row.id,
            video=f"{aspect_row.video}.mp4",
            prompt=text + PROMPTS[task],
            category=aspect_row.aspect,
            **kind_fields,
        )


def read_answers(path: Path, questions: Sequence[Sample]) -> Answers:
    """Return the answers of a predictions file, the questions with `prediction` or `response`, or
    of a file of the authors' ratings.
    """
    sheet = AnswerSheet(questions)
    for aspect_row in _aspect_rows(path):
        text = text_field(aspect_row.row, "question", aspect_row.where)
        answer = predicted(
            aspect_row.row, aspect_row.where, "prediction", "response", PREDICTION_RATED
        )
        sheet.add(aspect_row.id, answer, aspect_row.where, question=text)
    return sheet.checked()


def read_ratings(path: Path) -> dict[str, bool]:
    """Return how the authors' judge rated the answers that their rule could not read, by question:
    what `auto_eval_results` says; empty of a file of predictions.
    """
    return {
        aspect_row.id: bool(aspect_row.row["rating"])
        for aspect_row in _aspect_rows(path)
        if aspect_row.row.get("match_success") is False and "rating" in aspect_row.row
    }


def _aspect_rows(path: Path) -> Iterator[AspectRow]:
    """Yield the rows of a file by clip and aspect, or of a table with a row for each question."""
    if path.suffix != ".json" or path.read_text(encoding="utf-8-sig").lstrip()[:1] == "[":
        num_rows: Counter[tuple[str, str]] = Counter()
        for where, row in read_table(path):
            key = text_field(row, "video_id", where), text_field(row, "dim", where)
            yield AspectRow(where=where, video=key[0], aspect=key[1], index=num_rows[key], row=row)
            num_rows[key] += 1
        return
    for name, aspects in read_published_json(path, dict).items():
        video = re.sub(r"\.(mp4|jpg)$", "", name)  # as the authors' print_result does
        for aspect, _ in object_items(aspects, f"{path}: {name}"):
            for index, row in enumerate(list_field(aspects, aspect, f"{path}: {name}")):
                where = f"{path}: {name}: {aspect}: question {index}"
                yield AspectRow(where=where, video=video, aspect=aspect, index=index, row=row)


def _option_fields(task: TaskName, text: str, aspect_row: AspectRow) -> dict[str, Any]:
    """Return options and gold letter of a question whose options stand in lines of their own."""
    options = text.split("\n")[1:]
    answer = text_field(aspect_row.row, "answer", aspect_row.where)
    letter = gold_letter(answer, options, aspect_row.where)
    if not all(map(OPTION_FORMS[task].match, options)):
        raise UserError(f"{aspect_row.where}: an option without its label among {options}")
    return {"answer_kind": "letter", "options": options, "answer": letter}


def _choice_questions(path: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the question that the judge of a caption is asked, and its right option, by clip and
    aspect; empty where the rows themselves hold them.
    """
    first = next(_aspect_rows(path), None)
    if first is None or "mc_question" in first.row:
        return {}
    why = "the judge answers its first question about the same aspect from the caption alone"
    choices = {}
    for aspect_row in _aspect_rows(beside(path, "multi-choice.json", why=why)):
        if aspect_row.index == 0:
            choices[aspect_row.video, aspect_row.aspect] = (
                text_field(aspect_row.row, "question", aspect_row.where),
                text_field(aspect_row.row, "answer", aspect_row.where),
            )
    return choices


def _captioning_fields(
    aspect_row: AspectRow, choices: Mapping[tuple[str, str], tuple[str, str]]
) -> dict[str, Any]:
    """Return the gold answer of a caption, and what its judge is asked."""
    row, where = aspect_row.row, aspect_row.where
    key = aspect_row.video, aspect_row.aspect
    if "mc_question" in row:
        question, answer = (text_field(row, name, where) for name in ("mc_question", "mc_answer"))
    elif key in choices:
        question, answer = choices[key]
    else:
        raise UserError(f"{where}: multi-choice.json asks nothing about {' and '.join(key)}")
    letter, _, text = answer.partition(". ")
    if not text:
        raise UserError(f"{where}: the answer {answer!r} has no letter")
    return {"answer": text, "meta": {"judge_question": question, "judge_answer": letter}}
