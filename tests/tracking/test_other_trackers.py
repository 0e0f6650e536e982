"""TensorBoard's event files and Trackio's tables hold what W&B gets, as far as they can."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dpo_video.core.errors import UserError
from dpo_video.recipe import Recipe
from dpo_video.tracking import start_tracking
from dpo_video.tracking.tensorboard_run import markdown_table


def recipe(folder: Path, to: str, **tracking: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "sweep/tracked",
            "runs_folder": str(folder),
            "model": {"name": "m"},
            "data": {"samples": "s.jsonl"},
            "judge": {"model": "j"},
            "tracking": {"to": to, **tracking},
        }
    )


def log_all(settings: Recipe) -> None:
    rows = [
        {"prompt": "what | is it?\nA dog?", "score": 4.5, "frames": np.zeros((8, 16, 3), np.uint8)},
        {"prompt": "where?", "score": 1.0, "frames": None},
    ]
    with start_tracking(settings) as tracker:
        tracker.log_stage("pair", {"pairs": 3, "dropped": {"tie": 2}, "rule": "hound"}, 1.5)
        tracker.log_step({"loss": 0.5}, 1)
        tracker.log_step({"loss": 0.25}, 2)
        tracker.log_table("pairs", rows)
        tracker.log_artifact(settings.run_folder / "pairs.jsonl", kind="pairs")
        tracker.log_page("report", "<p>x</p>")
        assert tracker.is_on


def test_event_files_hold_scalars_tables_and_frames(tmp_path: Path) -> None:
    settings = recipe(tmp_path, "tensorboard")
    log_all(settings)
    events = EventAccumulator(str(settings.run_folder / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(1, 0.5), (2, 0.25)]
    assert events.Scalars("pair/dropped/tie")[0].value == 2
    (image,) = events.Images("pairs/frames")
    assert (image.height, image.width) == (8, 16)
    texts = {tag: events.Tensors(tag) for tag in events.Tags()["tensors"]}
    (table,) = texts["pairs/text_summary"]
    assert b"| what \\| is it? A dog? | 4.5 |" in table.tensor_proto.string_val[0]
    assert {"recipe/text_summary", "artifacts/pairs/text_summary"} <= set(texts)


def test_nothing_logged_leaves_nothing(tmp_path: Path) -> None:
    with start_tracking(recipe(tmp_path, "tensorboard")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_cannot_write_costs_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = recipe(tmp_path, "tensorboard")
    settings.run_folder.mkdir(parents=True)
    (settings.run_folder / "tensorboard").write_text("a file where the folder should be")
    with start_tracking(settings) as tracker:
        tracker.log_step({"loss": 0.5}, 1)
        tracker.log_step({"loss": 0.5}, 2)
        assert not tracker.is_on
    told = [row.message for row in caplog.records if row.name.startswith("dpo_video.tracking")]
    assert len(told) == 1 and "Nothing more is logged there" in told[0]


def test_a_table_of_one_column_is_a_table() -> None:
    assert markdown_table([{"a": 1}, {"a": 2}]) == "| a |\n|---|\n| 1 |\n| 2 |"


TRACKIO = """
import json, sys
from pathlib import Path
from test_other_trackers import log_all, recipe

log_all(recipe(Path(sys.argv[1]), "trackio", group="sweep"))
import trackio

names = [run.name for run in trackio.Api().runs("dpo-video")]
rows = trackio.sqlite_storage.SQLiteStorage.get_logs("dpo-video", names[0])
print(json.dumps({"names": names, "rows": rows}, default=str))
"""


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_keeps_scalars_and_tables(tmp_path: Path) -> None:
    """In the folder that Trackio's own setting names, which it reads once a process."""
    done = subprocess.run(
        [sys.executable, "-c", TRACKIO, str(tmp_path)],
        env={**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    kept = json.loads(done.stdout.splitlines()[-1])
    assert kept["names"] == ["sweep-tracked"]
    rows = kept["rows"]
    assert [row["train/loss"] for row in rows if "train/loss" in row] == [0.5, 0.25]
    assert any(row.get("pair/dropped/tie") == 2 for row in rows)
    assert any("pairs" in row for row in rows)
    assert (tmp_path / "trackio").is_dir()


def test_a_tracker_that_is_not_installed_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)  # then importing it fails
    with pytest.raises(UserError, match=r"pip install 'dpo-video\[trackio\]'"):
        log_all(recipe(tmp_path, "trackio"))
