"""When a stage is finished, when it is done again, and what may be replaced by it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import generation_runs
import pytest
from clips import write_clip
from judge_runs import write_run
from judge_server import judge_server, make_items
from tiny_world import adapter_weights, make_pairs, make_recipe, make_world
from tiny_world import open_run as open_world

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl
from dpo_video.core.names import shipped_folder
from dpo_video.core.records import Candidate, Pair, Sample
from dpo_video.pipeline import do_stages
from dpo_video.recipe import Recipe
from dpo_video.recipe.file import change_recipe, load_recipe
from dpo_video.run import Run, open_run
from dpo_video.stages import fingerprint
from dpo_video.store import RunStore

REPORTS = ("metrics.json", "rewards.jsonl", "audit.html", "agreement.html")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), "qwen2_5_vl")


@contextmanager
def training(recipe: Recipe, world: Path, pairs: list[Pair]) -> Iterator[Run]:
    """A run with so many clips that a few bad ones do not stop it."""
    with RunStore(recipe.run_folder) as store:
        run = open_world(recipe, store, world, pairs)
        run.samples.extend(
            Sample(id=f"x{number}", video=f"x{number}.mp4", prompt="p", caption="c")
            for number in range(100)
        )
        yield run


def train_once(recipe: Recipe, world: Path, pairs: list[Pair], **options: Any) -> list[str]:
    with training(recipe, world, pairs) as run:
        return do_stages(run, ["train"], **options)


def generate_once(recipe: Recipe) -> tuple[list[str], int]:
    """Return the stages done, and how many candidates there are then."""
    with open_run(recipe) as run:
        stages_done = do_stages(run, ["generate"])
    candidates = read_jsonl(recipe.run_folder / "candidates.jsonl", Candidate)
    return stages_done, len(list(candidates))


def test_a_clip_that_is_mended_has_generate_look_at_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = generation_runs.write_data(tmp_path)
    whole = (data / "2.mp4").read_bytes()
    (data / "2.mp4").write_bytes(whole[: len(whole) // 2])
    recipe = generation_runs.make_recipe(tmp_path, data, data={"max_bad_fraction": 0.5})
    assert generate_once(recipe) == (["generate"], 8)
    assert generate_once(recipe) == ([], 8), "a damaged file stays as it is"
    (data / "2.mp4").write_bytes(whole)
    assert generate_once(recipe) == (["generate"], 12)
    assert generate_once(recipe) == ([], 12)
    assert "not finished" not in capsys.readouterr().out


def test_a_clip_that_is_not_there_keeps_generate_unfinished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = generation_runs.write_data(tmp_path)
    (data / "2.mp4").rename(tmp_path / "elsewhere.mp4")
    recipe = generation_runs.make_recipe(tmp_path, data, data={"max_bad_fraction": 0.5})
    for _ in range(2):
        assert generate_once(recipe) == (["generate"], 8)
        said = capsys.readouterr().out
        assert "generate: not finished: 1 clip was not read this time" in said
    (tmp_path / "elsewhere.mp4").rename(data / "2.mp4")
    assert generate_once(recipe) == (["generate"], 12)
    assert generate_once(recipe) == ([], 12)


def test_a_clip_that_is_mended_asks_to_replace_the_adapter_and_is_trained_on(
    world: Path,
) -> None:
    pairs = [
        replace(pair, video="mended.mp4") if pair.video == "c1.mp4" else pair
        for pair in make_pairs()
    ]
    (world / "mended.mp4").write_bytes(b"no clip")
    recipe = make_recipe(world, name="mended", epochs=1)
    assert train_once(recipe, world, pairs) == ["train"]
    assert train_once(recipe, world, pairs) == []
    without = adapter_weights(recipe.run_folder / "adapter")
    (world / "mended.mp4").write_bytes((world / "c1.mp4").read_bytes())
    with pytest.raises(
        UserError, match=r"the clip mended\.mp4, which could not be read.*--replace"
    ):
        train_once(recipe, world, pairs)
    assert train_once(recipe, world, pairs, replace_adapter=True) == ["train"]
    assert train_once(recipe, world, pairs) == []
    straight = make_recipe(world, name="straight", epochs=1)
    train_once(straight, world, pairs)
    trained, wanted = (
        adapter_weights(folder / "adapter") for folder in (recipe.run_folder, straight.run_folder)
    )
    assert all(bool((trained[name] == wanted[name]).all()) for name in wanted)
    assert any(bool((trained[name] != without[name]).any()) for name in wanted)


def test_a_clip_that_is_not_there_is_tried_again_before_anything_is_trained_anew(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [
        replace(pair, video="late.mp4") if pair.video == "c1.mp4" else pair for pair in make_pairs()
    ]
    recipe = make_recipe(world, name="late", epochs=1)
    for _ in range(2):
        assert train_once(recipe, world, pairs) == ["train"]
        assert "train: not finished: 1 clip was not read this time" in capsys.readouterr().out
    before = adapter_weights(recipe.run_folder / "adapter")
    write_clip(world / "late.mp4", 14, rate=2)
    assert train_once(recipe, world, pairs) == ["train"], "it was not finished: nothing to ask"
    after = adapter_weights(recipe.run_folder / "adapter")
    assert any(bool((after[name] != before[name]).any()) for name in after)
    assert "not finished" not in capsys.readouterr().out
    assert train_once(recipe, world, pairs) == []


def test_a_changed_setting_asks_before_it_replaces_a_finished_adapter(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What told of the adapter before is moved aside; what told of other files stays."""
    recipe = make_recipe(world, name="asks")
    other = make_recipe(world, name="asks", beta=0.5)
    train_once(recipe, world, make_pairs(4))
    weights = (recipe.run_folder / "adapter" / "adapter_model.safetensors").read_bytes()
    for report in REPORTS:
        (recipe.run_folder / report).write_text("{}")
    told = r"train\.beta \(0\.1 before, 0\.5 now\) changed since.*--replace"
    with pytest.raises(UserError, match=told):
        train_once(other, world, make_pairs(4))
    kept = recipe.run_folder / "adapter" / "adapter_model.safetensors"
    assert kept.read_bytes() == weights and (recipe.run_folder / "metrics.json").exists()
    with pytest.raises(UserError, match=r"pairs\.jsonl changed since"):
        train_once(recipe, world, make_pairs(5))
    assert train_once(other, world, make_pairs(4), replace_adapter=True) == ["train"]
    assert kept.read_bytes() != weights
    stale = recipe.run_folder / "stale"
    assert sorted(path.name for path in stale.iterdir()) == ["metrics.json", "rewards.jsonl"]
    assert "what told of the one before lies in" in capsys.readouterr().err
    assert (recipe.run_folder / "audit.html").exists()
    assert train_once(other, world, make_pairs(4)) == []


