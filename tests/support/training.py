"""Training a tiny policy in this process or in others: what tests of the train stage start from."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny_world import open_run

from dpo_video.core.records import Pair, Sample
from dpo_video.evaluate.metrics import PairMargin
from dpo_video.models.load import load_policy
from dpo_video.recipe import Recipe
from dpo_video.run import Run
from dpo_video.store import RunStore
from dpo_video.train.pair_batches import pair_ids
from dpo_video.train.rewards import QuestionTokens, implicit_rewards
from dpo_video.train.stage import train
from dpo_video.video import clip_request, file_name

SUPPORT = Path(__file__).parent
TIMED = ("pairs_per_second", "tokens_per_second", "data_wait")
"""Metrics that depend on the clock: two equal runs differ in them and in no other."""


def train_here(
    recipe: Recipe, world: Path, pairs: list[Pair], *, num_samples: int = 100
) -> tuple[dict[str, Any], Run]:
    """Train in this process; `num_samples` clips stand behind data.max_bad_fraction."""
    with RunStore(recipe.run_folder) as store:
        run = open_run(recipe, store, world, pairs)
        run.samples.extend(
            Sample(id=f"x{number}", video=f"x{number}.mp4", prompt="p", caption="c")
            for number in range(num_samples)
        )
        return dict(train(run).counts), run


def train_apart(
    recipes: Sequence[Recipe], world: Path, *arguments: str, launcher: tuple[str, ...] = ()
) -> tuple[int, str]:
    """Train one recipe after the other in processes of their own; return the exit code and what
    they said.
    """
    file = world / f"{recipes[0].name}.json"
    file.write_text(json.dumps([recipe.model_dump(mode="json") for recipe in recipes]))
    done = subprocess.run(
        [
            sys.executable,
            *launcher,
            str(SUPPORT / "train_process.py"),
            str(file),
            str(world),
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # FSDP would take GPUs
    return done.returncode, done.stdout + done.stderr


def read_log(recipe: Recipe) -> list[dict[str, Any]]:
    """Return the rows of train_log.jsonl without what depends on the clock."""
    rows = [
        json.loads(line)
        for line in (recipe.run_folder / "train_log.jsonl").read_text().splitlines()
    ]
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def reward_margins(run: Run, pairs: list[Pair]) -> list[PairMargin]:
    """Return each held-out pair's implicit reward margin under the run's adapter; a pair whose clip
    cannot be read has none.
    """
    adapter = run.folder / "adapter"
    policy = load_policy(run.recipe.model, adapter=adapter)
    questions = [
        QuestionTokens(
            clip=clip_request(pair, run.heldout_root),
            prompt=pair.prompt,
            answers=pair_ids(policy, pair),
        )
        for pair in pairs
    ]
    rewards = implicit_rewards(run, policy, questions, adapter=adapter, title="held-out pairs")
    return [
        PairMargin(clip=file_name(pair.video), margin=rewards[index][0] - rewards[index][1])
        for index, pair in enumerate(pairs)
        if index in rewards
    ]
