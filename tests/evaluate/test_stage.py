"""The evaluate stage with real tiny models, clips, adapter and HTTP; every number recomputed from
the answers.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from clips import write_clip
from judge_server import judge_server, steady_score
from peft import PeftModel, get_peft_model
from tiny_judge import random_judge, write_scorer
from tiny_models import tiny_policy
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Candidate, Sample
from dpo_video.evaluate.metrics import normalise_answer
from dpo_video.evaluate.stage import evaluate
from dpo_video.generate.jobs import GenerationJob
from dpo_video.generate.stage import make_candidates
from dpo_video.judge.prompt import render
from dpo_video.judge.scorer import load_scorer
from dpo_video.models.load import load_policy
from dpo_video.models.lora import lora_config
from dpo_video.models.prompts import prompt_text
from dpo_video.models.sampling import Sampler
from dpo_video.pipeline import do_stages
from dpo_video.recipe import JudgeSettings, LoraSettings, ModelSettings, Recipe
from dpo_video.run import Run, StageResult, open_run
from dpo_video.train.rewards import candidate_rewards
from dpo_video.video import read_frames, video_metadata

PAIRWISE = """\
description: Five steps between two answers, for tests.
mode: pairwise
labels: {"1": 1, "2": 0.75, "3": 0.5, "4": 0.25, "5": 0}
prompt: "{caption} {question} {answer_a} {answer_b}"
reply_prefix: "Score: "
verdict: "Score: {label}"
threshold: 0.5
examples: [{reply: "Score: 2", score: 0.75}]
"""
HELDOUT = [
    Sample(
        id=f"h{clip}-q{number}",
        video=f"h{clip}.mp4",
        prompt=prompt,
        caption="a dog runs to the left",
        answer="something else" if number else None,
    )
    for clip in range(3)
    for number, prompt in enumerate(["what happens ?", "describe the video"])
]
END_WEIGHT = 6.0
"""Scales the end of turn in the tiny model's tied head, so that some answers end before they are
cut.
"""
TRAIN = [Sample(id="t", video="t.mp4", prompt="what happens ?", caption="a cat")]


@pytest.fixture(scope="module")
def judge_url() -> Iterator[str]:
    """A judge that gives every prompt its own score, `steady_score(prompt)`."""
    with judge_server() as server:
        yield server.url


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, judge_url: str) -> Path:
    """Clips, a tiny policy with a random adapter that changes its answers, and the judge's
    address.
    """
    folder = tmp_path_factory.mktemp("world")
    for name in ("t", "h0", "h1", "h2"):
        write_clip(folder / f"{name}.mp4", 10)
    settings = ModelSettings(name=str(tiny_policy("qwen2_5_vl", folder / "policy")), device="cpu")
    policy = load_policy(settings)
    policy.bare.get_input_embeddings().weight[policy.end_id] *= END_WEIGHT
    policy.bare.save_pretrained(folder / "policy")
    model = get_peft_model(policy.bare, lora_config(LoraSettings(rank=4, alpha=32)))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder / "adapter")
    (folder / "judge_url").write_text(judge_url)
    return folder


def recipe_for(world: Path, folder: Path, **evaluation: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r",
            "runs_folder": str(folder),
            "tracking": {"to": "none"},
            "model": {"name": str(world / "policy"), "device": "cpu"},
            "data": {
                "samples": str(folder / "train.jsonl"),
                "heldout": str(folder / "heldout.jsonl"),
                "video_root": str(world),
                "max_bad_fraction": 0.5,
            },
            "video": {"num_frames": 4, "workers": 1},
            "generate": {"max_new_tokens": 6, "batch_size": 6},
            "judge": {
                "backend": "openai",
                "model": "steady",
                "base_url": (world / "judge_url").read_text(),
                "score_from": "verdict",
            },
            "pair": {"min_margin": 1},
            "evaluate": {
                "max_new_tokens": 6,
                "pair_samples": 4,
                "pair_candidates": 4,
                "bootstrap": 200,
                "hallucination_scorer": "hound_quality",
                **evaluation,
            },
        }
    )


@contextmanager
def opened(world: Path, folder: Path, heldout: list[Sample], **evaluation: Any) -> Iterator[Run]:
    write_jsonl(folder / "train.jsonl", TRAIN)
    write_jsonl(folder / "heldout.jsonl", heldout)
    with open_run(recipe_for(world, folder, **evaluation)) as run:
        adapter = run.folder / "adapter"
        if not adapter.exists():
            adapter.symlink_to(world / "adapter")
        yield run


def greedy_answers(run: Run, adapter: Path | None) -> dict[str, str]:
    made = make_candidates(
        run,
        GenerationJob(
            samples=run.heldout,
            root=run.heldout_root,
            num_candidates=1,
            adapter=adapter,
            sampler=Sampler(temperature=0, max_new_tokens=6),
        ),
    )
    return {candidate.sample_id: candidate.text for candidate in made.candidates}


def candidate_of(sample: Sample, number: int, text: str) -> Candidate:
    return Candidate(
        id=f"{sample.id}#{number}",
        sample_id=sample.id,
        text=text,
        model="m",
        settings="s",
        seed=number,
    )


def judge_score(sample: Sample, answer: str) -> int:
    """Return the score that the server gives an answer under hound_quality."""
    (message,) = render(
        load_scorer("hound_quality"),
        caption=sample.caption,
        question=sample.prompt,
        answer=answer,
        reference=sample.answer,
    )
    return steady_score(message["content"])


def test_the_stage_measures_both_models_on_the_same_questions_and_repeats_nothing(
    world: Path, tmp_path: Path
) -> None:
    """Gold answers are set to what the base model says to two questions and the tuned one to three
    others.
    """
    with opened(world, tmp_path, HELDOUT) as run:
        base, tuned = greedy_answers(run, None), greedy_answers(run, run.folder / "adapter")
    assert base.keys() == tuned.keys() and sum(base[name] != tuned[name] for name in base) >= 4
    gold = {
        name: base[name] if place < 2 else tuned[name] for place, name in enumerate(list(base)[:5])
    }
    heldout = [
        Sample(id=s.id, video=s.video, prompt=s.prompt, caption=s.caption, answer=gold.get(s.id))
        for s in HELDOUT
    ]
    with opened(world, tmp_path, heldout) as run:
        summary = evaluate(run).counts
        metrics = json.loads((run.folder / "metrics.json").read_text())
        stored = [list(run.store.rows(kind)) for kind in ("candidate", "judgment", "reference")]
        evaluate(run)
        again = json.loads((run.folder / "metrics.json").read_text())
        assert [
            list(run.store.rows(kind)) for kind in ("candidate", "judgment", "reference")
        ] == stored
    assert {**again, "seconds": metrics["seconds"]} == metrics

    scores: dict[str, list[int]] = {}
    for side, answers in (("before", base), ("after", tuned)):
        right = [
            normalise_answer(answers[name]) == normalise_answer(text) for name, text in gold.items()
        ]
        assert (
            metrics[side]["exact_match"] == pytest.approx(sum(right) / 5)
            and metrics[side]["exact_match_n"] == 5
        )
        assert metrics[side]["answer_length"] == pytest.approx(sum(map(len, answers.values())) / 6)
        low, high = metrics[side]["exact_match_ci"]
        assert 0 <= low <= metrics[side]["exact_match"] <= high <= 1
        scores[side] = [judge_score(sample, answers[sample.id]) for sample in heldout]
        assert metrics[side]["judged_score"] == pytest.approx(sum(scores[side]) / 6)
        assert metrics[side]["judged_score_unscored"] == 0
        assert metrics[side]["hallucination_rate"] == pytest.approx(
            sum(score < 3 for score in scores[side]) / 6
        )
    gaps = [after - before for before, after in zip(scores["before"], scores["after"], strict=True)]
    for name, change in (
        ("exact_match", metrics["after"]["exact_match"] - metrics["before"]["exact_match"]),
        ("judged_score", sum(gaps) / 6),
    ):
        assert metrics["change"][name] == pytest.approx(change)
    judged = metrics["judged"]
    assert [judged[name] for name in ("win", "tie", "loss", "unscored", "n", "tie_margin")] == [
        sum(gap >= 1 for gap in gaps),
        sum(gap == 0 for gap in gaps),
        sum(gap <= -1 for gap in gaps),
        0,
        6,
        1,
    ]
    assert judged["judge"] == "steady" and judged["scorer"].startswith("hound_quality@")
    assert metrics["heldout"] == {"samples": 6, "clips": 3, "unanswered": 0}
    pairs = metrics["heldout_pairs"]
    assert pairs["questions"]["in"] == 4 and pairs["answers"]["in"] == 16
    assert pairs["n"] == pairs["questions"]["out"] > 0
    assert metrics["seconds"]["evaluate"] > 0
    assert summary["failed"] == 0 and summary["questions"] == 6


def test_a_clip_that_cannot_be_read_leaves_its_questions_unanswered_and_counted(
    world: Path, tmp_path: Path
) -> None:
    broken = Sample(
        id="b", video="missing.mp4", prompt="what happens ?", caption="a dog", answer="x"
    )
    with opened(world, tmp_path, [*HELDOUT[:3], broken], pair_samples=0) as run:
        summary = evaluate(run).counts
        metrics = json.loads((run.folder / "metrics.json").read_text())
        assert list(run.bad_clips) == ["missing.mp4"]
    assert (
        metrics["heldout"] == {"samples": 4, "clips": 3, "unanswered": 1}
        and summary["unanswered"] == 1
    )
    assert metrics["before"]["n"] == metrics["judged"]["n"] == 3
    assert (
        metrics["heldout_pairs"]["n"] == 0 and metrics["heldout_pairs"]["reward_accuracy"] is None
    )


def test_exact_match_with_gold_sentences_stands_in_the_file_only_and_seconds_count_from_the_start(
    world: Path, tmp_path: Path
) -> None:
    """The driver begins a stage before torch is imported for it; so do the stage's own seconds."""
    gold = "A small brown dog runs quickly from the right to the left."
    heldout = [replace(sample, answer=gold) for sample in HELDOUT[:2]]
    with opened(world, tmp_path, heldout, pair_samples=0) as run:
        begun: list[float] = []

        def late(run: Run) -> StageResult:
            begun.append(run.stage_began)
            return evaluate(replace(run, stage_began=run.stage_began - 1000))

        do_stages(run, ["evaluate"], instead={"evaluate": late})
        metrics = json.loads((run.folder / "metrics.json").read_text())
        assert begun[0] > run.stage_began and metrics["seconds"]["evaluate"] > 1000
        counts = run.store.finished("evaluate")["summary"]  # type: ignore[index]
    assert metrics["exact_match_hidden"].startswith("the gold answers are sentences, of 12 words")
    assert metrics["before"]["exact_match"] == 0
    assert list(counts["before"]) == ["judged_score", "hallucination_rate", "answer_length"]


