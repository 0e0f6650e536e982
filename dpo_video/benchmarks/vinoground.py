"""Vinoground: two captions of the same words in another order, and the two clips they tell of.

Layout: vinoground_textscore.json (which caption fits the clip), vinoground_videoscore.json (which
part of a clip of both fits the caption) and vinoground.csv of HanSolo9682/Vinoground on the Hugging
Face hub. Prompt of lmms_eval/tasks/vinoground.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from dpo_video.benchmarks.predictions import Answers, AnswerSheet, predicted
from dpo_video.benchmarks.published_files import read_table, text_field
from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample

FILES = ("vinoground_textscore.json", "vinoground_videoscore.json")
PROMPT = "\nPlease only output one English character."
OPTIONS = ["A", "B"]
"""What they are stands in the question."""


def read(path: Path, clips: Path | None) -> Iterator[Sample]:
    """Yield the questions of one of the two files; the four of a pair, two a file, count
    together.
    """
    kind = _kind(path)
    categories = _categories(path.with_name("vinoground.csv"))
    for where, row in read_table(path):
        name = text_field(row, "idx", where)
        pair = name.partition("_")[0]
        gold = text_field(row, "GT", where).strip().upper()
        if gold not in OPTIONS:
            raise UserError(f"{where}: `GT` is {gold!r}, neither A nor B")
        yield Sample(
            id=f"{name}-{kind}",
            video=text_field(row, "video_name", where),
            prompt=text_field(row, "question", where) + PROMPT,
            options=OPTIONS,
            answer=gold,
            answer_kind="letter",
            group=pair,
            category=kind,
            meta={"major": categories.get(pair)},
        )


def read_answers(path: Path, questions: Sequence[Sample]) -> Answers:
    """Return the answers of `textscore-response.jsonl` or `videoscore-response.jsonl`: rows with
    `idx` and `response`.
    """
    kind = _kind(path)
    sheet = AnswerSheet(questions)
    for where, row in read_table(path):
        name = text_field(row, "idx", where)
        sheet.add(f"{name}-{kind}", predicted(row, where, "response"), where)
    return sheet.checked()


def _kind(path: Path) -> str:
    """Return which of the two questions a file is about, by its name."""
    for kind in ("text", "video"):
        if f"{kind}score" in path.name:
            return kind
    raise UserError(f"{path}: its name must have textscore or videoscore in it, as published")


def _categories(path: Path) -> dict[str, str]:
    """Return the major category of each pair, a row each, where the table of captions lies
    there.
    """
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return {str(index): row[1] for index, row in enumerate(rows) if len(row) > 1}
