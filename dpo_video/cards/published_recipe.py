"""The recipe as it is published: without folders and servers of the machine it was run on."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dpo_video.cards.facts import CardFacts
from dpo_video.recipe import Recipe

HOST = "HOST"
"""Stands in the place of a server's name."""


def published_recipe(facts: CardFacts) -> tuple[Recipe, list[str]]:
    """Return the run's recipe with the last part of each absolute path and HOST for each server,
    and the names of the settings that this changed.

    Example: `/home/ada/clips` becomes `clips`, `http://judge.lab:8000/v1` `http://HOST/v1`.
    """
    changed: list[str] = []
    values = _without_places(facts.recipe.model_dump(), "", changed)
    values["model"]["name"] = facts.base_name
    return Recipe.model_validate(values), changed


def _without_places(value: Any, key: str, changed: list[str]) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_places(inner, f"{key}.{name}".lstrip("."), changed)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_without_places(inner, key, changed) for inner in value]
    if not isinstance(value, str):
        return value
    shown = _without_place(value)
    if shown != value and key not in changed:
        changed.append(key)
    return shown


def _without_place(text: str) -> str:
    if text.startswith(("/", "~")):
        return Path(text).name
    if text.startswith(("http://", "https://")):
        address = urlsplit(text)
        return f"{address.scheme}://{HOST}{address.path}"
    return text