@contextmanager
def counted_loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Note every model whose weights are read, at the call that reads them, and every adapter."""
    loads: list[str] = []
    for loader in (AutoModelForImageTextToText, AutoModelForCausalLM, PeftModel):
        read = loader.from_pretrained

        def count(
            *arguments: Any, read: Any = read, name: str = loader.__name__, **rest: Any
        ) -> Any:
            loads.append(name)
            return read(*arguments, **rest)

        monkeypatch.setattr(loader, "from_pretrained", count)
    yield loads
    monkeypatch.undo()


def test_each_model_is_loaded_once_and_none_when_all_is_stored(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base answers and samples; the tuned one (base and adapter) answers and scores what was
    sampled, for whatever pairs the judge will make of it.
    """
    base, adapter = "AutoModelForImageTextToText", "PeftModel"
    with opened(world, tmp_path, HELDOUT) as run, counted_loads(monkeypatch) as loads:
        evaluate(run)
        assert loads == [base, base, adapter]
        first = (run.folder / "metrics.json").read_text()
        loads.clear()
        evaluate(run)
        assert loads == []
        again = json.loads((run.folder / "metrics.json").read_text())
        assert {**again, "seconds": 0} == {**json.loads(first), "seconds": 0}
        assert again["heldout_pairs"]["margin_n"] == again["heldout_pairs"]["n"] > 0
    other = opened(world, tmp_path, HELDOUT, pair_samples=6)
    with other as run, counted_loads(monkeypatch) as loads:
        evaluate(run)
        assert loads == [base, base, adapter], "two more samples to draw answers for and to score"
    rule = opened(world, tmp_path, HELDOUT, pair_samples=6)
    with rule as run, counted_loads(monkeypatch) as loads:
        pairing = run.recipe.pair.model_copy(update={"rule": "all_pairs"})
        evaluate(replace(run, recipe=run.recipe.model_copy(update={"pair": pairing})))
        assert loads == [], "other pairs of answers whose rewards are stored"


