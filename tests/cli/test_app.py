"""The command line as a user meets it: real processes, one line an error, exit code 2."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from processes import dpo_video

from dpo_video.core.names import shipped_folder
from dpo_video.store import RunStore

RECIPE = """name: mine
runs_folder: {folder}/runs
model: {{name: toy:qwen2_5_vl, device: cpu}}
data:
  samples: {folder}/train.jsonl
judge:
  backend: openai
  model: some-judge
  base_url: {url}
  scorer: caption_score
  retries: 0
tracking: {{to: none}}
"""
SAMPLE = {"id": "a", "video": "a.mp4", "prompt": "What?", "caption": "A red circle."}
CANDIDATE = {
    "id": "a#0",
    "sample_id": "a",
    "text": "A circle.",
    "model": "m",
    "settings": "s",
    "seed": 0,
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE.format(folder=tmp_path, url="http://127.0.0.1:9/v1"))
    (tmp_path / "train.jsonl").write_text(json.dumps(SAMPLE) + "\n")
    return path


def check_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr, done.stderr


def test_help_lists_the_five_stages() -> None:
    done = dpo_video("--help")
    assert done.returncode == 0
    assert [
        word for word in ("generate", "judge", "pair", "train", "evaluate") if word in done.stdout
    ] == ["generate", "judge", "pair", "train", "evaluate"]


def test_wrong_settings_and_names_are_one_line() -> None:
    check_one_line(dpo_video("run", "quikstart"), "Did you mean 'quickstart'?")
    check_one_line(
        dpo_video("show", "quickstart", "train.learning_rat=1"),
        "override 'train.learning_rat=1': unknown key `train.learning_rat`. Did you mean "
        "'learning_rate'?",
    )
    check_one_line(
        dpo_video("run", "quickstart", "data.samples=toy:tran"), "Did you mean 'toy:train'?"
    )


def test_show_prints_what_a_recipe_resolves_to() -> None:
    done = dpo_video("show", "quickstart", "train.beta=0.2")
    assert done.returncode == 0 and "beta: 0.2" in done.stdout and "min_margin" in done.stdout


def test_missing_caption_names_file_and_line(recipe: Path) -> None:
    (recipe.parent / "train.jsonl").write_text(
        json.dumps({key: SAMPLE[key] for key in ("id", "video", "prompt")})
    )
    check_one_line(dpo_video("generate", recipe), "train.jsonl:1: missing `caption`")


def test_a_command_that_fails_first_leaves_no_run_folder_and_one_with_nothing_to_do_no_wandb_run(
    recipe: Path,
) -> None:
    runs = recipe.parent / "runs"
    tracked = "tracking.to=wandb"
    check_one_line(dpo_video("judge", recipe, tracked), "no candidates.jsonl")
    check_one_line(dpo_video("generate", recipe, tracked, "model.name=./none"), "no model folder")
    check_one_line(dpo_video("run", recipe, tracked, "data.samples=none.jsonl"), "none.jsonl")
    assert not runs.exists() or list(runs.iterdir()) == []


def test_what_training_would_refuse_is_told_before_anything_is_asked_or_made(recipe: Path) -> None:
    (recipe.parent / "a.mp4").write_bytes(b"")  # read by nobody
    for setting, told in (
        ("train.trl.nope=1", "unknown field `train.trl.nope`"),
        ("train.loss=[exo_pair]", "needs `train.trl.label_smoothing` above 0"),
    ):
        check_one_line(dpo_video("run", recipe, setting), told)
    assert not list(recipe.parent.glob("runs/*/candidates.jsonl"))


def test_missing_video_root_is_named(recipe: Path) -> None:
    done = dpo_video("generate", recipe, f"data.video_root={recipe.parent}/none")
    check_one_line(done, "no folder at data.video_root")


def test_repeated_ids_and_shared_clips_are_refused(recipe: Path) -> None:
    samples = recipe.parent / "train.jsonl"
    check_one_line(dpo_video("generate", recipe, f"data.heldout={samples}"), "is also trained on")
    samples.write_text((json.dumps(SAMPLE) + "\n") * 2)
    check_one_line(dpo_video("generate", recipe), "ids must be unique")


def test_a_stage_without_its_input_names_the_command(recipe: Path) -> None:
    check_one_line(
        dpo_video("pair", recipe), "no candidates.jsonl", "make it first: dpo-video generate RECIPE"
    )


def test_an_unreachable_judge_is_one_line(recipe: Path) -> None:
    folder = recipe.parent / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "candidates.jsonl").write_text(json.dumps(CANDIDATE) + "\n")
    check_one_line(dpo_video("judge", recipe, "judge.score_from=verdict"), "127.0.0.1:9")


def test_a_missing_judge_key_is_one_line(recipe: Path) -> None:
    folder = recipe.parent / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "candidates.jsonl").write_text(json.dumps(CANDIDATE) + "\n")
    check_one_line(
        dpo_video("judge", recipe, "judge.base_url=https://judge.invalid/v1", OPENAI_API_KEY=""),
        "OPENAI_API_KEY",
    )


def test_a_run_folder_in_use_names_the_process(recipe: Path) -> None:
    with RunStore(recipe.parent / "runs" / "mine"):
        check_one_line(dpo_video("pair", recipe), f"in use by process {os.getpid()}")


def test_unreadable_clips_stop_the_run_with_their_reason(recipe: Path) -> None:
    (recipe.parent / "a.mp4").write_bytes(b"")
    check_one_line(dpo_video("generate", recipe), "1 of 1 clips cannot be read", "a.mp4", "[empty]")
    assert not (recipe.parent / "runs" / "mine" / "lock").exists()


def test_no_control_character_of_a_recipe_reaches_the_terminal(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text('name: r\n"\\e]0;mine\\a\\e[2Jsede": 1\n', encoding="utf-8")
    shown = dpo_video("show", recipe)
    assert shown.returncode == 2 and r"unknown key `\x1b]0;mine\x07\x1b[2Jsede`" in shown.stderr
    recipe.write_text((shipped_folder("recipes") / "quickstart.yaml").read_text())
    shown = dpo_video("show", recipe, 'description="\\e[31mred"')
    assert shown.returncode == 0 and "\x1b" not in shown.stdout + shown.stderr
