"""Runs of the evaluate stage: a recipe, held-out samples, and what each model answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from clips import write_clip
from judge_server import steady_score
from peft import PeftModel, get_peft_model
from tiny_models import tiny_policy
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from dpo_video.core.jsonl import write_jsonl
from dpo_video.core.records import Candidate, Sample
from dpo_video.generate.jobs import GenerationJob
from dpo_video.generate.stage import make_candidates
from dpo_video.judge.prompt import render
from dpo_video.judge.scorer import load_scorer
from dpo_video.models.load import load_policy
from dpo_video.models.lora import lora_config
from dpo_video.models.sampling import Sampler
from dpo_video.recipe import LoraSettings, ModelSettings, Recipe
from dpo_video.run import Run, open_run

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


TRAIN = [Sample(id="t", video="t.mp4", prompt="what happens ?", caption="a cat")]


END_WEIGHT = 6.0
"""Scales the end of turn in the tiny model's tied head, so that some answers end before they are
cut.
"""


def make_evaluation_world(folder: Path, judge_url: str) -> Path:
    """Clips, a tiny policy with a random adapter that changes its answers, and the judge's
    address.
    """
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
