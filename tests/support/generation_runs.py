"""Clips, recipes and runs for the tests of the generate stage."""

from pathlib import Path
from typing import Any

from clips import write_clip
from policies import tiny_folder
from tiny_models import Kind

from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Candidate, Sample
from dpo_video.generate.stage import generate
from dpo_video.recipe import Recipe
from dpo_video.run import open_run

QUESTIONS = ("what happens ?", "describe the video")


def write_data(folder: Path) -> Path:
    """Write three clips of 10, 20 and 30 frames and two questions about each, the clips taking
    turns.
    """
    for number in (1, 2, 3):
        write_clip(folder / f"{number}.mp4", 10 * number)
    samples = [
        Sample(id=f"{number}-{place}", video=f"{number}.mp4", prompt=question, caption="a film")
        for place, question in enumerate(QUESTIONS)
        for number in (1, 2, 3)
    ]
    write_jsonl(folder / "samples.jsonl", samples)
    return folder


def make_recipe(
    runs: Path, source: Path, /, *, kind: Kind = "qwen2_5_vl", **sections: Any
) -> Recipe:
    """Return a recipe for a tiny policy on the samples in `source`; sections change or add
    settings.
    """
    generate_settings = {
        "num_candidates": 2,
        "max_new_tokens": 6,
        "batch_size": 5,
        **sections.pop("generate", {}),
    }
    return Recipe.model_validate(
        {
            "name": "run",
            "runs_folder": str(runs),
            "model": {"name": str(tiny_folder(kind)), "device": "cpu", **sections.pop("model", {})},
            "data": {"samples": str(source / "samples.jsonl"), **sections.pop("data", {})},
            "video": {"num_frames": 4, "workers": 1, **sections.pop("video", {})},
            "generate": generate_settings,
            "judge": {"model": "none"},
            "tracking": {"to": "none"},
            **sections,
        }
    )


def run_generate(recipe: Recipe) -> tuple[dict[str, Any], list[Candidate]]:
    """Return the counts of the generate stage and what candidates.jsonl holds after it."""
    with open_run(recipe) as run:
        counts = dict(generate(run).counts)
    return counts, list(read_jsonl(recipe.run_folder / "candidates.jsonl", Candidate))
