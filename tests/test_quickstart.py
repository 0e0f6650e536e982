"""The whole job on a small part of the toy world: real processes, same bytes on two runs, kill -9
in every stage.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = [
    "data.limit=30",
    "data.heldout_limit=30",
    "generate.num_candidates=4",
    "generate.batch_size=16",
    "video.cache=none",  # so that what is resumed decodes and encodes again
    "judge.batch_size=8",
    "train.epochs=2",
    "train.batch_size=2",
    "train.save_steps=2",
    "evaluate.pair_samples=10",
    "evaluate.bootstrap=200",
    "evaluate.sets=[]",  # their 720 questions would be asked in each of these runs
]


def start(folder: Path, command: str = "run") -> subprocess.Popen[str]:
    words = [
        sys.executable,
        "-m",
        "dpo_video",
        command,
        "quickstart",
        f"runs_folder={folder}",
        *SMALL,
    ]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    return out


def stored(run: Path, query: str) -> int:
    """Return a count from the working store, 0 while there is none."""
    if not (run / "store.sqlite").exists():
        return 0
    try:
        with sqlite3.connect(f"file:{run / 'store.sqlite'}?mode=ro", uri=True) as database:
            return int(database.execute(query).fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # the tables are being made


def rows(kind: str, least: int) -> Callable[[Path], bool]:
    return lambda run: stored(run, f"select count(*) from rows where kind = '{kind}'") >= least


def stage_done(name: str) -> Callable[[Path], bool]:
    return lambda run: stored(run, f"select count(*) from stages where name = '{name}'") == 1


def checkpointed(run: Path) -> bool:
    return any((run / "checkpoints").rglob("checkpoint-*/trainer_state.json"))


def numbers(run: Path) -> dict[str, float]:
    """Return every number of metrics.json but the seconds, by its path."""

    def walk(value: object, path: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{path}/{name}")
        elif isinstance(value, list):
            for place, inner in enumerate(value):
                walk(inner, f"{path}/{place}")
        elif isinstance(value, int | float) and not path.startswith("/seconds"):
            found[path] = value

    found: dict[str, float] = {}
    walk(json.loads((run / "metrics.json").read_text()), "")
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(folder))
    return folder / "quickstart"


def test_the_run_leaves_every_file_and_the_numbers(undisturbed: Path) -> None:
    names = {file.name for file in undisturbed.iterdir()}
    assert {
        "candidates.jsonl",
        "judgments.jsonl",
        "pairs.jsonl",
        "adapter",
        "metrics.json",
        "manifest.json",
    } <= names
    assert "lock" not in names
    metrics = json.loads((undisturbed / "metrics.json").read_text())
    for side in ("before", "after"):
        low, high = metrics[side]["exact_match_ci"]
        assert 0 <= low <= metrics[side]["exact_match"] <= high <= 1
    assert 0 <= metrics["heldout_pairs"]["reward_accuracy"] <= 1
    assert set(metrics["seconds"]) >= {"generate", "judge", "pair", "train", "evaluate"}
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert manifest["versions"]["trl"].startswith("1.16")


def test_a_second_run_does_nothing_and_says_so(undisturbed: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in undisturbed.rglob("*.json*")}
    out = finish(start(undisturbed.parent))
    assert out.count("finished before, nothing to do") == 5
    assert "nothing to do: all stages" in out
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_killed_in_every_stage_it_ends_with_the_same_results(
    undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "quickstart"
    moments = [
        rows("candidate", 16),
        stage_done("generate"),
        stage_done("judge"),
        checkpointed,
        stage_done("train"),
    ]
    for reached in moments:
        process = start(tmp_path)
        while not reached(run) and process.poll() is None:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    finish(start(tmp_path))
    assert (run / "pairs.jsonl").read_bytes() == (undisturbed / "pairs.jsonl").read_bytes()
    # Kernels round by how buffers lie in memory, so a resumed adapter is equal to about 1e-5, not
    # to the bit.
    assert numbers(run) == pytest.approx(numbers(undisturbed), rel=1e-3, abs=1e-4)


def test_two_fresh_runs_make_the_same_pairs(undisturbed: Path, tmp_path: Path) -> None:
    for stage in ("generate", "judge", "pair"):
        finish(start(tmp_path, stage))
    assert (tmp_path / "quickstart" / "pairs.jsonl").read_bytes() == (
        undisturbed / "pairs.jsonl"
    ).read_bytes()
