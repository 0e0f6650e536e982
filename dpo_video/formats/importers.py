"""Importers: the formats of other projects, what their rows become, and the function that reads a
row.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from dpo_video.benchmarks.sets import BENCHMARKS, read_benchmark
from dpo_video.core.records import Candidate, Judgment, Pair, Sample, Vote
from dpo_video.formats.context import ImportContext
from dpo_video.formats.fields import Dropped
from dpo_video.formats.foreign_pairs import (
    llama_factory,
    ms_swift,
    plain_pairs,
    rlaif_v,
    trl,
    vista_dpo,
)
from dpo_video.formats.foreign_samples import (
    conversation_samples,
    judgments,
    predictions,
    table,
    video_chatgpt,
)
from dpo_video.formats.foreign_votes import argilla, label_studio
from dpo_video.formats.rows import ForeignRow

ImportedRecord = Sample | Candidate | Judgment | Pair | Vote
RecordKind = Literal["samples", "candidates", "judgments", "pairs", "votes"]
KINDS: dict[type, RecordKind] = {
    Sample: "samples",
    Candidate: "candidates",
    Judgment: "judgments",
    Pair: "pairs",
    Vote: "votes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """A format: what its rows become, and how."""

    meaning: str
    kind: RecordKind | None
    """None where the columns decide."""
    read: Callable[[ForeignRow, ImportContext], Iterator[ImportedRecord | Dropped]] | None = None
    """Yields the records of a row, and what of it is dropped; raises Dropped or BadRow for the rest
    of it.
    """
    read_benchmark: Callable[[Path, Path | None], Iterator[Sample]] | None = None
    """In its place: the questions of a benchmark, from its files read whole, and the folder of
    clips.
    """


IMPORTERS: dict[str, Importer] = {
    "hound_qa": Importer(
        meaning="LLaVA-Hound / ShareGPTVideo questions (conversations); captions by --captions",
        kind="samples",
        read=conversation_samples,
    ),
    "hound_pairs": Importer(
        meaning="LLaVA-Hound sft_dpo_17k: prompt, chosen, rejected, scores",
        kind="pairs",
        read=plain_pairs,
    ),
    "hound_predictions": Importer(
        meaning="LLaVA-Hound inference rows: answers of a model",
        kind="candidates",
        read=predictions,
    ),
    "hound_judgments": Importer(
        meaning="LLaVA-Hound judge replies, read anew by the strict parser",
        kind="judgments",
        read=judgments,
    ),
    "llava_next": Importer(
        meaning="LLaVA-NeXT DPO rows (image rows are dropped)", kind="pairs", read=plain_pairs
    ),
    "tpo": Importer(
        meaning="TPO (LongVA-TPO-10k, LLaVA-Video-TPO)", kind="pairs", read=plain_pairs
    ),
    "qwen_vl_finetune": Importer(
        meaning="Qwen-VL-Series-Finetune (2U1) DPO list", kind="pairs", read=plain_pairs
    ),
    "llama_factory": Importer(
        meaning="LLaMA-Factory sharegpt ranking", kind="pairs", read=llama_factory
    ),
    "ms_swift": Importer(
        meaning="ms-swift: rejected_response, rejected_messages or rejected_videos",
        kind="pairs",
        read=ms_swift,
    ),
    "trl": Importer(
        meaning="TRL preference rows with a `video` or `videos` column", kind="pairs", read=trl
    ),
    "vista_dpo": Importer(
        meaning="VistaDPO: two rejected answers, box and clip fields kept",
        kind="pairs",
        read=vista_dpo,
    ),
    "rlaif_v": Importer(
        meaning="RLAIF-V pictures as clips of one frame", kind="pairs", read=rlaif_v
    ),
    "video_chatgpt": Importer(
        meaning="Video-ChatGPT questions and answers; captions by --captions",
        kind="samples",
        read=video_chatgpt,
    ),
    "label_studio": Importer(
        meaning="votes on exported tasks, from Label Studio's JSON", kind="votes", read=label_studio
    ),
    "argilla": Importer(
        meaning="votes on exported records, from Argilla's to_json or to_list(flatten=True)",
        kind="votes",
        read=argilla,
    ),
    "table": Importer(
        meaning="CSV, Parquet or any dataset with a column map (--map prompt=question,...)",
        kind=None,
        read=table,
    ),
    **{
        name: Importer(
            meaning=f"benchmark: {row.title} ({', '.join(row.files[:3])}"
            f"{', ...' if len(row.files) > 3 else ''}, or their folder)",
            kind="samples",
            read_benchmark=partial(read_benchmark, name),
        )
        for name, row in BENCHMARKS.items()
    },
}
