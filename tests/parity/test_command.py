"""parity against real servers on loopback: one that serves the tuned model, one that ignores the
adapter, one with wrong answers, and `transformers serve`.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from judge_server import free_port
from peft import get_peft_model
from policy_server import policy_server
from tiny_world import make_pairs
from torch import nn
from transformers.utils import logging as transformers_logging
from typer.testing import CliRunner

from dpo_video.cli.app import app
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import EarlierTurn, Sample
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import adapter_parameters, lora_config
from dpo_video.parity.command import ParityOptions, ParityReport, parity
from dpo_video.recipe import LoraSettings, Recipe
from dpo_video.run import open_run, recipe_of
from dpo_video.toy.clips import write_split
from dpo_video.train.merge import merge

TURN = EarlierTurn(question="How many objects move?", answer="One moves, and the others stay.")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the toy policy with an adapter that changes its answers."""
    folder = tmp_path_factory.mktemp("parity")
    recipe = make_recipe(folder)
    run = recipe.run_folder
    run.mkdir(parents=True)
    policy = load_policy(recipe.model)
    torch.manual_seed(1)
    model = get_peft_model(policy.bare, lora_config(LoraSettings(rank=8, alpha=8), policy.family))
    for name, parameter in adapter_parameters(model):
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(run / "adapter")
    (run / "manifest.json").write_text(json.dumps({"recipe": recipe.model_dump()}))
    return run


def make_recipe(folder: Path) -> Recipe:
    """Return a recipe over two toy clips with three questions each."""
    return Recipe.model_validate(
        {
            "name": "run",
            "runs_folder": str(folder / "runs"),
            "model": {"name": "toy:qwen2_5_vl", "device": "cpu"},
            "data": {
                "samples": str(write_split("train", folder / "train", num_clips=1, seed=3)),
                "heldout": str(write_heldout(folder)),
            },
            "video": {"num_frames": 8, "workers": 1},
            "judge": {"model": "none"},
            "train": {"lora": {"rank": 8, "alpha": 8}},
            "generate": {"retries": 0},
            "evaluate": {"max_new_tokens": 8},
            "tracking": {"to": "none"},
        }
    )


def write_heldout(folder: Path) -> Path:
    """Write three questions about each of two toy clips, the second of them behind TURN."""
    path = write_split("heldout", folder / "heldout", num_clips=2, seed=3)
    samples = list(read_jsonl(path, Sample))
    write_jsonl(path, [samples[0], replace(samples[1], history=(TURN,)), *samples[2:]])
    return path


@pytest.fixture(scope="module")
def policy(run_folder: Path) -> Policy:
    return load_policy(recipe_of(run_folder).model, adapter=run_folder / "adapter")


def compare(run_folder: Path, url: str, **options: Any) -> ParityReport:
    with open_run(recipe_of(run_folder)) as run:
        return parity(run, ParityOptions(base_url=url, **options))


def test_a_server_that_answers_as_the_tuned_model_is_told_from_its_own_choice_of_frames(
    run_folder: Path, policy: Policy
) -> None:
    """It takes the first 8 frames of a video: all of ours, and half of the file's 16."""
    with policy_server(policy) as server:
        report = compare(run_folder, server.url)
    film, file = report.ways
    assert (film.shown_as, film.n, film.equal, film.failed) == ("film", 6, 6, 0)
    assert film.telling >= 4 and film.nearer_tuned == film.telling
    assert film.logp_gap is not None and film.logp_gap < 1e-3 < 0.05 < film.base_logp_gap
    assert (file.shown_as, file.n) == ("file", 6) and file.equal < 6
    assert report.holds and report.model == "tuned"
    assert "That is its sampling, not the model" in report.verdict.text
    (behind,) = [
        sample
        for sample in read_jsonl(Path(recipe_of(run_folder).data.heldout or ""), Sample)
        if sample.history
    ]
    asked = [request["messages"] for request in server.requests if len(request["messages"]) > 1]
    assert len(asked) == 2, "as a film and as a file"
    for first, *later in asked:
        assert first["role"] == "user" and first["content"][0]["type"] == "video_url"
        assert first["content"][1:] == [{"type": "text", "text": TURN.question}]
        assert later == [
            {"role": "assistant", "content": TURN.answer},
            {"role": "user", "content": behind.prompt},
        ]
    stored = json.loads((run_folder / "parity.json").read_text())
    assert [way["share_equal"] for way in stored["ways"]] == [1.0, file.share_equal]
    rows = [json.loads(line) for line in (run_folder / "parity.jsonl").read_text().splitlines()]
    assert sum(row["shown_as"] == "film" and row["tuned"] == row["served"] for row in rows) == 6


def test_the_answers_here_are_made_once_and_all_frames_of_a_file_are_the_same_to_the_server(
    run_folder: Path, policy: Policy
) -> None:
    with open_run(recipe_of(run_folder)) as run:
        before = len(list(run.store.rows("candidate")))
    with policy_server(policy, logprobs=False) as server:
        report = compare(run_folder, server.url, limit=2)
    with open_run(recipe_of(run_folder)) as run:
        assert len(list(run.store.rows("candidate"))) == before == 12
    assert [way.n for way in report.ways] == [2, 2]
    assert report.ways[0].equal == 2 and report.ways[0].logp_gap is None


