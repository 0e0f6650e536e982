"""LongVideoBench, validation split: up to five options about videos of up to an hour.

Layout: lvb_val.json of longvideobench/LongVideoBench on the Hugging Face hub, or the table there
(`option0` to `option4`). Prompt of lmms_eval/tasks/longvideobench, without subtitles.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dpo_video.benchmarks.published_files import (
    field,
    first_existing,
    list_field,
    read_table,
    text_field,
)
from dpo_video.core.errors import UserError
from dpo_video.core.records import Sample
from dpo_video.data.choices import LETTERS

PROMPT = "\nAnswer with the option's letter from the given choices directly.\n"
NO_OPTION = "N/A"


def read(path: Path, clips: Path | None) -> Iterator[Sample]:
    """Yield the questions of the validation split; the test split has no answers."""
    for where, row in read_table(path):
        options = _options(row, where)
        choice = field(row, "correct_choice", where)
        if not isinstance(choice, int) or not 0 <= choice < len(options):
            raise UserError(
                f"{where}: `correct_choice` is {choice!r}, and there are {len(options)} options. "
                "The test split has no answers: import lvb_val.json"
            )
        video = text_field(row, "video_path", where)
        yield Sample(
            id=text_field(row, "id", where),
            video=first_existing(clips, f"videos/{video}", video),
            prompt="\n".join([text_field(row, "question", where), *options]) + PROMPT,
            options=options,
            answer=LETTERS[choice],
            answer_kind="letter",
            category=str(field(row, "duration_group", where)),
            meta={"question_category": row.get("question_category")},
        )


def _options(row: Mapping[str, Any], where: str) -> list[str]:
    if "candidates" in row:
        candidates = list_field(row, "candidates", where)
    else:
        columns = [field(row, f"option{index}", where) for index in range(5)]
        candidates = [option for option in columns if option != NO_OPTION]
    return [f"{letter}. {text}" for letter, text in zip(LETTERS, candidates, strict=False)]
