"""What `dpo-video status` says of a run folder."""

import json
import os
import socket
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dpo_video.core.errors import UserError
from dpo_video.core.status_file import STATUS, RunStatus
from dpo_video.runs.status import read_run, status_row, status_text

NOW = 1_000_000.0
RUNNING = RunStatus(
    pid=os.getpid(),
    host=socket.gethostname(),
    began=NOW - 100,
    updated=NOW - 1,
    stage="judge",
    title="judge (caption_score)",
    done=120,
    total=480,
    rate=4.04,
    seconds_left=89.0,
)


def write(folder: Path, status: RunStatus) -> Path:
    (folder / STATUS).write_text(json.dumps(asdict(status)))
    stages = {"generate": {"seconds": 125.0, "summary": {}, "fingerprint": "f"}, "judge": None}
    (folder / "manifest.json").write_text(json.dumps({"recipe": {}, "stages": stages}))
    return folder


def test_each_stage_has_a_line(tmp_path: Path) -> None:
    view = read_run(write(tmp_path, RUNNING))
    assert status_text(view, clock=NOW).splitlines() == [
        str(tmp_path),
        "  generate  finished  in 2 min 5 s",
        "  judge     running   judge (caption_score): 120 of 480 (25 %), 4.0/s, 1 min 29 s left",
        "  pair      -",
        "  train     -",
        "  evaluate  -",
    ]
    row = status_row(view)
    assert (row["stage"], row["done"], row["running"]) == ("judge", 120, True)
    assert row["finished"] == {"generate": 125.0}


def test_a_stage_that_is_quiet_says_for_how_long(tmp_path: Path) -> None:
    view = read_run(write(tmp_path, replace(RUNNING, updated=NOW - 185)))
    assert "; last seen 3 min 5 s ago" in status_text(view, clock=NOW)


def test_a_killed_process_and_a_last_error_are_told(tmp_path: Path) -> None:
    gone = replace(RUNNING, pid=2**22 + 1)
    text = status_text(read_run(write(tmp_path, gone)), clock=NOW)
    assert "  judge     killed" in text and "the same command goes on" in text
    over = replace(RUNNING, is_over=True, last_error="no judge")
    text = status_text(read_run(write(tmp_path, over)), clock=NOW)
    assert text.splitlines()[2] == "  judge     -" and "last error: no judge" in text


def test_a_folder_of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it is no run's folder, or nothing was begun there"):
        read_run(tmp_path)
