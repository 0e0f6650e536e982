"""What `check` says of the clips that a run keeps on disk."""

import json
import shutil
from pathlib import Path

import pytest
from check_runs import recipe_for

from dpo_video.check.command import check
from dpo_video.check.plan import plan_row, plan_text
from dpo_video.recipe.file import load_recipe

GIB = 1 << 30


def row(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("  clips on disk"))


def test_the_default_says_what_it_costs_at_7b(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 clips to train on and 200 held out, of 4,032 tokens x 3,584 x 2 bytes."""
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage("/")._replace(free=90 * GIB))
    plan = check(load_recipe("qwen2_5_vl_7b"))
    assert plan.kept.kept == "features" and plan.kept.clips == 1200
    assert plan.kept.clip_gib == 4032 * 3584 * 2 / GIB
    assert plan.kept.limit_gib == 45 and plan.kept.share == 1
    assert row(plan_text(plan)) == (
        "  clips on disk         features of 1,200 clips, 27.6 MiB each, 32.3 GiB in all; room "
        "for 45.0 GiB in runs/qwen2_5_vl_7b/cache; each is decoded once"
    )
    assert not any("there is room for" in warning for warning in plan.warnings)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage("/")._replace(free=20 * GIB))
    fuller = check(load_recipe("qwen2_5_vl_7b"))
    (warning,) = [warning for warning in fuller.warnings if "there is room for" in warning]
    assert "the features of all clips take 32.3 GiB, and there is room for 10.0 GiB, 31%" in warning
    assert "each is decoded once" not in row(plan_text(fuller))


def test_it_counts_the_clips_of_the_data_and_names_the_limit(world: Path) -> None:
    """Frames of two sizes of clips: 3 bytes a pixel; 2 clips to train on, 2 held out."""
    plan = check(recipe_for(world, video={"cache": "frames", "cache_gb": 1e-6}))
    assert (plan.kept.kept, plan.kept.clips) == ("frames", 4)
    assert plan.kept.clip_gib == plan.frames_taken.mean * 3 * 160 * 64 / GIB
    (warning,) = [warning for warning in plan.warnings if "there is room for" in warning]
    assert "a clip that was read goes for the next" in warning
    assert json.loads(json.dumps(plan_row(plan)))["kept"]["kept"] == "frames"
    none = check(recipe_for(world, video={"cache": "none"}))
    assert "each is decoded again in each stage and epoch" in row(plan_text(none))
