"""Checkpoints whose chat template takes no earlier turns, told of before anything is loaded."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from check_runs import recipe_for

from dpo_video.check.command import check
from dpo_video.check.data import load_data
from dpo_video.check.turns import check_history
from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import EarlierTurn, Pair, Sample
from dpo_video.recipe import Recipe

TURN = EarlierTurn(question="what happens ?", answer="a dog runs")


@pytest.fixture(scope="module")
def folder(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world's policy with templates that drop and that refuse turns, and its questions with
    turns in the lines 3 and 5.
    """
    folder = tmp_path_factory.mktemp("turns")
    template = (world / "policy" / "chat_template.jinja").read_text()
    refusing = "{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}"
    dropping = template.replace("in messages", "in messages[:1]", 1)
    assert dropping != template
    for name, changed in (("drops", dropping), ("refuses", refusing + template)):
        shutil.copytree(world / "policy", folder / name)
        (folder / name / "chat_template.jinja").write_text(changed)
    samples = list(read_jsonl(world / "train.jsonl", Sample))
    for number in (2, 4):
        samples[number] = replace(samples[number], history=(TURN,))
    write_jsonl(folder / "train.jsonl", samples)
    return folder


def recipe_of(world: Path, model: Path | str, **data: Any) -> Recipe:
    return recipe_for(world, model={"name": str(model)}, data={"video_root": str(world), **data})


@pytest.mark.parametrize(("name", "why"), [("drops", "leaves some"), ("refuses", "one turn")])
def test_a_template_without_turns_is_a_problem_at_the_first_question_that_has_some(
    world: Path, folder: Path, name: str, why: str
) -> None:
    file = folder / "train.jsonl"
    plan = check(recipe_of(world, folder / name, samples=str(file)))
    (problem,) = plan.problems
    assert problem.startswith(f"{file}:3: the chat template of '{folder / name}' takes no earlier ")
    assert why in problem
    assert check(recipe_of(world, folder / name)).problems == (), "no question has turns"
    assert check(recipe_of(world, world / "policy", samples=str(file))).problems == ()


def test_turns_are_looked_for_in_pairs_held_out_samples_and_sets_and_by_every_model(
    world: Path, folder: Path
) -> None:
    file, pairs = folder / "train.jsonl", folder / "pairs.jsonl"
    pair = Pair(
        sample_id="a",
        video="c0.mp4",
        prompt="what ?",
        chosen="a dog",
        rejected="a cat",
        source="written",
        chosen_id="a",
        rejected_id="b",
    )
    write_jsonl(pairs, [pair, replace(pair, sample_id="b", history=(TURN,))])
    given = recipe_of(world, folder / "drops", pairs=str(pairs), samples="", heldout=None)
    heldout = recipe_of(world, folder / "drops", samples="data/train.jsonl", heldout=str(file))
    asked = {"name": "mine", "samples": str(file), "video_root": str(world)}
    in_a_set = recipe_for(
        world,
        model={"name": str(folder / "drops")},
        data={"samples": "data/train.jsonl", "heldout": None},
        evaluate={"sets": [asked]},
    )
    drops = {"name": str(folder / "drops")}
    mix = [{"name": name, "num_candidates": 2, "model": drops} for name in "ab"]
    mixed = recipe_for(
        world, data={"samples": str(file), "video_root": str(world)}, generate={"mix": mix}
    )
    for recipe, where in (
        (given, f"{pairs}:2: "),
        (heldout, f"{file}:3: "),
        (in_a_set, f"{file}:3: "),
        (mixed, f"{file}:3: "),
    ):
        (problem,) = check_history(recipe, load_data(recipe)).problems
        assert problem.startswith(f"{where}the chat template of '{folder / 'drops'}' takes no ")


def test_the_template_of_a_checkpoint_that_is_not_here_yet_is_taken_for_granted_and_said(
    world: Path, folder: Path
) -> None:
    name = "Qwen/Qwen2.5-VL-7B-Instruct"
    recipe = recipe_of(world, name, samples=str(folder / "train.jsonl"))
    findings = check_history(recipe, load_data(recipe))
    assert findings.problems == () and len(findings.assumptions) == 1
    assert f"the chat template of {name!r}, which is not on this disk yet" in str(findings)
