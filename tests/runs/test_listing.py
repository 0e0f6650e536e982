"""The runs of a folder."""

import json
import os
from pathlib import Path

import pytest

from dpo_video.core.errors import UserError
from dpo_video.runs.listing import list_runs


def write_run(folder: Path, *, changed: float, stages: dict, verdicts: list | None = None) -> None:
    folder.mkdir(parents=True)
    manifest = folder / "manifest.json"
    recipe = {"model": {"name": "toy:qwen2_5_vl"}}
    manifest.write_text(json.dumps({"recipe": recipe, "stages": stages}))
    os.utime(manifest, (changed, changed))
    if verdicts is not None:
        (folder / "metrics.json").write_text(json.dumps({"verdicts": verdicts}))


def test_runs_are_listed_newest_first_with_their_worst_verdict(tmp_path: Path) -> None:
    pair = {"seconds": 1.0, "summary": {"pairs": 12}}
    verdicts = [{"set": "heldout", "outcome": "worse"}, {"set": "x", "outcome": "better"}]
    write_run(
        tmp_path / "old", changed=1e9, stages={"pair": pair, "evaluate": pair}, verdicts=verdicts
    )
    write_run(tmp_path / "group" / "new", changed=2e9, stages={"generate": pair, "pair": None})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text("{}")
    new, old = list_runs(tmp_path)
    assert (new.name, new.stage, new.pairs, new.verdict) == ("group/new", "generate", None, "")
    assert (old.name, old.stage, old.pairs, old.verdict) == (
        "old",
        "evaluate",
        12,
        "worse (heldout)",
    )
    assert old.model == "toy:qwen2_5_vl"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        list_runs(tmp_path / "none")
