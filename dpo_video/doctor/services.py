"""What a run talks to: judges, trackers, the hub."""

import importlib.util
import os
from collections.abc import Iterator

from dpo_video.core.errors import UserError
from dpo_video.doctor.finding import Finding, not_checked, right, wrong
from dpo_video.judge.probe import probe_judges
from dpo_video.models.hub import load_config
from dpo_video.recipe import Recipe
from dpo_video.tracking.tracker import TRACKERS
from dpo_video.tracking.wandb_run import has_key


def judge_finding(recipe: Recipe | None) -> Finding:
    """Return whether the recipe's judges answer one prompt by each of its scorers."""
    name = "judge"
    if recipe is None:
        return not_checked(name, "no recipe was given", "dpo-video doctor RECIPE")
    if recipe.data.pairs is not None and recipe.data.heldout is None:
        return not_checked(name, "the recipe asks none")
    try:
        warnings = probe_judges(recipe).warnings
    except UserError as error:
        return wrong(name, str(error), "start the server, or correct the `judge` section")
    if warnings:
        return wrong(name, "; ".join(warnings), "see docs/judging.md, or take another scorer")
    return right(name, f"{recipe.judge.model} answers by {recipe.judge.scorer}")


def tracker_finding(recipe: Recipe | None) -> Finding:
    """Return whether what the recipe logs goes anywhere."""
    name = "tracking"
    to = "wandb" if recipe is None else recipe.tracking.to
    if to == "none":
        return not_checked(name, "tracking.to is none")
    kind = TRACKERS[to]
    if importlib.util.find_spec(kind.package) is None:
        return wrong(name, f"tracking.to is {to}, which is not installed", kind.install)
    if to != "wandb":
        return right(name, f"{kind.title} writes on this machine")
    if not has_key():
        text = "W&B has no key: runs are written offline"
        return not_checked(name, text, "set WANDB_API_KEY, or send them later: wandb sync")
    return not_checked(name, "W&B has a key; whether it holds is seen when a run begins")


def hub_findings(recipe: Recipe | None) -> Iterator[Finding]:
    """Yield whether the model can be had, and a push be made."""
    if recipe is not None:
        yield _model(recipe)
    if os.environ.get("HF_TOKEN"):
        yield not_checked("hub token", "HF_TOKEN is set; whether it holds is seen at a push")
    else:
        yield not_checked("hub token", "HF_TOKEN is not set: nothing can be pushed", "set it")


def _model(recipe: Recipe) -> Finding:
    try:
        config, family = load_config(recipe.model)
    except UserError as error:
        return wrong("model", str(error), "correct model.name, or download it first")
    return right("model", f"{recipe.model.name} is a {family.name} ({config.model_type})")
