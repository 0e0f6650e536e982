"""The card of exported rows: README.md with the hub's metadata on top."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData

from dpo_video import __version__
from dpo_video.cards.facts import CardFacts, read_facts, shown_name
from dpo_video.cards.measures import TASK, judge_rows
from dpo_video.core import strict_json
from dpo_video.core.page import render_document
from dpo_video.core.report import number_text
from dpo_video.core.seal import CARD
from dpo_video.formats.export_folder import CLIPS, METADATA
from dpo_video.formats.export_run import ExportReport
from dpo_video.formats.exporters import EXPORTERS
from dpo_video.recipe import Recipe

SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""The hub's words for how many rows there are."""
MEANINGS = {
    "clip_file_name": "the clip's file in this folder",
    "id": "the question's id",
    "prompt": "the question",
    "chosen": "the answer that the judge prefers",
    "rejected": "the other answer",
    "rejected_response": "the answer that the judge likes less",
    "chosen_score": "the judge's score of it",
    "rejected_score": "the judge's score of it",
    "implicit_margin": "margin under an earlier tuned policy, beta x nats",
    "rejected_finish": "`length` where the answer was cut",
    "video": "the clip",
    "videos": "the clip",
    "messages": "question and answer",
    "conversations": "the question, and the answer where there is one",
    "score": "the judge's score of the answer",
    "answer_a": "one answer, in an order that was drawn",
    "answer_b": "the other answer",
    "judge_prefers": "the one that the judge prefers; not to be shown before a vote",
    "data": "what the task shows",
    "exact_prompt": "the question with its outer spaces",
}


def card_path(out: Path) -> Path:
    """Return where the card of an export goes: into its folder, or beside its file."""
    return out / CARD if out.is_dir() else out.with_name(f"{out.stem}.card.md")


def pairs_card(
    folder: Path, recipe: Recipe, name: str, rows_file: Path, report: ExportReport
) -> str:
    """Return the card of rows that were exported: what they are, what was left out and why, which
    judge made them.

    Args:
        name: the format.
        rows_file: the rows; their first one tells the fields.
    """
    facts = read_facts(folder, recipe)
    return render_document(
        "cards/pairs_card.md.jinja",
        metadata=_metadata(facts, name, report, rows_file).to_yaml(),
        facts=facts,
        recipe=recipe,
        name=name,
        exporter=EXPORTERS[name],
        report=report,
        heard=_heard(facts.stage("generate")),
        version=__version__,
        fields=_fields(rows_file),
        drops=_drops(facts, report),
        lengths=_lengths(facts.stage("pair")),
        judge=judge_rows(facts.agreement),
        judge_name=shown_name(recipe.judge.model or "-"),
        scorer=shown_name(recipe.judge.scorer),
        is_folder=rows_file.name == METADATA,
        rows_file=rows_file.name,
    )


def _heard(generated: Mapping[str, Any]) -> str:
    """Return what of the clips was heard when the answers were written; empty of a model that hears
    nothing, and of answers by a server.
    """
    counts = [generated.get(f"clips_{kind}_sound", 0) for kind in ("with", "without")]
    if not any(counts):
        return ""
    return f", which heard its clips: {counts[0]} have sound, {counts[1]} have none"


def _metadata(
    facts: CardFacts, name: str, report: ExportReport, rows_file: Path
) -> DatasetCardData:
    card = facts.recipe.card
    is_folder = rows_file.name == METADATA
    paths = [METADATA, f"{CLIPS}/*"] if is_folder else [rows_file.name]
    sizes = [size for limit, size in SIZES if report.num_rows < limit]
    return DatasetCardData(
        license=card.license,
        language=card.language or None,
        pretty_name=f"{facts.recipe.name}: {EXPORTERS[name].of}",
        annotations_creators=["machine-generated"],
        source_datasets=card.datasets or None,
        task_categories=[TASK],
        size_categories=sizes[:1] or None,
        tags=["preference", "dpo", "video", "dpo-video", name],
        # said here, or `datasets` guesses splits from the names of the clips
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": paths}]}],
    )


def _fields(path: Path) -> list[tuple[str, str, str]]:
    """Return the fields of the rows: name, what JSON calls them, meaning."""
    row = _first_row(path)
    return [(name, _kind(value), MEANINGS.get(name, "")) for name, value in row.items()]


def _first_row(path: Path) -> Mapping[str, Any]:
    """Return the first row of a JSONL file, or of a JSON list with a row a line."""
    with path.open(encoding="utf-8") as lines:
        text = next(lines).strip()
    if text.startswith("["):
        text = text.removeprefix("[").removesuffix("]").removesuffix(",")
    row: Mapping[str, Any] = strict_json.loads(text)
    return row


def _kind(value: Any) -> str:
    kinds = {str: "text", bool: "true or false", int: "number", float: "number", list: "list"}
    return kinds.get(type(value), "object")


def _drops(facts: CardFacts, report: ExportReport) -> list[tuple[str, str, int]]:
    """Return what was left out on the way to these rows: of what, why, how many."""
    paired, rows = facts.stage("pair"), []
    for unit in ("questions", "answers", "pairs"):
        for reason, count in (paired.get(f"{unit}_dropped") or {}).items():
            rows.append((unit, reason, count))
    rows += [("rows of this format", reason, count) for reason, count in report.dropped.items()]
    return rows


def _lengths(paired: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return how long the answers of the run's pairs are, and how far their scores lie apart."""
    rows = []
    for title, name in (("chosen", "chosen_length"), ("rejected", "rejected_length")):
        if paired.get(name) is not None:
            rows.append((f"mean characters, {title}", number_text(paired[name], digits=1)))
    if paired.get("chosen_longer") is not None:
        rows.append(
            (
                "pairs whose chosen answer is longer",
                number_text(paired["chosen_longer"], share=True),
            )
        )
    margin = paired.get("margin") or {}
    if "median" in margin:
        rows.append(("median difference of the scores", number_text(margin["median"])))
    return rows
