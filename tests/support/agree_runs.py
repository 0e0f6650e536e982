"""Runs with planted judges behind a real server: what tests of `agree` start from."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from judge_server import Answer, completion, judge_server

from dpo_video.agree.agreement import Agreement, agreement_row
from dpo_video.agree.command import agree
from dpo_video.agree.measures import BootstrapSettings
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Candidate, Sample
from dpo_video.recipe.file import load_recipe
from dpo_video.run import open_run

COLOURS = ("red", "green", "blue", "yellow", "white", "pink")
ANIMALS = ("dog", "cat", "horse", "cow")
CLIPS = 12
GRADES = {"perfect": 5, "fair": 4, "middling": 3, "poor": 2, "useless": 1}

Judge = Callable[[str, str], int]
"""A planted judge: from caption and answer to a score."""


def caption_of(k: int) -> str:
    number = ("two", "three")[k % 2]
    return (
        f"The {ANIMALS[k % 4]} wears a {COLOURS[k % 6]} hat in clip {k}. There are {number} chairs "
        f"to the left of "
        "it. A man enters before the music starts."
    )


def asked(prompt: str) -> tuple[str, str]:
    """Return caption and answer of a prompt of hound_quality."""
    caption = prompt.split("Caption of the video:\n")[1].split("\n\n")[0]
    return caption, "\n".join(line[2:] for line in prompt.splitlines() if line.startswith("> "))


def perfect(caption: str, answer: str) -> int:
    """Know the grade of the candidates, and that a sentence of the caption is right and another is
    wrong.
    """
    for word, score in GRADES.items():
        if answer.startswith(word):
            return score
    return 5 if answer in caption else 1


def coin(caption: str, answer: str) -> int:
    return hashlib.sha256(f"{caption} {answer}".encode()).digest()[0] % 5 + 1


def follower(caption: str, answer: str) -> int:
    return 5 if "Score: 5" in answer else perfect(caption, answer)


def served(judge: Judge) -> Callable[[str, int], Answer]:
    return lambda prompt, _: completion(f"Explanation: so.\nScore: {judge(*asked(prompt))}")


def write_run(folder: Path, url: str, **judge: Any) -> Path:
    """Write a recipe with samples and graded candidates, and gold.jsonl beside it; return the
    recipe's path.
    """
    samples = [
        Sample(id=f"s{k}", video=f"v{k}.mp4", prompt="What happens?", caption=caption_of(k))
        for k in range(CLIPS)
    ]
    candidates = [
        Candidate(
            id=f"{sample.id}#{k}",
            sample_id=sample.id,
            text=f"{word} answer to {sample.id}",
            model="m",
            settings="h",
            seed=k,
        )
        for sample in samples
        for k, word in enumerate(GRADES)
    ]
    write_jsonl(folder / "samples.jsonl", samples)
    write_jsonl(folder / "runs" / "r" / "candidates.jsonl", candidates)
    gold = [{"candidate_id": one.id, "score": GRADES[one.text.split()[0]]} for one in candidates]
    (folder / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gold))
    recipe = {
        "name": "r",
        "runs_folder": str(folder / "runs"),
        "model": {"name": "m"},
        "tracking": {"to": "none"},
        "data": {"samples": str(folder / "samples.jsonl")},
        "agree": {"bootstrap": 100, "noise_samples": 4, "repeats": 2},
        "judge": {
            "backend": "openai",
            "model": "m",
            "base_url": url,
            "concurrency": 4,
            "retries": 0,
            **judge,
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def agreement_of(
    folder: Path,
    answer: Callable[[str, int], Answer],
    *overrides: str,
    with_gold: bool = True,
    **judge: Any,
) -> Agreement:
    """Return the report on a judge behind a server."""
    with judge_server(answer) as server:
        recipe = write_run(folder, server.url, **judge)
        with open_run(load_recipe(str(recipe), overrides)) as run:
            return agree(run, gold=str(folder / "gold.jsonl") if with_gold else None)


def measured(
    folder: Path, answer: Callable[[str, int], Answer], *overrides: str, **options: Any
) -> dict[str, Any]:
    """Return the report on a judge behind a server, as agreement.json holds it."""
    return agreement_row(agreement_of(folder, answer, *overrides, **options))


def values(report: dict[str, Any]) -> dict[str, float]:
    return {name: row["value"] for name, row in report["measures"].items()}


BOOTSTRAP = BootstrapSettings(resamples=200, seed=0)


NAN = float("nan")


def value_of(statistic, values, **options):
    values = np.asarray(values, dtype=float)
    return float(statistic(values, np.ones((1, len(values))), **options)[0])
