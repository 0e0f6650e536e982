"""Rounds of a run: each is an ordinary run in RUN/rounds/N, whose recipe follows from the run's and
from the round before, and which keeps its rows in the run's own store.

So a round is resumed, redone after a changed setting, and taken by every command as any run is. It
starts from the adapter of the round before, whose contents are among what determines its stages:
where a round comes out otherwise, all later ones are done again.
"""

from collections.abc import Callable, Sequence
from os.path import normpath
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.progress import print_line
from dpo_video.core.report import Estimate, estimate_text
from dpo_video.evaluate.report import Metrics, read_metrics
from dpo_video.evaluate.rounds_table import print_rounds
from dpo_video.evaluate.summary import verdict_lines
from dpo_video.recipe import Recipe
from dpo_video.recipe.file import settings_of_round


def run_rounds(recipe: Recipe, do: Callable[[Recipe], object]) -> Recipe:
    """Do the rounds of a recipe in order, each by `do`, until `rounds.stop` says so, print the
    table of all and the verdict of the last, and return its recipe.

    A UserError of a later round is told once the table and the verdict of those before it are.
    """
    assert recipe.rounds is not None
    folders: list[Path] = []
    settings = recipe
    for number in range(1, recipe.rounds.count + 1):
        settings = recipe_of_round(recipe, number)
        print_line(f"round {number} of {recipe.rounds.count}: {settings.run_folder}")
        try:
            do(settings)
        except UserError as error:
            if not folders:
                raise
            _print_end(recipe, folders)
            raise UserError(
                f"round {number} of {recipe.rounds.count}: {error}. What the rounds before it made "
                f"stays as it is; rounds.count={number - 1} ends the run with it"
            ) from error
        folders.append(settings.run_folder)
        reason = why_stop(recipe, folders)
        if reason:
            print_line(reason)
            break
    _print_end(recipe, folders)
    return settings


def _print_end(recipe: Recipe, folders: Sequence[Path]) -> None:
    """Print the table of the rounds in some folders, and the verdict of the last."""
    if recipe.data.heldout:
        print_rounds(folders)
    if recipe.data.heldout or recipe.evaluate.sets:
        print_line("\n".join(verdict_lines(read_metrics(folders[-1] / "metrics.json"))))


def recipe_of_round(recipe: Recipe, number: int) -> Recipe:
    """Return the recipe of a round, counted from 1."""
    earlier = [settings_of_round(recipe, each).generate for each in range(1, number)]
    first_judge = settings_of_round(recipe, 1).judge
    recipe = settings_of_round(recipe, number)
    rounds = recipe.rounds
    assert rounds is not None
    sections: dict[str, dict[str, Any]] = {
        "generate": {
            "first_number": recipe.generate.first_number
            + sum(settings.candidates_per_sample for settings in earlier)
        },
        "data": {"part": f"{number}/{rounds.count}" if rounds.samples == "split" else None},
    }
    if number > 1:
        before = recipe.run_folder / "rounds" / str(number - 1)
        reference = recipe.reference_adapter
        sections["model"] = {"adapter": str(before / "adapter")}
        sections["train"] = {
            "reference": "start" if rounds.reference == "previous" else str(reference or "base")
        }
        sections["pair"] = {"also": str(before / "pairs.jsonl") if rounds.keep_pairs else None}
        if recipe.pair.noise_from is None and recipe.judge == first_judge:  # measured once
            first = recipe.run_folder / "rounds" / "1"
            sections["pair"]["noise_from"] = str(first / "agreement.json")
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}/rounds/{number}",
            "store": normpath(Path("../..") / (recipe.store or "")),
            "rounds": None,
            **{
                name: getattr(recipe, name).model_copy(update=changes)
                for name, changes in sections.items()
            },
        }
    )


def why_stop(recipe: Recipe, folders: Sequence[Path]) -> str:
    """Return why no further round is begun after those in `folders`, and what was seen; empty where
    one is.
    """
    rounds, number = recipe.rounds, len(folders)
    assert rounds is not None
    if rounds.stop == "never" or number == rounds.count:
        return ""
    name, change = gain(read_metrics(folders[-1] / "metrics.json"))
    if change.interval is not None and change.interval[0] > 0:
        return ""
    last_gain = "" if number == 1 else f"; the round before it left {folders[-2] / 'adapter'}"
    return (
        f"rounds: round {number} changed the {name} by "
        f"{estimate_text(change, share=name == 'exact match', signed=True)}, which may be no gain: "
        f"stopping after {number} of {rounds.count} rounds{last_gain}"
    )


def gain(metrics: Metrics) -> tuple[str, Estimate]:
    """Return what a round changed on the held-out samples: the judged score, or the exact match
    where nothing was judged.
    """
    if metrics.change.judged_score.value is None:
        return "exact match", metrics.change.exact_match
    return "judged score", metrics.change.judged_score
