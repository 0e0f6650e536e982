"""status.json: written while a process works in a run folder, read by another."""

import subprocess
import sys
from pathlib import Path

import pytest

from dpo_video.core.errors import UserError
from dpo_video.core.progress import progress
from dpo_video.core.status_file import STATUS, read_status, shown_status


def test_it_tells_the_stage_and_how_far_it_is(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    with shown_status(tmp_path) as writer:
        assert read_status(tmp_path) is None, "nothing is begun"
        writer.begin_stage("judge")
        status = read_status(tmp_path)
        assert status is not None and status.is_running
        assert (status.stage, status.total) == ("judge", 0)
        with progress("judge (x)", total=4) as advance:
            advance(4, failed=1)
        status = read_status(tmp_path)
        assert status is not None
        assert (status.title, status.done, status.total) == ("judge (x)", 4, 4)
        assert status.counts == "failed 1"
    status = read_status(tmp_path)
    assert status is not None and status.is_over and status.last_error is None


def test_what_has_nothing_to_do_leaves_it_as_it_was(tmp_path: Path) -> None:
    with shown_status(tmp_path) as writer:
        writer.begin_stage("judge")
    before = (tmp_path / STATUS).read_bytes()
    with shown_status(tmp_path):
        pass
    assert (tmp_path / STATUS).read_bytes() == before


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UserError("no judge"), "no judge"),
        (KeyboardInterrupt(), "stopped by the user"),
        (RuntimeError("bad\x1b"), r"RuntimeError: bad\x1b"),
    ],
)
def test_the_last_error_is_kept(tmp_path: Path, error: BaseException, told: str) -> None:
    with pytest.raises(type(error)), shown_status(tmp_path):
        raise error
    status = read_status(tmp_path)
    assert status is not None and (status.last_error, status.is_over) == (told, True)


def test_a_killed_process_is_not_running(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from dpo_video.core.status_file import shown_status\n"
        "with shown_status(Path(sys.argv[1])) as writer:\n"
        "    writer.begin_stage('train'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    status = read_status(tmp_path)
    assert status is not None
    assert (status.stage, status.is_over, status.is_running) == ("train", False, False)
