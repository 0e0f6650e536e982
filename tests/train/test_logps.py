"""answer_logps equals separate forwards; a model that sees its clip is told from one that does
not.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tiny_world import ANSWERS, KINDS, make_recipe, make_world
from torch import nn

from dpo_video.family.blindness import shuffled_video_changes_logps
from dpo_video.models.collate import TokenRow
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import adapter_parameters, lora_config
from dpo_video.models.prompts import prompt_text
from dpo_video.recipe import Recipe
from dpo_video.train.logps import answer_logps, clip_rows
from dpo_video.video import Frames, video_metadata
from dpo_video.video.read import read_frames


@pytest.fixture(scope="module", params=KINDS)
def setting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Policy, Recipe, Path]:
    """A policy with an adapter that changes it, its recipe, and the folder of its clips."""
    world = make_world(tmp_path_factory.mktemp("world"), request.param)
    recipe = make_recipe(world)
    policy = load_policy(recipe.model)
    model = get_peft_model(policy.model, lora_config(recipe.train.lora, policy.family))
    torch.manual_seed(0)
    for name, parameter in adapter_parameters(model):
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(world / "adapter")
    return load_policy(recipe.model, adapter=world / "adapter"), recipe, world


def clip(setting: tuple[Policy, Recipe, Path], number: int) -> Frames:
    policy, recipe, world = setting
    return read_frames(
        world / f"c{number}.mp4", recipe.video, multiple_of=policy.family.frames_per_step
    )


@torch.no_grad()
def slow_logp(policy: Policy, frames: Frames, question: str, answer: str) -> float:
    """Sum the log-probs of an answer from the logits of one forward through pixels."""
    processor = policy.processor
    answer += processor.tokenizer.eos_token
    inputs: dict[str, Any] = dict(
        processor(
            text=[prompt_text(processor, question) + answer],
            videos=[frames.pixels],
            return_tensors="pt",
            videos_kwargs={"video_metadata": [video_metadata(frames)], "do_sample_frames": False},
        )
    )
    count = len(processor.tokenizer(answer, add_special_tokens=False)["input_ids"])
    logps = policy.model(**inputs).logits[0, -count - 1 : -1].log_softmax(-1)
    return float(logps.gather(1, inputs["input_ids"][0, -count:, None]).sum())


def test_batched_logps_equal_forwards_through_pixels_one_by_one(
    setting: tuple[Policy, Recipe, Path],
) -> None:
    """Three clips of different lengths, five answers of different lengths each, in batches of 4;
    adapter on and off.
    """
    policy, recipe, _ = setting
    rows: list[TokenRow] = []
    wanted, wanted_off = [], []
    for number in range(3):
        frames = clip(setting, number)
        rows += clip_rows(policy, frames, recipe.video, question="what happens ?", answers=ANSWERS)
        wanted += [slow_logp(policy, frames, "what happens ?", answer) for answer in ANSWERS]
        with policy.model.disable_adapter():  # type: ignore[operator]
            wanted_off += [
                slow_logp(policy, frames, "what happens ?", answer) for answer in ANSWERS
            ]
    assert answer_logps(policy, rows) == pytest.approx(wanted, abs=1e-3, rel=1e-5)
    assert answer_logps(policy, rows, adapter=False) == pytest.approx(
        wanted_off, abs=1e-3, rel=1e-5
    )
    assert max(abs(on - off) for on, off in zip(wanted, wanted_off, strict=True)) > 0.1


def test_shuffling_or_blanking_the_clip_changes_log_probs(
    setting: tuple[Policy, Recipe, Path],
) -> None:
    """LLaVA-NeXT-Video and Qwen2.5-VL both place frames in order, so both must notice another
    order.
    """
    policy, recipe, _ = setting
    found = shuffled_video_changes_logps(
        policy, clip(setting, 2), recipe.video, question="what happens ?", answers=ANSWERS
    )
    assert found.shuffled > 1e-3 and found.blanked > 1e-2


def test_a_policy_whose_tower_gives_nothing_is_found_blind(
    setting: tuple[Policy, Recipe, Path],
) -> None:
    policy, recipe, _ = setting
    blind = load_policy(recipe.model)
    projector = (
        blind.bare.model.visual.merger.mlp[2]
        if policy.family.name == "qwen2_5_vl"
        else blind.bare.model.multi_modal_projector.linear_2
    )
    with torch.no_grad():
        projector.weight.zero_()
        projector.bias.zero_()
    found = shuffled_video_changes_logps(
        blind, clip(setting, 2), recipe.video, question="what happens ?", answers=ANSWERS
    )
    assert found.shuffled == found.blanked == 0.0
