"""What of a run folder can go."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dpo_video.cli.app import app
from dpo_video.core.errors import UserError
from dpo_video.runs.clean import removable_folders, remove_folders, size_text
from dpo_video.store import RunStore


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    for name, size in (("checkpoints/a/1", 3_000_000), ("cache/x", 2_000), ("adapter/w", 10)):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * size)
    (tmp_path / "manifest.json").write_text('{"recipe": {}}')
    return tmp_path


def test_it_asks_with_the_sizes_and_keeps_results(run_folder: Path) -> None:
    kept = CliRunner().invoke(app, ["clean", str(run_folder)], input="n\n")
    assert "3.0 MB" in kept.output and "nothing removed" in kept.output
    assert (run_folder / "checkpoints").is_dir()
    done = CliRunner().invoke(app, ["clean", str(run_folder)], input="y\n")
    assert done.exit_code == 0 and "removed 3.0 MB" in done.output
    assert sorted(path.name for path in run_folder.iterdir()) == ["adapter", "manifest.json"]
    again = CliRunner().invoke(app, ["clean", str(run_folder), "--yes"])
    assert "nothing to remove" in again.output


def test_a_folder_in_use_and_one_of_no_run_are_left_alone(run_folder: Path) -> None:
    folders = removable_folders(run_folder)
    with RunStore(run_folder), pytest.raises(UserError, match="in use"):
        remove_folders(run_folder, folders)
    assert (run_folder / "cache").is_dir()
    of_no_run = run_folder / "other"  # neither a manifest nor a store
    (of_no_run / "cache").mkdir(parents=True)
    with pytest.raises(UserError, match="no run works there"):
        removable_folders(of_no_run)


def test_a_link_is_not_followed(run_folder: Path) -> None:
    (run_folder / "stale").symlink_to(run_folder / "adapter")
    names = [folder.path.name for folder in removable_folders(run_folder)]
    assert names == ["checkpoints", "cache"]


def test_sizes_are_told_in_units_that_one_can_read() -> None:
    assert [size_text(size) for size in (999, 2_000_000, 3_400_000_000)] == [
        "1 kB",
        "2.0 MB",
        "3.4 GB",
    ]
