"""Implicit rewards of candidates: those of plain forwards, stored, and taken up by the pair
stage.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from plain_forwards import plain_answer_logp
from tiny_world import ANSWERS, KINDS, make_recipe, make_world
from typer.testing import CliRunner

from dpo_video.cli.app import app
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Candidate, EarlierTurn, Reward, Sample
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import adapter_parameters, lora_config
from dpo_video.pair.stage import read_rewards
from dpo_video.recipe import DataSettings, PairSettings, Recipe, TrackingSettings
from dpo_video.run import Run, open_run
from dpo_video.train.rewards import write_rewards

SAMPLES = [
    Sample(id=f"s{number}", video=f"c{number % 2}.mp4", prompt=prompt, caption="a dog")
    for number, prompt in enumerate(
        ("what happens in the clip ?", "describe the video", "is it red ?")
    )
]
SAMPLES[2] = replace(SAMPLES[2], history=(EarlierTurn(question="what is it ?", answer="a dog"),))
CANDIDATES = [
    Candidate(
        id=f"{sample.id}#{number}",
        sample_id=sample.id,
        text=text,
        model="m",
        settings="x",
        seed=0,
        finish="length" if number == 1 else "stop",
    )
    for sample in SAMPLES
    for number, text in enumerate([*ANSWERS[:3], ANSWERS[0]])
]


@pytest.fixture(scope="module", params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("world"), request.param)
    recipe = make_recipe(folder)
    model = get_peft_model(load_policy(recipe.model).bare, lora_config(recipe.train.lora))
    torch.manual_seed(0)
    for name, parameter in adapter_parameters(model):
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder / "adapter")
    return folder


@contextmanager
def opened(
    world: Path, samples: list[Sample] = SAMPLES, candidates: list[Candidate] = CANDIDATES
) -> Iterator[Run]:
    write_jsonl(world / "samples.jsonl", samples)
    with open_run(recipe_of(world)) as run:
        write_jsonl(run.folder / "candidates.jsonl", candidates)
        yield run


def recipe_of(world: Path) -> Recipe:
    data = DataSettings(
        samples=str(world / "samples.jsonl"), video_root=str(world), max_bad_fraction=0.9
    )
    return make_recipe(world, beta=0.5).model_copy(
        update={"data": data, "tracking": TrackingSettings(to="none")}
    )


def rewards_of(path: Path) -> dict[str, float]:
    return {row.candidate_id: row.reward for row in read_jsonl(path, Reward)}


def slow_logp(
    policy: Policy,
    recipe: Recipe,
    world: Path,
    candidate: Candidate,
    *,
    is_alone: bool = False,
) -> float:
    """Return log p(answer | clip, earlier turns, question) from one plain forward through pixels; a
    cut answer has no end of turn. `is_alone` leaves the earlier turns out.
    """
    sample = next(sample for sample in SAMPLES if sample.id == candidate.sample_id)
    return plain_answer_logp(
        policy,
        recipe,
        world / str(sample.video),
        question=sample.prompt,
        answer=candidate.text,
        is_cut=candidate.finish == "length",
        history=None if is_alone else sample.history,
    )


def test_rewards_are_beta_times_the_change_of_the_log_probs_of_plain_forwards(
    world: Path, tmp_path: Path
) -> None:
    with opened(world) as run:
        summary = write_rewards(run, adapter=world / "adapter", out=tmp_path / "rewards.jsonl")
    found, recipe = rewards_of(tmp_path / "rewards.jsonl"), recipe_of(world)
    policy = load_policy(recipe.model, adapter=world / "adapter")
    assert isinstance(policy.model, PeftModel)
    assert list(found) == [candidate.id for candidate in CANDIDATES]
    for candidate in CANDIDATES:
        tuned = slow_logp(policy, recipe, world, candidate)
        with policy.model.disable_adapter():
            base = slow_logp(policy, recipe, world, candidate)
        assert found[candidate.id] == pytest.approx(0.5 * (tuned - base), abs=1e-4)
    assert min(map(abs, found.values())) > 1e-3
    behind = CANDIDATES[-1]
    alone = slow_logp(policy, recipe, world, behind, is_alone=True)
    with policy.model.disable_adapter():
        alone -= slow_logp(policy, recipe, world, behind, is_alone=True)
    assert abs(found[behind.id] - 0.5 * alone) > 1e-3, "earlier turns change it"
    assert found["s0#0"] == found["s0#3"] != found["s1#0"], "equal answers to a question are one"
    assert (summary["candidates"], summary["rewards"], summary["bad clips"]) == (12, 12, 0)
    settings = PairSettings(implicit_rewards=str(tmp_path / "rewards.jsonl"), keep_hardest=0.5)
    assert read_rewards(settings) == found


def test_what_was_computed_is_stored_and_another_adapter_pays_for_its_own_only(
    world: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(world / "adapter", other)
    (other / "note.txt").write_text("the same weights under other contents")
    kept = []
    for adapter in (world / "adapter", world / "adapter", other):
        with opened(world) as run:
            write_rewards(run, adapter=adapter, out=tmp_path / "rewards.jsonl")
            kept.append(
                [{key for key, _ in run.store.rows(kind)} for kind in ("reference", "tuned")]
            )
    distinct = 3 * len(ANSWERS[:3])
    assert [len(keys) for keys in kept[0]] == [distinct, distinct] and kept[0] == kept[1]
    assert kept[2][0] == kept[0][0] and kept[2][1] > kept[0][1] and len(kept[2][1]) == 2 * distinct


def test_candidates_of_a_clip_that_cannot_be_read_have_none_and_are_counted(
    world: Path, tmp_path: Path
) -> None:
    samples = [
        replace(SAMPLES[0], video="missing.mp4"),
        replace(SAMPLES[1], video="https://host/a.mp4"),
        SAMPLES[2],
    ]
    with opened(world, samples) as run:
        summary = write_rewards(run, adapter=world / "adapter", out=tmp_path / "rewards.jsonl")
    assert list(rewards_of(tmp_path / "rewards.jsonl")) == [f"s2#{number}" for number in range(4)]
    assert (summary["candidates"], summary["rewards"], summary["bad clips"]) == (12, 4, 2)
    with (
        opened(world, samples[:1], CANDIDATES[:4]) as run,
        pytest.raises(UserError, match=r"(?s)cannot be read.*miss"),
    ):
        write_rewards(run, adapter=world / "adapter", out=tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_the_command_writes_beside_the_adapter_and_says_what_is_missing(world: Path) -> None:
    def call(*words: str):  # type: ignore[no-untyped-def]
        return CliRunner().invoke(app, ["rewards", str(recipe_of(world).run_folder), *words])

    with opened(world) as run:
        (run.folder / "manifest.json").write_text(json.dumps({"recipe": run.recipe.model_dump()}))
    assert "no adapter at" in str(call().exception)
    done = call("--adapter", str(world / "adapter"))
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1].startswith(
        "rewards: candidates 12, rewards 12, bad clips 0, mean "
    )
    assert len(rewards_of(recipe_of(world).run_folder / "rewards.jsonl")) == 12