def test_a_local_judge_is_loaded_once_for_scores_ties_and_comparisons(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairwise = write_scorer(tmp_path, PAIRWISE, name="five")
    with opened(world, tmp_path, HELDOUT, pairwise_scorer=str(pairwise)) as run:
        judge = JudgeSettings(model=str(random_judge(tmp_path / "judge")), backend="local")
        pairing = run.recipe.pair.model_copy(
            update={"rule": "best_worst", "min_margin": 9.0, "tie_break": str(pairwise)}
        )
        recipe = run.recipe.model_copy(update={"judge": judge, "pair": pairing})
        with counted_loads(monkeypatch) as loads:
            evaluate(replace(run, recipe=recipe))
            assert loads.count("AutoModelForCausalLM") == 1


def test_rewards_of_answers_are_those_of_whole_forwards_on_the_processors_own_inputs(
    world: Path, tmp_path: Path
) -> None:
    """log p(answer | clip, question) from one plain forward per text, with pixels and no shared
    features.
    """
    texts = ("a man runs to the left", "pasta")
    answers = [
        (sample, candidate_of(sample, number, text))
        for sample in (HELDOUT[0], HELDOUT[2])
        for number, text in enumerate(texts)
    ]
    with opened(world, tmp_path, HELDOUT) as run:
        adapter = run.folder / "adapter"
        policy = load_policy(run.recipe.model, adapter=adapter)
        rewards = candidate_rewards(
            run, policy, answers, root=run.heldout_root, adapter=adapter, title="rewards"
        )
        video = run.recipe.video

    def logp(sample: Sample, answer: str) -> float:
        frames = read_frames(world / str(sample.video), video, multiple_of=2)
        prompt = prompt_text(policy.processor, sample.prompt)
        inputs = policy.processor(
            text=[prompt + answer + "<|im_end|>"],
            videos=[frames.pixels],
            return_tensors="pt",
            videos_kwargs={"video_metadata": [video_metadata(frames)], "do_sample_frames": False},
        )
        size = len(
            policy.processor.tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
        )
        with torch.no_grad():
            logits = policy.model(**inputs).logits[0, :-1].log_softmax(-1)
        chosen = logits.gather(1, inputs["input_ids"][0, 1:, None])[:, 0]
        return float(chosen[-size:].sum())

    for sample, candidate in answers:
        tuned = logp(sample, candidate.text)
        with policy.model.disable_adapter():
            base = logp(sample, candidate.text)
        assert rewards[candidate.id] == pytest.approx(0.1 * (tuned - base), abs=1e-4)
    for sample in (HELDOUT[0], HELDOUT[2]):
        assert abs(rewards[f"{sample.id}#0"] - rewards[f"{sample.id}#1"]) > 1e-3


def test_nothing_held_out_is_an_error_that_says_what_to_give(world: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", TRAIN)
    recipe = recipe_for(world, tmp_path)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"heldout": None})})
    with (
        open_run(recipe) as run,
        pytest.raises(UserError, match=r"nothing to evaluate on: data\.heldout is not set"),
    ):
        evaluate(run)


