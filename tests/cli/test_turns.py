"""A whole run whose questions go on from earlier turns: sampled, judged, paired, trained, evaluated
and shown with them.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, judge_server
from plain_forwards import plain_answer_logp
from typer.testing import CliRunner

from dpo_video.cli.app import app
from dpo_video.core.jsonl import read_jsonl, write_jsonl
from dpo_video.core.records import Candidate, EarlierTurn, Pair, Sample
from dpo_video.evaluate.answer_rows import read_evaluated
from dpo_video.formats.import_file import ImportOptions, import_file
from dpo_video.judge.prompt import BEFORE
from dpo_video.models.load import load_policy
from dpo_video.recipe.file import load_recipe
from dpo_video.toy.clips import write_split


def behind_turns(samples: list[Sample]) -> list[Sample]:
    """Return the last two questions of each clip, behind the clip's first, answered rightly."""
    first = {}
    asked = []
    for sample in samples:
        if sample.video not in first:
            first[sample.video] = EarlierTurn(question=sample.prompt, answer=str(sample.answer))
        else:
            asked.append(replace(sample, history=(first[sample.video],)))
    return asked


@pytest.fixture(scope="module")
def judge() -> Iterator[JudgeServer]:
    with judge_server() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, judge: JudgeServer) -> Path:
    """A finished run `r`, and `rows`, the same with every row by itself."""
    folder = tmp_path_factory.mktemp("turns")
    for split, count in (("train", 3), ("heldout", 2)):
        write_split(split, folder / split, num_clips=count, seed=1)  # type: ignore[arg-type]
        path = folder / split / "samples.jsonl"
        samples = behind_turns(list(read_jsonl(path, Sample)))
        if split == "heldout":
            samples[0] = replace(samples[0], answer_kind="yes_no", answer="yes")
        write_jsonl(path, samples)
    recipe = write_recipe(folder, judge.url)
    call("run", recipe)
    call("run", recipe, "name=rows", "train.share_prefix=false")
    return folder


def write_recipe(folder: Path, url: str) -> Path:
    settings: dict[str, Any] = {
        "name": "r",
        "runs_folder": str(folder / "runs"),
        "model": {"name": "toy:qwen2_5_vl", "device": "cpu"},
        "data": {
            "samples": str(folder / "train" / "samples.jsonl"),
            "heldout": str(folder / "heldout" / "samples.jsonl"),
        },
        "video": {"num_frames": 4, "workers": 1},
        "generate": {"num_candidates": 4, "top_p": 1.0, "max_new_tokens": 24, "batch_size": 16},
        "judge": {"backend": "openai", "model": "m", "base_url": url, "score_from": "verdict"},
        "pair": {"min_margin": 1.0},
        "train": {
            "batch_size": 2,
            "gradient_accumulation": 1,
            "epochs": 2,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "lora": {"rank": 4, "alpha": 8},
        },
        "evaluate": {
            "max_new_tokens": 24,
            "hallucination_scorer": None,
            "choice": "likelihood",
            "pair_samples": 2,
            "pair_candidates": 2,
            "bootstrap": 50,
        },
        "tracking": {"to": "none"},
    }
    path = folder / "r.yaml"
    path.write_text(json.dumps(settings))
    return path


