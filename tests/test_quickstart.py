"""The whole job on a small part of the toy world: from the wheel, real processes, same bytes on two
runs, kill -9 in every stage.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from processes import dpo_video, forked_commands
from wheel_install import install_wheel, run_installed

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "tutorials" / "first_run.py"
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
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, as it is built from the checkout."""
    return install_wheel(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def undisturbed(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the wheel's program in an empty folder."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_installed(installed, "dpo-video", "run", "quickstart", *SMALL, cwd=folder)
    assert [path.name for path in folder.iterdir()] == ["runs"]
    return folder / "runs" / "quickstart"


def test_what_ran_is_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "import dpo_video, torch, dpo_video.models.load as part\n"
        "from importlib.metadata import distribution as of\n"
        "print(dpo_video.__file__, part.__file__, of('dpo-video').locate_file(''), torch.__file__)"
    )
    *ours, torch = map(
        Path, run_installed(installed, "python", "-c", code, cwd=tmp_path).stdout.split()
    )
    assert all(path.is_relative_to(installed) for path in ours)
    assert not torch.is_relative_to(installed)


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


def test_the_tutorial_reads_the_run(undisturbed: Path) -> None:
    words = [str(TUTORIAL), f"runs_folder={undisturbed.parent}", *SMALL]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    stored_metrics = json.loads((undisturbed / "metrics.json").read_text())
    after = 100 * stored_metrics["after"]["exact_match"]
    assert f"exact match after: {after:.1f} % [" in done.stdout
    first = json.loads((undisturbed / "answers.jsonl").read_text().splitlines()[0])
    told = done.stdout.splitlines()[-1]
    assert told.startswith(first["prompt"]) and len(told) > len(first["prompt"]) + 1


def test_the_snippet_of_the_card_answers_as_the_evaluation_did(
    undisturbed: Path, tmp_path: Path
) -> None:
    """The code of README.md as it stands, but for the clip and the question."""
    card = (undisturbed / "adapter" / "README.md").read_text()
    assert "model-index" in card
    answers = [
        json.loads(line) for line in (undisturbed / "answers.jsonl").read_text().splitlines()
    ]
    asked = [row for row in answers if row["model"] == "after"][:2]
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert manifest["recipe"]["data"]["heldout"] == "toy:heldout"
    code = card.split("```python\n")[1].split("```")[0]
    load, ask = code.split("print(")
    code_lines = [load] + [
        "print("
        + ask.replace('"clip.mp4"', repr(str(clip_of(undisturbed, row)))).replace(
            '"What happens in this clip?"', repr(row["prompt"])
        )
        for row in asked
    ]
    script = tmp_path / "snippet.py"
    body = "".join(f"    {line}\n" for text in code_lines for line in text.splitlines())
    script.write_text(f"if __name__ == '__main__':\n{body}")
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=undisturbed.parents[1],  # where `dpo-video run` was called
    )
    assert done.stdout.splitlines() == [row["text"] for row in asked], done.stderr[-3000:]


def clip_of(run: Path, row: dict[str, str]) -> Path:
    """Return the file of an evaluated answer's clip, in the run's toy world."""
    (path,) = (run / "toy").rglob(Path(row["clip"]).name)
    return path


def test_a_trial_of_the_shipped_sweep_makes_no_answer_judgment_or_reference_again(
    undisturbed: Path, tmp_path: Path
) -> None:
    """Its command, called as W&B's agent calls it, with this run in the place of `mine`."""
    sweep = yaml.safe_load((ROOT / "recipes" / "sweeps" / "wandb_beta_lr.yaml").read_text())
    words = []
    for word in sweep["command"]:
        arguments = ["train.beta=0.3", "train.learning_rate=1e-4", *SMALL]
        arguments.append(f"runs_folder={undisturbed.parent}")
        named = word.replace("mine.yaml", "quickstart").replace("name=mine", "name=quickstart")
        words += {"${env}": ["/usr/bin/env"], "${args_no_hyphens}": arguments}.get(word, [named])
    command = tmp_path / "dpo-video"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m dpo_video "$@"\n')
    command.chmod(0o755)
    trial = {"WANDB_RUN_ID": "trial1", "WANDB_SWEEP_ID": "sweep1", "WANDB_MODE": "offline"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **trial, "PATH": path},
    )
    folder = undisturbed / "sweep" / "trial1"
    assert done.returncode == 0, done.stderr[-3000:]
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    generated, judged = stages["generate"]["summary"], stages["judge"]["summary"]
    assert generated["reused"] == generated["candidates"] > 0
    assert judged["asked"] == 0 and judged["scored"] > 0
    assert "reference:" not in done.stderr, "log-probs of the reference were made again"
    assert (folder / "pairs.jsonl").read_bytes() == (undisturbed / "pairs.jsonl").read_bytes()
    assert stages["evaluate"]["summary"]["change"]
    assert (folder / "wandb_id").read_text() == "trial1"
