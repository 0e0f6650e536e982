"""`dpo-video compare RUN RUN`: settings that differ, and the paired change of what was answered."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.records import History
from dpo_video.evaluate.answer_rows import FILE, EvaluatedAnswer, read_evaluated
from dpo_video.evaluate.set_verdict import SetVerdict
from dpo_video.evaluate.verdict import set_verdicts
from dpo_video.recipe import Recipe
from dpo_video.run import recipe_of

OF_THE_FOLDER = ("name", "runs_folder", "description")
"""Settings in which any two runs differ."""


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Two runs side by side."""

    settings: Mapping[str, tuple[Any, Any]]
    """Those that differ, by key: of the first run, of the second."""
    verdicts: Sequence[SetVerdict]
    """Of each set: the second run's tuned model against the first's; worst first."""
    only_one: int
    """Questions that one of the runs alone has answered."""


def compare_runs(first: Path, second: Path) -> RunComparison:
    """Return what differs between two runs; UserError where one was not evaluated, or they have no
    question in common.
    """
    recipes = recipe_of(first), recipe_of(second)
    old, new = _tuned_answers(first), _tuned_answers(second)
    common = old.keys() & new.keys()
    if not common:
        raise UserError(
            f"{str(first)!r} and {str(second)!r} have answered no question in common: evaluate "
            "both on the same sets"
        )
    rows = [replace(old[name], model="before") for name in old if name in common]
    rows += [replace(new[name], model="after") for name in old if name in common]
    settings = recipes[1].evaluate
    return RunComparison(
        settings=different_settings(*recipes),
        verdicts=set_verdicts(
            rows,
            tie_margin=recipes[1].pair.min_margin,
            resamples=settings.bootstrap,
            seed=recipes[1].seed,
        ),
        only_one=len(old.keys() ^ new.keys()),
    )


def different_settings(first: Recipe, second: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two recipes differ, by key, names of folders aside."""
    old, new = dict(_flat(first.model_dump())), dict(_flat(second.model_dump()))
    keys = [*old, *(key for key in new if key not in old)]
    return {
        key: (old.get(key), new.get(key))
        for key in keys
        if old.get(key) != new.get(key) and key not in OF_THE_FOLDER
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _tuned_answers(folder: Path) -> dict[tuple[str, str, str, History], EvaluatedAnswer]:
    """Return a run's tuned answers by set, question and what was asked, earlier turns too."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"no {FILE} in {str(folder)!r}; make it first: dpo-video evaluate RECIPE")
    return {
        (answer.set, answer.sample_id, answer.prompt, answer.history): answer
        for answer in read_evaluated(path)
        if answer.model == "after"
    }
