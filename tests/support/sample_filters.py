"""Samples, and what the filters of samples make of them."""

import random
from pathlib import Path
from typing import Any
from zlib import crc32

from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Sample
from dpo_video.data.samples import load_samples
from dpo_video.recipe import Recipe
from dpo_video.store import RunStore

STORY = """dog runs over green grass while two children throw a red ball and their mother reads
beside the old wooden house near a river with boats"""


def caption_words(seed: int, count: int = 30) -> str:
    return " ".join(random.Random(seed).choices(STORY.split(), k=count))


def make_sample(
    name: str,
    *,
    video: str = "a/v.mp4",
    prompt: str = "What happens?",
    caption: str | None = None,
    **given: Any,
) -> Sample:
    return Sample(
        id=name,
        video=video,
        prompt=prompt,
        caption=caption or caption_words(crc32(name.encode())),
        **given,
    )


def samples_recipe(folder: Path, **data: object) -> Recipe:
    """Return a recipe of the samples in s.jsonl, with other settings of `data` where given."""
    return Recipe.model_validate(
        {
            "name": "r",
            "model": {"name": "m"},
            "judge": {"model": "j"},
            "data": {"samples": str(folder / "s.jsonl"), **data},
        }
    )


def load_filtered(
    folder: Path,
    samples: list[Sample],
    *,
    heldout: list[Sample] | None = None,
    limit: int | None = None,
    store: RunStore | None = None,
    **clean: Any,
) -> tuple[list[str], dict[str, str]]:
    """Return the ids that stay, and the reasons by id of those that do not."""
    write_jsonl(folder / "samples.jsonl", samples)
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "runs_folder": str(folder / "runs"),
            "model": {"name": "m"},
            "judge": {"model": "j"},
            "data": {
                "samples": str(folder / "samples.jsonl"),
                "limit": limit,
                "outside_root": True,
            },
            "clean": clean,
            "video": {"workers": 1},
        }
    )
    loaded = load_samples(recipe, "samples", heldout=heldout or (), store=store)
    return [row.id for row in loaded.samples], {row.id: row.reason for row in loaded.removed}
