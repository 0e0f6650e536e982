"""ActivityNet-QA: open questions with an answer of a word or two, rated by a judge.

Layout: dataset/test_q.json and test_a.json of MILVLG/activitynet-qa. Prompt of
lmms_eval/tasks/activitynetqa; judge of Video-ChatGPT (scorers/qa_correctness.yaml).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dpo_video.benchmarks.predictions import Answers, AnswerSheet, predicted
from dpo_video.benchmarks.published_files import beside, first_existing, read_table, text_field
from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample

PROMPT = " Answer the question using a single word or phrase."


def read(path: Path, clips: Path | None) -> Iterator[Sample]:
    """Yield the questions of `test_q.json`, with the answers of the `test_a.json` beside it."""
    answers_path = beside(
        path, path.name.replace("_q.", "_a."), why="the gold answers stand apart from the questions"
    )
    gold = {}
    for where, row in read_table(answers_path):
        question_id = text_field(row, "question_id", where)
        gold[question_id] = text_field(row, "answer", where), row.get("type")
    for where, row in read_table(path):
        question_id = text_field(row, "question_id", where)
        if question_id not in gold:
            raise UserError(f"{where}: {question_id!r} has no answer in {str(answers_path)!r}")
        answer, kind = gold[question_id]
        video = f"v_{text_field(row, 'video_name', where)}.mp4"
        yield Sample(
            id=question_id,
            video=first_existing(clips, video, f"all_test/{video}"),
            prompt=text_field(row, "question", where).capitalize() + "?" + PROMPT,
            answer=answer,
            category=None if kind is None else str(kind),
        )


def read_answers(path: Path, questions: Sequence[Sample]) -> Answers:
    """Return the answers of a file as Video-ChatGPT's script takes it: rows of `id` and `pred`."""
    sheet = AnswerSheet(questions)
    for where, row in read_table(path):
        sheet.add(text_field(row, "id", where), predicted(row, where, "pred"), where)
    return sheet.checked()
