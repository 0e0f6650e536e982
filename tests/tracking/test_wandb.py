"""Tracking: a real W&B run written offline, resumed under one id, without secrets."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dpo_video.recipe import Recipe
from dpo_video.tracking import start_tracking

SECRET = "hunter2-secret"


def recipe(folder: Path, to: str) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tracked",
            "runs_folder": str(folder),
            "model": {"name": "m"},
            "data": {"samples": "s.jsonl"},
            "judge": {"model": "j", "base_url": "http://127.0.0.1:9/v1"},
            "tracking": {"to": to},
        }
    )


def test_tracking_none_writes_nothing(tmp_path: Path) -> None:
    with start_tracking(recipe(tmp_path, "none")) as tracker:
        tracker.log_stage("pair", {"pairs": 3}, 1.0)
        tracker.log_artifact(tmp_path, kind="pairs")
        assert not tracker.is_on
    assert list(tmp_path.iterdir()) == []


def test_an_offline_run_keeps_its_id_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    settings = recipe(tmp_path, "wandb")
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    ids = []
    for _ in range(2):
        with start_tracking(settings) as tracker:
            assert tracker.is_on
            ids.append(tracker.tracked_run.opened.id)
            assert tracker.tracked_run.opened.config["judge"]["base_url"] == "http://127.0.0.1:9/v1"
            tracker.log_stage("pair", {"pairs": 3, "dropped": {"tie": 2}}, 1.5)
            assert tracker.tracked_run.opened.summary["pair/dropped/tie"] == 2
            tracker.log_table("pairs", [{"prompt": "p", "frames": np.zeros((8, 16, 3), np.uint8)}])
            tracker.log_artifact(tmp_path / "pairs.jsonl", kind="pairs")
    assert ids[0] == ids[1] == (settings.run_folder / "wandb_id").read_text()
    written = [file for file in settings.run_folder.rglob("*") if file.is_file()]
    assert any("offline-run" in str(file) for file in written)
    assert [str(file) for file in written if SECRET.encode() in file.read_bytes()] == []


def offline_runs(folder: Path) -> list[Path]:
    return list(folder.rglob("offline-run-*.wandb")) + list(folder.rglob("offline-run-*"))


def test_disabled_is_off_and_nothing_logged_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_tracking(recipe(tmp_path, "wandb")):
        pass
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with start_tracking(recipe(tmp_path, "wandb")) as tracker:
        tracker.log_stage("pair", {"pairs": 3}, 1.0)
        assert not tracker.is_on
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["abc", "0123456789" * 4])
def test_a_wrong_key_and_no_network_go_on_offline_with_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    key: str,
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("dpo_video.tracking.wandb_run.INIT_SECONDS", 3)
    with start_tracking(recipe(tmp_path, "wandb")) as tracker:
        tracker.log_stage("pair", {"pairs": 3}, 1.0)
        tracker.log_step({"loss": 0.5}, 1)
    told = [row.message for row in caplog.records if row.name.startswith("dpo_video.tracking")]
    assert len(told) == 1 and "wandb sync" in told[0] and key not in told[0]
    assert offline_runs(tmp_path)


def test_a_wandb_process_that_dies_costs_one_line_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own: W&B's service belongs to the process.

    Nor do imports fail of modules that W&B wants to hear of; these stand for peft and trl.
    """
    heard_of = ("sacred", "jina", "kornia", "dask", "hydra", "fairseq", "skorch", "metaflow")
    for name in heard_of:
        (tmp_path / f"{name}.py").touch()
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "import psutil\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from test_wandb import recipe\n"
        "from dpo_video.tracking import start_tracking\n"
        "with start_tracking(recipe(Path(sys.argv[1]), 'wandb')) as tracker:\n"
        "    tracker.log_step({'loss': 0.5}, 1)\n"
        "    services = psutil.Process().children(recursive=True)\n"
        "    for service in services:\n"
        "        service.kill()\n"
        "    psutil.wait_procs(services)\n"
        "    sys.path.insert(0, sys.argv[1])\n"
        f"    for name in {heard_of}:\n"
        "        __import__(name)\n"
        "        time.sleep(0.2)\n"
        "    deadline = time.monotonic() + 120\n"  # W&B looks at its socket when it likes
        "    step = 2\n"
        "    while tracker.is_on and time.monotonic() < deadline:\n"
        "        tracker.log_step({'loss': 0.5}, step)\n"
        "        step += 1\n"
        "        time.sleep(0.1)\n"
        "    tracker.log_stage('train', {'pairs': 3}, 1.0)\n"
        "print(f'trained to the end, {len(services)} killed')\n"
    )
    for name in ("WANDB_API_KEY", "WANDB_SERVICE"):  # the second is that of this process
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0 and "trained to the end" in done.stdout, done.stderr
    assert " 0 killed" not in done.stdout, "W&B's process was not found"
    assert done.stderr.count("Nothing more is logged there") == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
