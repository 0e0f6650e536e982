"""The whole job on a small part of the toy world: real processes, same bytes on two runs, kill -9
in every stage.
"""

import json
import signal
from pathlib import Path

import pytest
from processes import dpo_video, forked_commands

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


def run_whole(folder: Path) -> str:
    done = dpo_video("run", "quickstart", f"runs_folder={folder}", *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


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
    run_whole(folder)
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
    out = run_whole(undisturbed.parent)
    assert out.count("finished before, nothing to do") == 5
    assert "nothing to do: all stages" in out
    assert {file: file.stat().st_mtime_ns for file in before} == before


KILLS = ("generate", "judge", "pair", "train", "evaluate")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders: `killed`, whose run was killed in every stage, and `fresh`, with the stages up
    to the pairs, one by one.
    """
    folder = tmp_path_factory.mktemp("resumed")
    killed, fresh = (
        ["quickstart", f"runs_folder={folder / name}", *SMALL] for name in ("killed", "fresh")
    )
    codes, told = forked_commands(
        *((f"quickstart/{stage}", "run", *killed) for stage in KILLS),
        ("", "run", *killed),
        *(("", stage, *fresh) for stage in ("generate", "judge", "pair")),
    )
    assert codes == [-signal.SIGKILL] * len(KILLS) + [0] * 4, told[-3000:]
    return folder


def test_killed_in_every_stage_it_ends_with_the_same_results(
    undisturbed: Path, resumed: Path
) -> None:
    run = resumed / "killed" / "quickstart"
    assert (run / "pairs.jsonl").read_bytes() == (undisturbed / "pairs.jsonl").read_bytes()
    # Kernels round by how buffers lie in memory, so a resumed adapter is equal to about 1e-5, not
    # to the bit.
    assert numbers(run) == pytest.approx(numbers(undisturbed), rel=1e-3, abs=1e-4)


def test_two_fresh_runs_make_the_same_pairs(undisturbed: Path, resumed: Path) -> None:
    pairs = resumed / "fresh" / "quickstart" / "pairs.jsonl"
    assert pairs.read_bytes() == (undisturbed / "pairs.jsonl").read_bytes()
