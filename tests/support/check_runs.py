"""Recipes to be planned for."""

from pathlib import Path
from typing import Any

from dpo_video.recipe import Recipe


def recipe_for(world: Path, **changes: dict[str, Any]) -> Recipe:
    settings: dict[str, Any] = {
        "name": "mine",
        "model": {"name": str(world / "policy"), "device": "cpu"},
        "data": {"samples": str(world / "train.jsonl"), "heldout": str(world / "heldout.jsonl")},
        "video": {"policy": "fps", "fps": 10, "min_frames": 2, "workers": 1},
        "generate": {"max_new_tokens": 16},
        "judge": {"model": "m", "base_url": "http://127.0.0.1:9/v1"},
        "tracking": {"to": "none"},
    }
    for section, values in changes.items():
        settings[section] = {**settings.get(section, {}), **values}
    return Recipe.model_validate(settings)
