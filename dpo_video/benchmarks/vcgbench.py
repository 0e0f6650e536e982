"""VCGBench (Video-ChatGPT): written answers about ActivityNet videos, rated 0 to 5 by a judge in
five ways.

Layout: generic_qa.json, temporal_qa.json and consistency_qa.json of mbzuai-oryx/Video-ChatGPT. The
questions are asked as they stand; the judge's five prompts are scorers/vcg_*.yaml.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dpo_video.benchmarks.predictions import Answers, AnswerSheet, predicted
from dpo_video.benchmarks.published_files import first_existing, read_table, text_field
from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample

FILES = ("generic_qa.json", "temporal_qa.json", "consistency_qa.json")
CONSISTENCY = "consistency"
SCORERS = {
    "generic": ("vcg_correctness", "vcg_detail", "vcg_context"),
    "temporal": ("vcg_temporal",),
    CONSISTENCY: ("vcg_consistency",),
}
"""By file, what the judge looks at."""


def read(path: Path, clips: Path | None) -> Iterator[Sample]:
    """Yield the questions of one of the three files; the two of a row of `consistency_qa.json`
    count together.
    """
    name = path.stem.removesuffix("_qa")
    if name not in SCORERS:
        raise UserError(f"{path}: no file of VCGBench; it has {', '.join(FILES)}")
    fields = ("Q1", "Q2") if name == CONSISTENCY else ("Q",)
    for index, (where, row) in enumerate(read_table(path)):
        video = text_field(row, "video_name", where)
        for field_name in fields:
            yield Sample(
                id=f"{name}-{index}" + (f"-{field_name}" if name == CONSISTENCY else ""),
                video=first_existing(clips, f"{video}.mp4", f"Test_Videos/{video}.mp4"),
                prompt=text_field(row, field_name, where),
                answer=text_field(row, "A", where),
                group=f"{name}-{index}" if name == CONSISTENCY else None,
                category=name,
            )


def read_answers(path: Path, questions: Sequence[Sample]) -> Answers:
    """Return the answers of a file as the authors' scripts take it: the rows of one of the three
    files with `pred`, of `consistency_qa.json` with `pred1` and `pred2`.
    """
    sheet = AnswerSheet(questions)
    for index, (where, row) in enumerate(read_table(path)):
        if "Q1" in row:
            for number in ("1", "2"):  # the authors' own rows hold Q1 twice: Q2 is not compared
                text = text_field(row, "Q1", where) if number == "1" else ""
                question_id = f"{CONSISTENCY}-{index}-Q{number}"
                answer = predicted(row, where, f"pred{number}")
                sheet.add(question_id, answer, where, question=text)
            continue
        text = text_field(row, "Q", where)
        question_id = sheet.id_by_text(text, [f"{name}-{index}" for name in SCORERS])
        sheet.add(question_id, predicted(row, where, "pred"), where, question=text)
    return sheet.checked()
