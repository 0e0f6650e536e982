"""VideoHallucer: pairs of a basic question and a hallucination, each about its own clip.

Layout and prompt: videohallucer_datasets/ and baselines/ of patrick-tssn/VideoHallucer at ae4c2f2.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dpo_video.benchmarks.predictions import Answers, AnswerSheet, predicted
from dpo_video.benchmarks.published_files import field, gold_yes_no, read_table, text_field
from dpo_video.core.records import Sample

FILES = (
    "object_relation.json",
    "temporal.json",
    "semantic_detail.json",
    "interaction.json",
    "external_factual.json",
    "external_nonfactual.json",
    "fact_detect.json",
)
HALVES = ("basic", "hallucination")
PROMPT = "\nAnswer the question using 'yes' or 'no'."


def read(path: Path, clips: Path | None) -> Iterator[Sample]:
    """Yield the questions of one of the seven files, such as `object_relation.json`."""
    for index, (where, row) in enumerate(read_table(path)):
        for half in HALVES:
            where_half = f"{where}: {half}"
            question = field(row, half, where)
            yield Sample(
                id=f"{path.stem}-{index}-{half}",
                video=f"{path.stem}/videos/{text_field(question, 'video', where_half)}",
                prompt=text_field(question, "question", where_half) + PROMPT,
                answer=gold_yes_no(text_field(question, "answer", where_half), where_half),
                answer_kind="yes_no",
                group=f"{path.stem}-{index}",
                category=str(row.get("type", path.stem)),
                meta={"set": path.stem, "half": half},
            )


def read_answers(path: Path, questions: Sequence[Sample]) -> Answers:
    """Return the answers of a result file: the pairs of one set in its order, each half with
    `predict`.
    """
    sheet = AnswerSheet(questions)
    set_names = list(dict.fromkeys(str((question.meta or {})["set"]) for question in questions))
    for index, (row_place, row) in enumerate(read_table(path)):
        for half in HALVES:
            where = f"{row_place}: {half}"
            answered = field(row, half, row_place)
            text = text_field(answered, "question", where)
            question_id = sheet.id_by_text(text, [f"{name}-{index}-{half}" for name in set_names])
            sheet.add(question_id, predicted(answered, where, "predict"), where, question=text)
    return sheet.checked()