def call(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None:
        raise done.exception
    return done.output


def test_the_judge_reads_the_turns_fenced_and_is_asked_about_the_last_answer_alone(
    folder: Path, judge: JudgeServer
) -> None:
    samples = list(read_jsonl(folder / "train" / "samples.jsonl", Sample))
    candidates = list(read_jsonl(folder / "runs" / "r" / "candidates.jsonl", Candidate))
    assert {candidate.sample_id for candidate in candidates} == {row.id for row in samples}
    prompts = set(judge.prompts)
    for sample in samples:
        (turn,) = sample.history or ()
        shown = (
            f"{BEFORE}\n| Question: {turn.question}\n| Answer: {turn.answer}\n"
            f"The question is: {sample.prompt}\n"
        )
        about = [prompt for prompt in prompts if shown in prompt]
        texts = {row.text for row in candidates if row.sample_id == sample.id}
        judged = {
            "\n".join(line[2:] for line in prompt.splitlines() if line.startswith("> "))
            for prompt in about
        }
        assert judged == {text for text in texts if text}


def test_pairs_keep_the_turns_and_training_is_that_of_plain_rows(folder: Path) -> None:
    samples = {row.id: row for row in read_jsonl(folder / "train" / "samples.jsonl", Sample)}
    pairs = list(read_jsonl(folder / "runs" / "r" / "pairs.jsonl", Pair))
    assert pairs
    assert all(pair.history == samples[pair.sample_id].history for pair in pairs)
    logs = [
        [json.loads(line) for line in (folder / "runs" / name / "train_log.jsonl").open()]
        for name in ("r", "rows")
    ]
    losses = [[row["loss"] for row in log if "loss" in row] for log in logs]
    assert len(losses[0]) == len(losses[1]) >= 2
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_evaluation_answers_behind_the_turns_and_weighs_choices_there(folder: Path) -> None:
    heldout = list(read_jsonl(folder / "heldout" / "samples.jsonl", Sample))
    answers = read_evaluated(folder / "runs" / "r" / "answers.jsonl")
    assert {answer.sample_id for answer in answers} == {sample.id for sample in heldout}
    history = {sample.id: sample.history for sample in heldout}
    assert all(answer.history == history[answer.sample_id] for answer in answers)
    (before, *_) = (answer for answer in answers if answer.choice_logps)
    assert before.model == "before" and before.choice_logps is not None
    recipe = load_recipe(str(folder / "r.yaml"))
    policy = load_policy(recipe.model)
    for choice, logp in before.choice_logps.items():
        plain = plain_answer_logp(
            policy,
            recipe,
            folder / "heldout" / str(heldout[0].video),
            question=before.prompt,
            answer=choice,
            is_cut=True,
            history=heldout[0].history,
        )
        assert logp == pytest.approx(plain, abs=1e-4)


def test_what_is_shown_and_taken_out_has_the_turns(folder: Path, tmp_path: Path) -> None:
    run = folder / "runs" / "r"
    pair = next(read_jsonl(run / "pairs.jsonl", Pair))
    (turn,) = pair.history or ()
    call("report", run)
    page = (run / "report" / "report.html").read_text()
    assert f'"before": [{json.dumps({"question": turn.question, "answer": turn.answer})}]' in page
    call("export", "ms_swift", run, "--out", tmp_path / "out.jsonl")
    import_file("ms_swift", str(tmp_path / "out.jsonl"), tmp_path / "again.jsonl", ImportOptions())
    again = next(read_jsonl(tmp_path / "again.jsonl", Pair))
    assert (again.history, again.prompt, again.chosen) == (pair.history, pair.prompt, pair.chosen)


def test_another_turn_makes_everything_anew_and_the_same_turns_nothing(
    folder: Path, judge: JudgeServer
) -> None:
    recipe = folder / "r.yaml"
    num_asked = len(judge.requests)
    again = call("generate", recipe)
    assert "finished before, nothing to do" in again
    path = folder / "train" / "samples.jsonl"
    whole = path.read_bytes()
    samples = list(read_jsonl(path, Sample))
    (turn,) = samples[0].history or ()
    changed = replace(samples[0], history=(replace(turn, answer="I cannot tell."),))
    try:
        write_jsonl(path, [changed, *samples[1:]])
        said = call("generate", recipe, "name=changed")
        assert "candidates" in said
        call("judge", recipe, "name=changed")
    finally:
        path.write_bytes(whole)
    texts = {prompt for prompt in judge.prompts[num_asked:] if "| Answer: I cannot tell." in prompt}
    assert texts, "the judge read the changed turn"
