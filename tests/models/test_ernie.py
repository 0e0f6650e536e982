"""ERNIE 4.5 VL: which experts a token goes to, the times in its frames, and the rule of its
positions.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from family_cases import CLIPS, family_settings, plain_policy, processor_outputs, tuned_family
from policies import make_frames, make_row
from torch import Tensor
from trees import rows_of, run_engine

from dpo_video.models.load import load_policy
from dpo_video.models.prompts import encode_prompt, video_inputs
from dpo_video.recipe import VideoSettings
from dpo_video.train.shared_prefix import choose_engine

FAMILY = "ernie4_5_vl_moe"


def test_the_tokens_of_vision_are_those_of_the_processor() -> None:
    """Without being told, the model would send a clip's tokens to the experts of text."""
    policy = plain_policy(FAMILY)
    inputs = dict(processor_outputs(policy, CLIPS[0]))
    told = inputs.pop("moe_mm_token_type_ids")[0]
    seen: list[Tensor] = []
    layer = policy.bare.model.language_model.layers[0]
    hook = layer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["moe_mm_token_type_ids"][0]), with_kwargs=True
    )
    try:
        with torch.no_grad():
            policy.bare(**inputs)
    finally:
        hook.remove()
    placeholders = inputs["input_ids"][0] == policy.family.placeholder(policy.bare.config)
    assert torch.equal(seen[0].bool(), told.bool())
    assert int(told.bool().sum()) == int(placeholders.sum()) + 2, "with the marks around a clip"


def test_each_token_of_a_clip_goes_once_through_the_experts_of_vision_in_a_tree() -> None:
    policy = tuned_family(FAMILY)
    rows = rows_of(
        policy, ({"count": 4, "height": 56, "width": 56}, {"what ?": ["no", "yes"], "who ?": ["a"]})
    )
    sizes: dict[str, list[int]] = {"text": [], "vision": []}
    block = policy.bare.model.language_model.layers[0].mlp
    hooks = [
        getattr(block, f"{name}_moe").gate.register_forward_pre_hook(
            lambda _, inputs, name=name: sizes[name].append(len(inputs[0]))
        )
        for name in sizes
    ]
    try:
        run_engine(policy, choose_engine(policy), rows)
    finally:
        for hook in hooks:
            hook.remove()
    assert sizes["vision"] == [len(rows[0].features.embeddings) + 2]
    assert sum(sizes["text"]) > 0


def test_a_frames_time_is_drawn_into_it() -> None:
    """The same pixels a minute later are other features; where nothing is drawn they are not."""
    policy = load_policy(family_settings(FAMILY))
    frames = make_frames(2, height=112, width=112)
    later = replace(frames, times=frames.times + 60)
    for draws in (True, False):
        policy.processor.video_processor.draw_on_frames = draws
        here, there = (
            video_inputs(policy, clip, VideoSettings()).pixels["pixel_values_videos"]
            for clip in (frames, later)
        )
        assert torch.equal(here, there) == (not draws)
    assert np.array_equal(frames.pixels, make_frames(2, height=112, width=112).pixels)


@pytest.mark.parametrize("rule", ["checkpoint", "transformers"])
def test_text_stands_above_the_last_step_of_a_long_clip(rule: str) -> None:
    """12 steps of 2 x 2 tokens: from the clip's begin the text starts 12 later, as the authors'
    code counts, or 2 later, as transformers 5.24 does.
    """
    policy = load_policy(family_settings(FAMILY, positions=rule))
    clip = video_inputs(policy, make_frames(24, height=56, width=56), VideoSettings())
    prompt = encode_prompt(policy, "what ?", clip)
    holes = (prompt.input_ids == policy.family.placeholder(policy.bare.config)).nonzero().flatten()
    first, last = int(holes[0]), int(holes[-1])
    assert last - first + 1 == 48
    time, height, width = prompt.positions
    start = int(time[first])
    assert time[first : last + 1].tolist() == [start + step for step in range(12) for _ in range(4)]
    assert (height[first : first + 4] - start).tolist() == [0, 0, 1, 1]
    assert (width[first : first + 4] - start).tolist() == [0, 1, 0, 1]
    assert prompt.positions[:, last + 1].tolist() == [start + {"checkpoint": 12}.get(rule, 2)] * 3


def test_a_short_clip_has_the_same_positions_under_both_rules() -> None:
    rows = [
        make_row(
            load_policy(family_settings(FAMILY, positions=rule)),
            make_frames(2, height=56, width=112),
        )
        for rule in ("checkpoint", "transformers")
    ]
    assert torch.equal(rows[0].prompt.positions, rows[1].prompt.positions)
