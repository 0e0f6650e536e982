"""Export a run's rows together with their card: `dpo-video export`, and what a push of pairs
sends.
"""

from pathlib import Path
from typing import NamedTuple

from dpo_video.cards.pairs_card import card_path, pairs_card
from dpo_video.core.jsonl import write_atomic
from dpo_video.data.samples import load_samples
from dpo_video.formats.export_folder import METADATA, export_folder
from dpo_video.formats.export_run import ExportReport, ExportSource, export_run
from dpo_video.judge.scorer import load_scorer
from dpo_video.recipe import Recipe


class CardedExport(NamedTuple):
    """What an export made."""

    report: ExportReport
    card: Path


def export_with_card(
    folder: Path,
    recipe: Recipe,
    name: str,
    out: Path,
    *,
    threshold: float | None = None,
    with_clips: bool = False,
) -> CardedExport:
    """Write the rows of a run folder in a format, and README.md into their folder or a card beside
    their file.

    Args:
        out: a file; with `with_clips` a new folder.
        threshold: least score of a best answer; None is the scorer's.
    """
    if threshold is None:
        threshold = load_scorer(recipe.judge.scorer).threshold
    source = ExportSource(
        folder=folder,
        threshold=threshold,
        samples=lambda: load_samples(recipe, "samples", clean=False).samples,
    )
    if with_clips:
        root = load_samples(recipe, "samples", clean=False).root
        outside = recipe.data.outside_root
        report = export_folder(name, source, out, root=root, outside=outside)
    else:
        report = export_run(name, source, out)
    rows_file = out / METADATA if with_clips else out
    card = card_path(out)
    write_atomic(card, pairs_card(folder, recipe, name, rows_file, report))
    return CardedExport(report=report, card=card)
