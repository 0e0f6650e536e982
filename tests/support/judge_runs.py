"""Runs that are ready to be judged over HTTP: written here, judged by a process of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Judgment
from dpo_video.judge.judgments import Tally


def write_run(folder: Path, items, url: str | None, **judge: object) -> Path:
    """Write a recipe, its samples and candidates, as if `generate` had just finished; return the
    recipe's path.
    """
    samples = {sample.id: sample for sample, _ in items}
    write_jsonl(folder / "samples.jsonl", samples.values())
    write_jsonl(folder / "runs" / "r" / "candidates.jsonl", [candidate for _, candidate in items])
    recipe = {
        "name": "r",
        "runs_folder": str(folder / "runs"),
        "model": {"name": "policy"},
        "tracking": {"to": "none"},
        "data": {"samples": str(folder / "samples.jsonl")},
        "judge": {
            "backend": "openai",
            "model": "m",
            "base_url": url,
            "concurrency": 8,
            "retries": 1,
            **judge,
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def start_judging(recipe: Path) -> "subprocess.Popen[str]":
    """Start `dpo-video judge RECIPE` as its own process."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "dpo_video", "judge", str(recipe)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def exported(recipe: Path) -> list[Judgment]:
    """Return the judgments that a run exported."""
    return list(read_jsonl(recipe.parent / "runs" / "r" / "judgments.jsonl", Judgment))


def judge_command(
    recipe: Path, *words: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run `dpo-video judge RECIPE WORDS` without an API key."""
    variables = {
        name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"
    } | environment
    return subprocess.run(
        [sys.executable, "-m", "dpo_video", "judge", str(recipe), *words],
        text=True,
        check=False,
        capture_output=True,
        env=variables,
        timeout=240,
    )


def summarise(judgments: Iterable[Judgment]) -> dict[str, Any]:
    """Return the counts over judgments."""
    tally = Tally()
    for _ in tally.watch((judgment, None) for judgment in judgments):
        pass
    return tally.summary()
