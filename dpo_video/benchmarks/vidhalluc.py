"""VidHalluc: what happens in one of two clips that look alike, by yes or no and by options.

Layout: ach_binaryqa.json and ach_mcq.json of chaoyuli/VidHalluc on the Hugging Face hub. Prompts:
eval/inference of Vid-Halluc/VidHalluc. Its other tasks need a sentence model (scene transitions) or
a parser of two actions in order (temporal sequence), and are not here.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dpo_video.benchmarks.predictions import Answers, AnswerSheet, predicted
from dpo_video.benchmarks.published_files import (
    field,
    first_existing,
    gold_yes_no,
    list_field,
    object_items,
    read_published_json,
    text_field,
)
from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample
from dpo_video.data.choices import SEVERAL

YES_OR_NO = " Only answer with a single word 'Yes' or 'No'."
SELECT = (
    " Please select the correct answer (one or more options), only return your answer(s). "
    "(e.g., ABCD)\nChoices:\n"
)


def read_binary(path: Path, clips: Path | None) -> Iterator[Sample]:
    """Yield each question once for each of its clips; all clips of a question count together."""
    for pair, questions in read_published_json(path, dict).items():
        rows = list_field({pair: questions}, pair, str(path))
        for index, row in enumerate(rows):
            where = f"{path}: {pair}: question {index}"
            question = text_field(row, "q", where)
            for clip, answer in object_items(field(row, "a", where), where):
                yield Sample(
                    id=f"{pair}-{index}-{clip}",
                    video=_clip(clip, clips),
                    prompt=question + YES_OR_NO,
                    answer=gold_yes_no(str(answer), f"{where}: {clip}"),
                    answer_kind="yes_no",
                    group=f"{pair}-{index}",
                )


def read_binary_answers(path: Path, questions: Sequence[Sample]) -> Answers:
    """Return the answers of a predictions file: the questions with a model's words in place of the
    gold ones.
    """
    sheet = AnswerSheet(questions)
    for pair, rows in read_published_json(path, dict).items():
        for index, row in enumerate(list_field({pair: rows}, pair, str(path))):
            where = f"{path}: {pair}: question {index}"
            text = text_field(row, "q", where)
            for clip, answer in object_items(field(row, "a", where), where):
                sheet.add(f"{pair}-{index}-{clip}", answer, f"{where}: {clip}", question=text)
    return sheet.checked()


def read_multi_choice(path: Path, clips: Path | None) -> Iterator[Sample]:
    """Yield the questions of which one or more options are right."""
    for pair, rows in read_published_json(path, dict).items():
        for clip, row in object_items(rows, f"{path}: {pair}"):
            where = f"{path}: {pair}: {clip}"
            choices = dict(object_items(field(row, "Choices", where), where))
            options = [f"{letter}. {text}" for letter, text in choices.items()]
            gold = text_field(row, "Correct Answer", where).upper()
            letters = "".join(sorted(set(re.findall("[A-D]", gold))))
            if not letters or not set(letters) <= set(choices):
                raise UserError(
                    f"{where}: the gold answer {gold!r} is none of the options {options}"
                )
            yield Sample(
                id=f"{pair}-{clip}",
                video=_clip(clip, clips),
                prompt=text_field(row, "Question", where)
                + SELECT
                + "".join(f"{option}\n" for option in options),
                options=options,
                answer=letters,
                answer_kind="letter",
                meta={SEVERAL: True, "pair": pair},
            )


def read_multi_choice_answers(path: Path, questions: Sequence[Sample]) -> Answers:
    """Return the answers of a predictions file: by pair and clip, each question with `Model
    Answer`; also under `pred`, as the authors' script takes it.
    """
    sheet = AnswerSheet(questions)
    contents = read_published_json(path, dict)
    for pair, rows in contents.get("pred", contents).items():
        for clip, row in object_items(rows, f"{path}: {pair}"):
            where = f"{path}: {pair}: {clip}"
            text = text_field(row, "Question", where)
            answer = predicted(row, where, "Model Answer")
            sheet.add(f"{pair}-{clip}", answer, where, question=text)
    return sheet.checked()


def _clip(name: str, clips: Path | None) -> str:
    return first_existing(clips, f"data/ACH/{name}.mp4", f"ACH/{name}.mp4", f"{name}.mp4")