@pytest.mark.parametrize("logprobs", [True, False])
def test_a_server_that_ignores_the_adapter_is_told(
    run_folder: Path, policy: Policy, logprobs: bool
) -> None:
    with policy_server(policy, models={"tuned": False}, logprobs=logprobs) as server:
        report = compare(run_folder, server.url)
    assert not report.holds and report.ways[0].equal_base == 6
    assert "those of the base: the adapter has no effect" in report.verdict.text


def test_a_server_with_wrong_answers_is_told(run_folder: Path, policy: Policy) -> None:
    with policy_server(policy, text="no", logprobs=False) as server:
        report = compare(run_folder, server.url)
    assert not report.holds
    assert "neither the tuned model's nor the base's" in report.verdict.text


def test_fields_and_ways_that_a_server_does_not_take_are_left_out(
    run_folder: Path, policy: Policy
) -> None:
    refuses = frozenset({"top_k", "min_p", "repetition_penalty", "logprobs"})
    with policy_server(policy, refuses=refuses) as server:
        report = compare(run_folder, server.url, limit=2)
        assert report.ways[0].equal == 2
        assert server.requests[-1].keys() == {
            "model",
            "messages",
            "temperature",
            "max_tokens",
            "frequency_penalty",
        }
    with (
        policy_server(policy, video=False) as server,
        pytest.raises(UserError, match=r"(?s)no question about a clip .*film: HTTP 400: At most 0"),
    ):
        compare(run_folder, server.url, shown_as="film")


def test_several_models_need_a_name_and_an_unknown_one_is_told(
    run_folder: Path, policy: Policy
) -> None:
    with policy_server(policy, models={"base": False, "tuned": True}) as server:
        with pytest.raises(UserError, match=r"serves 'base', 'tuned': name the one .* --model"):
            compare(run_folder, server.url)
        with pytest.raises(UserError, match=r"knows no model 'other', or --base-url is wrong"):
            compare(run_folder, server.url, model="other")
    with pytest.raises(UserError, match=r"--base-url: must begin with http://"):
        compare(run_folder, "localhost:8000")
    with pytest.raises(UserError, match=r"cannot reach the server .*is --base-url its address"):
        compare(run_folder, f"http://127.0.0.1:{free_port()}/v1", model="tuned")


@pytest.fixture(scope="module")
def served_folders(run_folder: Path) -> Iterator[tuple[str, Path]]:
    """`transformers serve` on loopback, which loads any folder that a request names, and the merged
    model.
    """
    from transformers.cli.serve import Serve

    level, port = transformers_logging.get_verbosity(), free_port()
    merged = run_folder.parent / "merged"
    with open_run(recipe_of(run_folder)) as run:
        write_jsonl(run.folder / "pairs.jsonl", toy_pairs(run.samples[0].video))
        merge(run, merged)
    served = Serve(non_blocking=True, host="127.0.0.1", port=port, device="cpu", log_level="error")
    try:
        yield f"http://127.0.0.1:{port}/v1", merged
    finally:
        served.kill_server()
        transformers_logging.set_verbosity(level)


def toy_pairs(video: str | list[str]) -> list[Any]:
    """Return one pair about a clip, for merge to compare logits on."""
    return [replace(make_pairs(1)[0], video=video)]


def test_transformers_serve_with_the_merged_model_answers_as_the_tuned_one(
    run_folder: Path, served_folders: tuple[str, Path]
) -> None:
    """It takes our frames as images, and so do the models here. Merged weights are rounded once,
    an adapter never: an answer may change.
    """
    url, merged = served_folders
    report = compare(run_folder, url, model=str(merged), min_equal=0.8)
    (images,) = report.ways
    assert (images.shown_as, images.n) == ("images", 6) and images.equal >= 5
    assert images.telling >= 4 and report.holds
    assert any(reason.startswith("film: ") for reason in report.refused)


def test_transformers_serve_with_the_base_is_told(
    run_folder: Path, served_folders: tuple[str, Path]
) -> None:
    from dpo_video.toy.models import checkpoint

    report = compare(run_folder, served_folders[0], model=str(checkpoint("qwen2_5_vl")))
    assert not report.holds and report.ways[0].equal_base == 6
    assert "the adapter has no effect" in report.verdict.text


def test_the_exit_code_of_the_command_is_1_where_it_is_another_model(
    run_folder: Path, policy: Policy
) -> None:
    with policy_server(policy, models={"tuned": False}, logprobs=False) as server:
        arguments = ["parity", str(run_folder), "--base-url", server.url, "--limit", "3"]
        done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1, done.output
    assert "the adapter has no effect" in done.stdout


def test_a_run_without_an_adapter_or_held_out_questions_cannot_be_compared(
    run_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(run_folder)
    other = recipe.model_copy(update={"runs_folder": str(tmp_path)})
    with open_run(other) as run, pytest.raises(UserError, match=r"no adapter in .*train first"):
        parity(run, ParityOptions(base_url="http://127.0.0.1:9/v1"))
    alone = recipe.model_copy(update={"data": recipe.data.model_copy(update={"heldout": None})})
    with open_run(alone) as run, pytest.raises(UserError, match=r"set data\.heldout"):
        parity(run, ParityOptions(base_url="http://127.0.0.1:9/v1"))
