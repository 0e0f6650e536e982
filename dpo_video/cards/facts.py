"""What a run folder says about its run, as a card needs it: the small files alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpo_video.core.jsonl import read_object
from dpo_video.evaluate.report import Metrics, read_metrics
from dpo_video.recipe import Recipe
from dpo_video.run import recipe_of
from dpo_video.store import content_hash

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What cards are made from."""

    folder: Path
    recipe: Recipe
    manifest: Mapping[str, Any]
    metrics: Metrics | None
    """None where nothing was evaluated, or another adapter was."""
    why_no_metrics: str = ""
    agreement: Mapping[str, Any] = field(default_factory=dict)
    """agreement.json; empty where the judge was not measured."""

    def stage(self, name: str) -> Mapping[str, Any]:
        """Return what a finished stage counted; empty where it is not finished."""
        return ((self.manifest.get("stages") or {}).get(name) or {}).get("summary") or {}

    @property
    def base_model(self) -> str | None:
        """The hub id of the base model; None of a toy model or a folder without a known id."""
        name = self.recipe.card.base_model or self.recipe.model.name
        is_folder = self.recipe.card.base_model is None and Path(name).expanduser().exists()
        return name if HUB_ID.fullmatch(name) and not is_folder else None

    @property
    def base_name(self) -> str:
        """What the base model is called: its hub id, or the last part of a folder's path."""
        return self.base_model or shown_name(self.recipe.model.name)


def read_facts(folder: Path, recipe: Recipe | None = None) -> CardFacts:
    """Return the facts of a run folder; UserError where it is no run's, or a file is damaged.

    Args:
        recipe: in place of the one in the manifest, with a `card` section of its own.
    """
    resolved = recipe_of(folder) if recipe is None else recipe
    manifest = read_object(folder / "manifest.json")
    metrics, reason = _measured(folder)
    agreement = folder / "agreement.json"
    return CardFacts(
        folder=folder,
        recipe=resolved,
        manifest=manifest,
        metrics=metrics,
        why_no_metrics=reason,
        agreement=read_object(agreement) if agreement.is_file() else {},
    )


def _measured(folder: Path) -> tuple[Metrics | None, str]:
    """Return the numbers about the adapter that is there, or why there are none."""
    path, adapter = folder / "metrics.json", folder / "adapter"
    if not path.is_file():
        return None, (
            "This adapter was not evaluated: whether it is better or worse than its base is not "
            "known."
        )
    metrics = read_metrics(path)
    is_other = adapter.is_dir() and metrics.adapter not in (None, content_hash(adapter))
    if is_other:
        return None, "The run's metrics are of an earlier adapter; this one was not evaluated."
    return metrics, ""


def shown_name(name: str) -> str:
    """Return a name without the folders of this machine: the last part of an absolute path."""
    return Path(name).name if name.startswith(("/", "~")) else name