def test_a_command_with_nothing_to_do_leaves_no_wandb_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    data = generation_runs.write_data(tmp_path)
    recipe = generation_runs.make_recipe(tmp_path, data)
    generate_once(recipe)
    tracked = recipe.model_copy(
        update={"tracking": recipe.tracking.model_copy(update={"to": "wandb"})}
    )
    assert generate_once(tracked)[0] == []
    assert not (recipe.run_folder / "wandb").exists()


def test_a_setting_of_speed_alone_asks_nothing(world: Path) -> None:
    train_once(make_recipe(world, name="speed", epochs=1), world, make_pairs(4))
    often = make_recipe(world, name="speed", epochs=1, save_steps=1)
    assert train_once(often, world, make_pairs(4)) == []


def test_the_threshold_of_a_scorer_file_decides_pairs_and_not_scores(
    world: Path, tmp_path: Path
) -> None:
    """It is in no hash of a scorer, so that another one asks nothing again; but what it decides is
    made anew.
    """
    scorer = tmp_path / "mine.yaml"
    shipped = (shipped_folder("scorers") / "hound_quality.yaml").read_text()
    recipe = change_recipe(make_recipe(world, name="threshold"), [f"judge.scorer={scorer}"])
    prints = []
    for threshold in ("3", "4"):
        scorer.write_text(re.sub(r"(?m)^threshold: .*", f"threshold: {threshold}", shipped))
        with training(recipe, world, make_pairs(2)) as run:
            for name in ("candidates.jsonl", "judgments.jsonl"):
                (run.folder / name).touch()
            prints.append([fingerprint(run, stage) for stage in ("judge", "pair")])
    (judge_before, pair_before), (judge_after, pair_after) = prints
    assert judge_before == judge_after
    assert pair_before != pair_after


def test_a_file_that_was_edited_between_stages_is_told_and_taken_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where a row goes from both files, so that they still fit each other."""
    items = make_items(4, 2)
    with judge_server() as server:
        recipe = load_recipe(str(write_run(tmp_path, items, server.url)), [])
        with open_run(recipe) as run:
            do_stages(run, ["judge"])
            do_stages(run, ["pair"])
    assert "as `judge` left it" not in caplog.text
    for name in ("candidates.jsonl", "judgments.jsonl"):
        path = recipe.run_folder / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with open_run(recipe) as run:
        do_stages(run, ["pair"])
    assert f"pair: {recipe.run_folder / 'judgments.jsonl'} is not as `judge` left it" in caplog.text
