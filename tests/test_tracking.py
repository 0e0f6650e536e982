"""Tracking: a real W&B run written offline, resumed under one id, without secrets."""

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
        assert tracker.report_to == "none"
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
            assert tracker.report_to == "wandb"
            ids.append(tracker.wandb_run.id)
            assert tracker.wandb_run.config["judge"]["base_url"] == "http://127.0.0.1:9/v1"
            tracker.log_stage("pair", {"pairs": 3, "dropped": {"tie": 2}}, 1.5)
            assert tracker.wandb_run.summary["pair/dropped/tie"] == 2
            tracker.log_pairs([{"prompt": "p", "frames": np.zeros((8, 16, 3), np.uint8)}])
            tracker.log_artifact(tmp_path / "pairs.jsonl", kind="pairs")
    assert ids[0] == ids[1] == (settings.run_folder / "wandb_id").read_text()
    written = [file for file in settings.run_folder.rglob("*") if file.is_file()]
    assert any("offline-run" in str(file) for file in written)
    assert [str(file) for file in written if SECRET.encode() in file.read_bytes()] == []
