"""EventHallusion: yes or no about events that are rare, unexpected or suggested.

Layout: questions/ and predictions/ of Stevetich/EventHallusion at 7396e04. Its second task, to
describe a clip, is rated by GPT-4o and is not here.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dpo_video.benchmarks.predictions import Answers, AnswerSheet, predicted
from dpo_video.benchmarks.published_files import (
    gold_yes_no,
    list_field,
    object_items,
    read_published_json,
    read_table,
    text_field,
)
from dpo_video.core.records import Sample

FILES = ("entire_questions.json", "interleave_questions.json", "misleading_questions.json")
PROMPT = "\nPlease answer yes or no:"


def read(path: Path, clips: Path | None) -> Iterator[Sample]:
    """Yield the binary questions of one of the three files."""
    split = path.stem.removesuffix("_questions")
    for where, row in read_table(path):
        name = text_field(row, "id", where)
        for index, question in enumerate(list_field(row, "questions", where)):
            where_clip = f"{where}: question {index}"
            yield Sample(
                id=f"{name}-{index}",
                video=f"{split}/{name}.mp4",
                prompt=text_field(question, "question", where_clip) + PROMPT,
                answer=gold_yes_no(text_field(question, "answer", where_clip), where_clip),
                answer_kind="yes_no",
                category=split,
            )


def read_answers(path: Path, questions: Sequence[Sample]) -> Answers:
    """Return the answers of a predictions file, which holds all three sets: by set and clip, each
    question under `qa` with `prediction`; one that failed is an empty answer.
    """
    splits = {question.category for question in questions}
    sheet = AnswerSheet(questions)
    for split, rows in read_published_json(path, dict).items():
        for name, row in object_items(rows, f"{path}: {split}") if split in splits else ():
            where_clip = f"{path}: {split}: {name}"
            for index, answered in enumerate(list_field(row, "qa", where_clip)):
                where = f"{where_clip}: question {index}"
                text = text_field(answered, "question", where)
                answer = predicted(answered, where, "prediction")
                sheet.add(f"{name}-{index}", answer, where, question=text)
    return sheet.checked()
