"""Training on pairs whose rejected answer goes with another clip: the same numbers as rows run one
by one.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from negatives import with_negatives
from tiny_world import adapter_weights, made_trainer, make_recipe
from torch import Tensor, nn
from training import train_here

from dpo_video.core.records import Pair
from dpo_video.models.load import Policy
from dpo_video.models.lora import adapter_parameters
from dpo_video.models.prompts import prompt_text
from dpo_video.recipe import Recipe
from dpo_video.train.forward import Engine, rows_engine
from dpo_video.train.shared_prefix import shared_prefix_engine
from dpo_video.video import corrupt, rejected_part, video_metadata
from dpo_video.video.read import read_frames


def slow_logps(
    model: nn.Module, policy: Policy, world: Path, recipe: Recipe, pair: Pair
) -> list[Tensor]:
    """Return per-token log-probs of chosen and rejected answer, nats: the processor's own inputs,
    row by row.
    """
    found = []
    for answer, (video, start, end), corruption in (
        (pair.chosen, (pair.video, pair.start, pair.end), None),
        (pair.rejected, rejected_part(pair), pair.rejected_corruption),
    ):
        frames = read_frames(
            world / str(video),
            recipe.video,
            start=start,
            end=end,
            multiple_of=policy.family.frames_per_step,
        )
        if corruption is not None:
            frames = corrupt(frames, corruption, str(video))
        tokenizer = policy.processor.tokenizer
        answer += tokenizer.eos_token
        inputs = policy.processor(
            text=[prompt_text(policy.processor, pair.prompt) + answer],
            videos=[frames.pixels],
            return_tensors="pt",
            videos_kwargs={"video_metadata": [video_metadata(frames)], "do_sample_frames": False},
        )
        answered = len(tokenizer(answer, add_special_tokens=False)["input_ids"])
        logits = model(**inputs).logits[0, -answered - 1 : -1]
        found.append(
            logits.log_softmax(-1).gather(1, inputs["input_ids"][0, -answered:, None])[:, 0]
        )
    return found


@pytest.mark.parametrize("engine", [rows_engine, shared_prefix_engine])
def test_log_probs_equal_those_of_plain_forwards_of_each_row(world: Path, engine: Engine) -> None:
    pairs = with_negatives(4)
    recipe = make_recipe(world, batch_size=len(pairs))
    seen: list[Tensor] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        output = engine(*args, **kwargs)
        seen.append(output.log_probs)
        return output

    with made_trainer(world, recipe, pairs, engine=watched) as (trainer, _):
        model, policy = trainer.model, trainer._policy
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            for name, parameter in adapter_parameters(model):
                if "lora_B" in name:
                    nn.init.normal_(parameter, std=0.1)
        places = next(iter(trainer.order))
        batch = trainer._read(places)
        assert batch is not None and len(batch.pairs) == len(pairs)
        scored = trainer._encode(batch)["completion_mask"][:, 1:].bool()
        model.train()
        trainer._started = True
        with torch.no_grad():
            trainer.compute_loss(model, {"pairs": batch})
            margins = trainer._metrics["train"]["rewards/margins"][-1]
            own = [slow_logps(model, policy, world, recipe, pairs[place]) for place in places]
            with model.disable_adapter():
                base = [slow_logps(model, policy, world, recipe, pairs[place]) for place in places]
    assert len(seen) == 2
    for got, slow in zip(seen, (base, own), strict=True):
        rows = [chosen for chosen, _ in slow] + [rejected for _, rejected in slow]
        for row, keep, expected in zip(got, scored, rows, strict=True):
            torch.testing.assert_close(row[keep], expected, atol=1e-5, rtol=0)
    gaps = [
        (chosen.sum() - before.sum()) - (rejected.sum() - other.sum())
        for (chosen, rejected), (before, other) in zip(own, base, strict=True)
    ]
    assert margins == pytest.approx(float(recipe.train.beta * torch.stack(gaps).mean()), abs=1e-5)
    negatives = [
        float(gap.abs())
        for gap, place in zip(gaps, places, strict=True)
        if pairs[place].chosen_id == pairs[place].rejected_id
    ]
    assert len(negatives) == 16 and min(negatives) > 1e-3, (
        "the clips make no difference: the comparison is empty"
    )


def test_a_run_starts_at_margin_zero_learns_and_is_the_same_through_both_engines(
    world: Path,
) -> None:
    pairs = with_negatives()
    logs, weights = [], []
    for name, share in (("shared", True), ("rows", False)):
        recipe = make_recipe(
            world,
            name=name,
            share_prefix=share,
            batch_size=4,
            gradient_accumulation=1,
            epochs=2,
            save_steps=100,
        )
        summary, run = train_here(recipe, world, pairs)
        assert (summary["trained"], summary["dropped"], summary["clips"]) == (15, {}, 3 + 9)
        assert run.bad_clips == {}
        logs.append(
            [json.loads(line) for line in (run.folder / "train_log.jsonl").read_text().splitlines()]
        )
        weights.append(adapter_weights(run.folder / "adapter"))
    for row, other in zip(*logs, strict=True):
        for key in ("loss", "rewards/margins", "logps/rejected", "grad_norm"):
            if key in row:
                assert row[key] == pytest.approx(other[key], abs=1e-4, rel=1e-4), key
    assert all(log[0]["rewards/margins"] == log[0]["rewards/rejected"] == 0.0 for log in logs)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=1e-4, rtol=0)
    assert any(
        float(weight.abs().max()) > 1e-3 for name, weight in weights[0].items() if "lora_B" in name
    )


def test_negatives_alone_teach_a_margin_and_a_cut_by_tokens_changes_nothing(qwen: Path) -> None:
    """Only clips tell the rows of a pair apart here."""
    pairs = [pair for pair in with_negatives() if pair.chosen_id == pair.rejected_id]
    weights = []
    for name, budget in (("whole", None), ("cut", 250)):
        recipe = make_recipe(
            qwen,
            name=name,
            batch_size=6,
            gradient_accumulation=1,
            epochs=4,
            save_steps=100,
            learning_rate=1e-2,
            tokens_per_batch=budget,
        )
        summary, run = train_here(recipe, qwen, pairs)
        assert summary["first"]["rewards/margins"] == pytest.approx(0.0, abs=1e-6)
        assert summary["last"]["rewards/margins"] > 1e-2
        weights.append(adapter_weights(run.folder / "adapter"))
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=1e-4, rtol=0)
