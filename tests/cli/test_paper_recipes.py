"""The recipes after papers run from clips to numbers on the toy world: each by `dpo-video run`, all
over one store.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dpo_video.cli.app import app
from dpo_video.core.jsonl import read_jsonl
from dpo_video.core.library_warnings import quiet_libraries
from dpo_video.core.records import Candidate, Judgment, Pair
from dpo_video.evaluate.report import read_metrics
from dpo_video.toy.clips import write_split

NUM_QUESTIONS = 36
TOY = (
    *("model.name=toy:qwen2_5_vl", "model.dtype=float32", "model.device=cpu"),
    *(
        "data.video_root=null",
        "video={policy: uniform, num_frames: 8, workers: 1, cache: features}",
    ),
    *("generate.max_new_tokens=24", "judge.backend=local", "judge.model=toy:judge"),
    *("judge.base_url=null", "judge.scorer=caption_score", "train.learning_rate=5e-4"),
    *("train.epochs=1", "train.max_steps=2", "train.batch_size=4", "train.warmup_ratio=0"),
    *("train.gradient_accumulation=1", "train.logging_steps=1"),
    *("train.lora={rank: 8, alpha: 16}", "evaluate.max_new_tokens=24", "evaluate.require=[]"),
    *("evaluate.hallucination_scorer=null", "evaluate.pair_samples=2", "evaluate.bootstrap=50"),
    "tracking.to=none",
)
"""A policy, a judge and a size for a laptop, in place of a recipe's own; its data rule, loss and
rounds are left as they are.
"""
NUM_ROUNDS = {"iterative_dpo": 2, "temple": 4}
RECIPES = ("mdpo", "tpo", "temple", "opa_dpo", "avc_dpo", "iterative_dpo", "llava_hound_dpo")


@dataclass(frozen=True)
class Finished:
    """What a recipe said and left."""

    output: str
    folders: list[Path]
    """Its run folder, or those of its rounds."""

    def pairs(self) -> list[Pair]:
        return [row for folder in self.folders for row in read_jsonl(folder / "pairs.jsonl", Pair)]

    def candidates(self) -> dict[str, Candidate]:
        rows = (read_jsonl(folder / "candidates.jsonl", Candidate) for folder in self.folders)
        return {row.id: row for each in rows for row in each}

    def first_log(self) -> dict[str, float]:
        text = (self.folders[0] / "train_log.jsonl").read_text()
        row: dict[str, float] = json.loads(text.splitlines()[0])
        return row


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Finished]]:
    folder = tmp_path_factory.mktemp("recipes")
    samples = write_split("train", folder / "train", num_clips=NUM_QUESTIONS // 3, seed=1)
    heldout = write_split("heldout", folder / "heldout", num_clips=2, seed=1)
    runs = {}
    for name in RECIPES:
        settings = [f"runs_folder={folder}", "store=../store", f"data.samples={samples}"]
        if name == "iterative_dpo":
            settings.append(f"rounds.count={NUM_ROUNDS[name]}")
        with quiet_libraries():
            done = CliRunner().invoke(
                app,
                ["run", name, *TOY, *settings, f"data.heldout={heldout}"],
                catch_exceptions=False,
            )
        rounds = sorted((folder / name / "rounds").glob("*"))
        runs[name] = Finished(done.output, rounds or [folder / name])
    yield runs


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_after_a_paper_runs_to_a_verdict(finished: dict[str, Finished], name: str) -> None:
    run = finished[name]
    assert len(run.folders) == NUM_ROUNDS.get(name, 1)
    for folder in run.folders:
        assert sum(1 for _ in read_jsonl(folder / "pairs.jsonl", Pair)) > 0
        assert (folder / "adapter" / "adapter_model.safetensors").is_file()
        assert read_metrics(folder / "metrics.json").heldout.samples == 6
    for stage in ("generate", "judge", "pair", "train", "evaluate"):
        lines = [line for line in run.output.splitlines() if line.startswith(f"{stage}: ")]
        assert len(lines) >= len(run.folders), stage
    assert "- heldout:" in run.output


@pytest.mark.parametrize(
    ("name", "chosen", "rejected"),
    [
        ("tpo", {"whole"}, {"incomplete", "irrelevant"}),
        ("temple", {"clean"}, {"drop", "reverse", "shuffle"}),
        ("opa_dpo", {"corrected"}, {"plain"}),
        ("avc_dpo", {"temporal", "spatial"}, {"plain"}),
    ],
)
def test_pairs_across_samplers_have_chosen_of_one_side_and_rejected_of_the_other(
    finished: dict[str, Finished], name: str, chosen: set[str], rejected: set[str]
) -> None:
    run = finished[name]
    sampler = {row.id: row.sampler for row in run.candidates().values()}
    built = [pair for pair in run.pairs() if pair.source == "across"]
    assert built and {sampler[pair.chosen_id] for pair in built} <= chosen
    assert {sampler[pair.rejected_id] for pair in built} <= rejected
    assert all(pair.chosen_score >= 3 and pair.chosen_score > pair.rejected_score for pair in built)


def test_answers_of_opa_dpo_that_knew_more_are_marked_and_their_pairs_ask_the_plain_question(
    finished: dict[str, Finished],
) -> None:
    run = finished["opa_dpo"]
    marked = Counter((row.sampler, row.privileged) for row in run.candidates().values())
    assert marked == {("plain", None): 4 * NUM_QUESTIONS, ("corrected", True): 4 * NUM_QUESTIONS}
    assert not any("Known of the video" in pair.prompt for pair in run.pairs())


@pytest.mark.parametrize("name", ["mdpo", "opa_dpo", "iterative_dpo"])
def test_every_question_paired_has_its_chosen_answer_with_a_dropped_clip_too(
    finished: dict[str, Finished], name: str
) -> None:
    for folder in finished[name].folders:
        pairs = list(read_jsonl(folder / "pairs.jsonl", Pair))
        negatives = {pair.sample_id: pair for pair in pairs if pair.rejected_corruption}
        assert {pair.sample_id for pair in pairs} == set(negatives)
        assert all(pair.chosen == pair.rejected for pair in negatives.values())


def test_hound_pairs_have_a_good_and_a_bad_answer(finished: dict[str, Finished]) -> None:
    run = finished["llava_hound_dpo"]
    assert all(pair.chosen_score >= 3 > pair.rejected_score for pair in run.pairs())
    judged = [row for row in read_jsonl(run.folders[0] / "judgments.jsonl", Judgment)]
    assert len(judged) == 6 * NUM_QUESTIONS


def test_the_first_loss_is_that_of_the_terms_of_each_recipe(finished: dict[str, Finished]) -> None:
    """At the start the margin is 0: `sigmoid` is ln 2, and `bco_pair` twice that."""
    ln_2 = 0.693147
    for name in ("temple", "llava_hound_dpo"):
        assert finished[name].first_log()["loss"] == pytest.approx(ln_2, abs=1e-4)
    for name in ("mdpo", "opa_dpo"):
        assert finished[name].first_log()["loss"] == pytest.approx(3 * ln_2, abs=1e-4)
    for name, weight in (("tpo", 0.5), ("avc_dpo", 0.1), ("iterative_dpo", 0.1)):
        sft = (finished[name].first_log()["loss"] - ln_2) / weight
        assert 0.01 < sft < 5, "the chosen answers' mean token loss"


def test_rounds_of_temple_see_clips_that_are_changed_less_and_less(
    finished: dict[str, Finished],
) -> None:
    run = finished["temple"]
    magnitudes = [
        json.loads((folder / "manifest.json").read_text())["recipe"]["generate"]["magnitude"]
        for folder in run.folders
    ]
    assert magnitudes == [16, 8, 4, 2]
    numbers = [
        {
            int(row.id.partition("#")[2])
            for row in read_jsonl(folder / "candidates.jsonl", Candidate)
        }
        for folder in run.folders
    ]
    assert numbers == [set(range(4 * index, 4 * index + 4)) for index in range(4)]
