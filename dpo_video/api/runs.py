"""Run stages from Python, and read what came of them as records."""

from collections.abc import Sequence
from pathlib import Path

from dpo_video import run as run_folder
from dpo_video.core.jsonl import read_jsonl
from dpo_video.core.names import choose
from dpo_video.core.records import Pair
from dpo_video.evaluate.answer_rows import FILE, EvaluatedAnswer, read_evaluated
from dpo_video.pages.run_files import RunFiles, read_run_files
from dpo_video.pipeline import do_stages
from dpo_video.recipe import Recipe
from dpo_video.stages import STAGES, stages_of


def open_run(folder: str | Path) -> RunFiles:
    """Return what a run folder holds: recipe, candidates, judgments, pairs, answers, metrics.

    Example: `open_run("runs/quickstart").metrics.after.exact_match.value`.
    """
    return read_run_files(Path(folder).expanduser())


def read_pairs(folder: str | Path) -> list[Pair]:
    """Return the pairs of a run folder."""
    return list(read_jsonl(Path(folder).expanduser() / "pairs.jsonl", Pair))


def read_answers(folder: str | Path) -> list[EvaluatedAnswer]:
    """Return the answers of an evaluation, those before and those after, with their scores."""
    return list(read_evaluated(Path(folder).expanduser() / FILE))


def run_stages(
    recipe: Recipe, stages: Sequence[str] = (), *, replace_adapter: bool = False
) -> RunFiles:
    """Do the named stages, or all that the recipe has, each unless it is finished; return what the
    run folder then holds.

    Args:
        replace_adapter: let training replace a finished adapter of other settings or data.
    """
    for name in stages:
        choose(STAGES, name, "stage")
    with run_folder.open_run(recipe) as opened:
        do_stages(opened, stages or stages_of(recipe), replace_adapter=replace_adapter)
    return read_run_files(recipe.run_folder)