def test_a_pairwise_scorer_compares_before_with_after_in_both_orders(
    world: Path, tmp_path: Path
) -> None:
    """The expected preference of each question is recomputed from the server's rule for both
    prompts.
    """
    scorer = load_scorer(str(write_scorer(tmp_path, PAIRWISE, name="five")))

    def better(sample: Sample, first: str, second: str) -> float:
        (message,) = render(
            scorer, caption=sample.caption, question=sample.prompt, answer=first, other=second
        )
        return 1 - (steady_score(message["content"]) - 1) / 4

    with opened(world, tmp_path, HELDOUT, pairwise_scorer=str(scorer.path), pair_samples=0) as run:
        base, tuned = greedy_answers(run, None), greedy_answers(run, run.folder / "adapter")
        evaluate(run)
        found = json.loads((run.folder / "metrics.json").read_text())["compared"]
    orders = [
        (0.5, 0.5)
        if base[s.id] == tuned[s.id]
        else (better(s, tuned[s.id], base[s.id]), 1 - better(s, base[s.id], tuned[s.id]))
        for s in HELDOUT
    ]
    assert found["scorer"] == scorer.version
    assert found["n"] == len(HELDOUT) == found["win"] + found["tie"] + found["loss"]
    assert found["win"] == sum(min(pair) > 0.5 for pair in orders)
    assert found["loss"] == sum(max(pair) < 0.5 for pair in orders)
    assert found["better_probability"] == pytest.approx(sum(map(sum, orders)) / 2 / len(orders))
