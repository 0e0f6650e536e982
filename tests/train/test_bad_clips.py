"""Clips that training could not read: tried again where that may help, and then trained on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_world import adapter_weights, make_pairs, make_recipe, open_run
from training import read_log

from dpo_video.core.records import Pair
from dpo_video.recipe import Recipe
from dpo_video.run import StageResult
from dpo_video.store import RunStore
from dpo_video.train.bad_clips import forget_bad_clips, note_bad_clip, noted_bad_clips
from dpo_video.train.stage import train
from dpo_video.video import VideoError
from dpo_video.video.bad_clips import bad_clip

SETTINGS = {"epochs": 1, "batch_size": 1, "gradient_accumulation": 1}


@pytest.fixture
def own_world(qwen: Path, tmp_path: Path) -> Path:
    """The world with clips that a test may break and mend."""
    for name in ("c0.mp4", "c1.mp4", "c2.mp4"):
        shutil.copy(qwen / name, tmp_path / name)
    (tmp_path / "model").symlink_to(qwen / "model")
    return tmp_path


def run_stage(recipe: Recipe, world: Path, pairs: list[Pair]) -> StageResult:
    with RunStore(recipe.run_folder) as store:
        run = open_run(recipe, store, world, pairs)
        run.__dict__["num_clips"] = 100
        return train(run)


def weights_of(recipe: Recipe) -> dict[str, torch.Tensor]:
    return adapter_weights(recipe.run_folder / "adapter")


def assert_equal_runs(recipe: Recipe, other: Recipe) -> None:
    weights, others = weights_of(recipe), weights_of(other)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert read_log(recipe) == read_log(other)


@pytest.mark.parametrize("broken", ["missing", "damaged"])
def test_a_clip_that_is_mended_is_trained_on_from_the_start(own_world: Path, broken: str) -> None:
    """A missing file leaves the stage unfinished; a damaged one is final until it changes."""
    clip, pairs = own_world / "c1.mp4", make_pairs(7)
    good = clip.read_bytes()
    if broken == "missing":
        clip.unlink()
    else:
        clip.write_bytes(good[: len(good) // 3])
    recipe = make_recipe(own_world, name="mended", **SETTINGS)
    result = run_stage(recipe, own_world, pairs)
    assert result.counts["not_seen"] == {"pairs": 2, "clips": 1}
    assert result.complete == (broken == "damaged")
    if broken == "missing":
        assert "1 clip was not read this time" in result.incomplete_because
    without = weights_of(recipe)
    assert run_stage(recipe, own_world, pairs).counts["not_seen"] == {"pairs": 2, "clips": 1}
    assert all(torch.equal(without[name], weight) for name, weight in weights_of(recipe).items())
    clip.write_bytes(good)
    result = run_stage(recipe, own_world, pairs)
    assert result.complete and "not_seen" not in result.counts and result.counts["trained"] == 7
    assert result.counts["resumed_from"] is None
    undisturbed = make_recipe(own_world, name="undisturbed", **SETTINGS)
    run_stage(undisturbed, own_world, pairs)
    assert_equal_runs(recipe, undisturbed)


def test_a_clip_that_the_selection_could_not_read_is_tried_again_too(own_world: Path) -> None:
    """With a limit on the length, clips are decoded while pairs are selected."""
    clip, pairs = own_world / "c1.mp4", make_pairs(7)
    clip.rename(own_world / "away.mp4")
    recipe = make_recipe(own_world, name="selected", max_length=110, **SETTINGS)
    result = run_stage(recipe, own_world, pairs)
    assert result.counts["dropped"] == {"clip_unreadable": 2} and not result.complete
    (own_world / "away.mp4").rename(clip)
    result = run_stage(recipe, own_world, pairs)
    assert result.complete and result.counts["dropped"] == {} and result.counts["trained"] == 7


def test_a_training_under_way_goes_on_without_a_clip_that_came_back(
    own_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its steps ran without the clip; only when it has ended is it done again with it."""
    clip, pairs = own_world / "c1.mp4", make_pairs(7)
    clip.rename(own_world / "away.mp4")
    recipe = make_recipe(own_world, name="under way", save_steps=5, **SETTINGS)
    run_stage(recipe, own_world, pairs)
    [folder] = (recipe.run_folder / "checkpoints").iterdir()
    shutil.rmtree(folder / "checkpoint-7")
    (own_world / "away.mp4").rename(clip)
    result = run_stage(recipe, own_world, pairs)
    assert result.counts["resumed_from"] == "checkpoint-5"
    assert result.counts["not_seen"] == {"pairs": 2, "clips": 1} and not result.complete
    result = run_stage(recipe, own_world, pairs)
    assert result.counts["resumed_from"] is None and result.complete


def test_a_clip_that_changed_and_is_still_damaged_is_noted_as_it_is_now(own_world: Path) -> None:
    """Or the stage would be done again by every command, for the file differs from its note."""
    clip, pairs = own_world / "c1.mp4", make_pairs(7)
    clip.write_bytes(b"no video")
    recipe = make_recipe(own_world, name="still damaged", **SETTINGS)
    run_stage(recipe, own_world, pairs)
    [folder] = (recipe.run_folder / "checkpoints").iterdir()
    clip.write_bytes(b"no video either")
    assert noted_bad_clips(folder)["c1.mp4"].is_changed()
    result = run_stage(recipe, own_world, pairs)
    assert result.complete and result.counts["resumed_from"] == "checkpoint-7"
    assert not noted_bad_clips(folder)["c1.mp4"].is_changed()


def test_notes_are_kept_and_forgotten_by_clip(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "a.mp4"):
        error = VideoError("timeout", tmp_path / name, "it took long")
        note_bad_clip(tmp_path, name, bad_clip(error))
    noted = noted_bad_clips(tmp_path)
    assert list(noted) == ["a.mp4", "b.mp4"] and noted["b.mp4"].is_worth_another_try
    forget_bad_clips(tmp_path, ["a.mp4"])
    assert noted_bad_clips(tmp_path) == {"b.mp4": noted["b.mp4"]}


def test_a_damaged_note_is_told_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [json.dumps({"clip": name, "reason": "r"}) for name in ("a.mp4", "b.mp4")]
    content = [rows[0], '{"clip": "x"', "\x00", "[1]", '{"clip": 3, "reason": "r"}', rows[1]]
    (tmp_path / "bad_clips.jsonl").write_text("\n".join([*content, '{"torn']))
    assert list(noted_bad_clips(tmp_path)) == ["a.mp4", "b.mp4"]
    assert [record.args[1] for record in caplog.records] == [2, 3, 4, 5]  # type: ignore[index]
