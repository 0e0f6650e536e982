"""Video-MME: options about short, medium and long videos, without and with their subtitles.

Layout: lmms-lab/Video-MME on the Hugging Face hub (a row a question), or the JSON of the authors'
own script (a row a video with its `questions`). Prompts: the README of Video-MME and
lmms_eval/tasks/videomme.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpo_video.benchmarks.predictions import Answers, AnswerSheet, predicted
from dpo_video.benchmarks.published_files import (
    first_existing,
    list_field,
    read_table,
    text_field,
)
from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample

PROMPT = (
    "Select the best answer to the following multiple-choice question based on the video{}. "
    "Respond with only the letter (A, B, C, or D) of the correct option.\n"
)
LABELS = ["A. ", "B. ", "C. ", "D. "]
CUE = re.compile(r"^\s*(\d+|\d+:\d+:\d+[,.]\d+ --> .*)\s*$")
"""Lines of a subtitle file that are no text: a number, or from when until when."""


def read(path: Path, clips: Path | None) -> Iterator[Sample]:
    """Yield the questions, to be answered from the video alone."""
    return _questions(path, clips, subtitled=False)


def read_subtitled(path: Path, clips: Path | None) -> Iterator[Sample]:
    """Yield the questions with all subtitles of the video before them."""
    return _questions(path, clips, subtitled=True)


def read_answers(path: Path, questions: Sequence[Sample]) -> Answers:
    """Return the answers of a file as the authors' script takes it: videos with their `questions`,
    each with `response`.
    """
    sheet = AnswerSheet(questions)
    for row_place, row in read_table(path):
        for answered in list_field(row, "questions", row_place):
            question_id = text_field(answered, "question_id", row_place)
            where = f"{row_place}: {question_id}"
            sheet.add(question_id, predicted(answered, where, "response"), where)
    return sheet.checked()


def _questions(path: Path, clips: Path | None, *, subtitled: bool) -> Iterator[Sample]:
    subtitles = _subtitle_folder(path, clips) if subtitled else None
    for where, row in _flat_rows(path):
        name = text_field(row, "videoID", where)
        options = [str(option) for option in list_field(row, "options", where)]
        if [option[:3] for option in options] != LABELS:
            raise UserError(f"{where}: options without the labels A. to D.: {options}")
        answer = text_field(row, "answer", where).strip()
        if answer not in tuple("ABCD"):
            raise UserError(f"{where}: the answer {answer!r} is none of A to D")
        spoken = "" if subtitles is None else _subtitle_text(subtitles / f"{name}.srt")
        instruction = PROMPT.format(" and the subtitles" if subtitled else "")
        question = "\n".join([text_field(row, "question", where), *options])
        yield Sample(
            id=text_field(row, "question_id", where),
            video=first_existing(clips, f"data/{name}.mp4", f"{name}.mp4"),
            prompt=f"{spoken}{instruction}{question}\nThe best answer is:",
            options=options,
            answer=answer,
            answer_kind="letter",
            category=text_field(row, "duration", where),
            meta={key: row.get(key) for key in ("domain", "sub_category", "task_type")},
        )


def _flat_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a row for each question, in either layout."""
    for where, row in read_table(path):
        if "questions" not in row:
            yield where, row
            continue
        for question in list_field(row, "questions", where):
            yield where, {"videoID": row.get("url", "").rpartition("=")[2], **row, **question}


def _subtitle_folder(path: Path, clips: Path | None) -> Path:
    folders = [folder / "subtitle" for folder in (clips, path.parent) if folder is not None]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise UserError(
        f"no folder {' or '.join(map(repr, map(str, folders)))} with the subtitles of the videos: "
        "unpack subtitle.zip of lmms-lab/Video-MME (Hugging Face hub) there, or import `videomme`, "
        "which asks without"
    )


def _subtitle_text(path: Path) -> str:
    """Return what stands before the question: every subtitle, tags taken out; of a video without
    any, that there are none.
    """
    if not path.is_file():
        return "This video's subtitles are listed below: \nNo subtitles available\n"
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    texts = [re.sub(r"<[^<>]*>", "", line).strip() for line in lines if not CUE.match(line)]
    spoken = "\n".join(text for text in texts if text)
    return f"This video's subtitles are listed below: \n{spoken}\n"
