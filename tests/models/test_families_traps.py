"""What went silently wrong in some family once, each pinned so that it cannot come back."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from family_cases import (
    CLIPS,
    TOLERANCE,
    clip_of_rows,
    family_rows,
    plain_policy,
    row_logits,
    tuned_family,
)
from policies import make_frames, make_row
from tiny_families.grids import glm4v, glm46v
from tiny_models import write_tiny
from transformers import PreTrainedModel, ProcessorMixin
from trees import answer_part, rows_of, run_engine

from dpo_video.core.errors import UserError
from dpo_video.family import checks
from dpo_video.family.run import Check, check_name
from dpo_video.family.subject import Subject
from dpo_video.models.collate import TokenRow, collate
from dpo_video.models.families import FAMILIES, ClipFeatures
from dpo_video.models.generation import generate_answers
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.positions import TEXT, VIDEO
from dpo_video.models.prompts import (
    answer_ids,
    encode_prompt,
    process_frames,
    prompt_text,
    video_inputs,
)
from dpo_video.models.sampling import Sampler
from dpo_video.models.tokens import frame_size, video_tokens
from dpo_video.recipe import ModelSettings, VideoSettings
from dpo_video.train.shared_prefix import shared_prefix_engine
from dpo_video.video import Frames

LONG = {"count": 24, "height": 56, "width": 56}
"""12 steps of 2 frames over a grid of at most 4 x 4: longer in time than in space."""
BOUNDED = [name for name, row in FAMILIES.items() if row.per_clip_bounds]


def parts(policy: Policy, frames: Frames) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the positions (3, video tokens) of a clip, and those of the text after it."""
    prompt = encode_prompt(policy, "what ?", video_inputs(policy, frames, VideoSettings()))
    assert prompt.token_types is not None
    video = prompt.token_types == VIDEO
    last = int(video.nonzero().max())
    return prompt.positions[:, video], prompt.positions[:, last + 1 :]


def test_qwen2_vl_counts_steps_and_puts_text_above_all_of_a_clip() -> None:
    """Published rule: step t stands at start + t on the time axis, and text starts one above the
    largest position.
    """
    policy = plain_policy("qwen2_vl")
    video, text = parts(policy, make_frames(**LONG))
    assert (video[0].unique() - video[0, 0]).tolist() == list(range(12))
    assert int(video[1].max() - video[0, 0]) < 11, "the clip is longer in time than in space"
    assert text.tolist() == [[int(video.max()) + 1 + place for place in range(text.shape[1])]] * 3


def test_the_two_rules_of_qwen2_vl_differ_on_a_long_clip_and_agree_on_a_short_one() -> None:
    ours = plain_policy("qwen2_vl")
    theirs = load_policy(ours.settings.model_copy(update={"positions": "transformers"}))
    for frames, same in ((make_frames(**LONG), False), (make_frames(4, height=56, width=56), True)):
        (video, text), (other_video, other_text) = parts(ours, frames), parts(theirs, frames)
        assert torch.equal(video, other_video)
        assert torch.equal(text, other_text) == same


@pytest.mark.parametrize(("family", "told"), [("qwen2_5_vl", True), ("qwen2_vl", False)])
def test_seconds_between_frames_reach_the_positions_of_qwen2_5_vl_only(
    family: str, told: bool
) -> None:
    near, far = (
        parts(plain_policy(family), make_frames(8, seconds_apart=seconds))[0]
        for seconds in (1.0, 3.0)
    )
    assert torch.equal(near[1:], far[1:])
    assert torch.equal(near[0], far[0]) != told


def test_qwen3_vl_prompts_have_one_outer_pair_of_marks_and_a_stamped_pair_a_step() -> None:
    """The form of transformers >= 5.10 and of vLLM with it; before, the outer pair was missing."""
    policy = plain_policy("qwen3_vl")
    prompt = encode_prompt(
        policy, "what ?", video_inputs(policy, make_frames(6, seconds_apart=2.0), VideoSettings())
    )
    text = re.sub(r"(<\|video_pad\|>)+", "V", policy.processor.tokenizer.decode(prompt.input_ids))
    step = "<{} seconds><|vision_start|>V<|vision_end|>"
    assert (
        "user\n<|vision_start|>"
        + "".join(step.format(time) for time in ("1.0", "5.0", "9.0"))
        + ("<|vision_end|>what ?")
        in text
    )


def test_qwen3_vl_gives_each_step_a_grid_of_its_own() -> None:
    """All tokens of a step share one time, and stand one further than its stamp's last token."""
    prompt = family_rows("qwen3_vl")[0][0].prompt
    assert prompt.token_types is not None
    times = prompt.positions[0]
    groups = torch.tensor_split(
        torch.arange(len(times)), (prompt.token_types.diff() != 0).nonzero()[:, 0] + 1
    )
    steps = [group for group in groups if int(prompt.token_types[group[0]]) == VIDEO]
    assert len(steps) == CLIPS[0].count // 2
    for step in steps:
        assert len(times[step].unique()) == 1
        assert int(times[step[0]]) == int(times[step[0] - 1]) + 1
    assert int(prompt.token_types[-1]) == TEXT


def test_qwen3_vl_is_wrong_without_the_features_of_its_early_layers() -> None:
    policy, row = plain_policy("qwen3_vl"), family_rows("qwen3_vl")[0][0]
    assert row.features.layers
    blind = ClipFeatures(
        row.features.embeddings, tuple(torch.zeros_like(layer) for layer in row.features.layers)
    )
    without = TokenRow(prompt=row.prompt, clip=row.clip, features=blind, answer=row.answer)
    assert (row_logits(policy, without) - row_logits(policy, row)).abs().max() > 1e-2


def test_glm4v_puts_image_tokens_where_a_video_is_and_cuts_stamps_to_seconds() -> None:
    policy = plain_policy("glm4v")
    frames = make_frames(6, seconds_apart=0.7)  # steps begin at 0.0, 1.4 and 2.8 s
    prompt = encode_prompt(policy, "what ?", video_inputs(policy, frames, VideoSettings()))
    text = re.sub(r"(<\|image\|>)+", "V", policy.processor.tokenizer.decode(prompt.input_ids))
    steps = "".join(f"<|begin_of_image|>V<|end_of_image|>{second}" for second in (0, 1, 2))
    assert f"<|begin_of_video|>{steps}<|end_of_video|>what ?" in text
    assert prompt.token_types is not None
    assert torch.equal(
        prompt.token_types == VIDEO, prompt.input_ids == policy.processor.image_token_id
    )


def test_glm4v_ends_an_answer_as_its_template_goes_on_after_one() -> None:
    policy = plain_policy("glm4v")
    turns = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", "what ?"), ("assistant", "yes"), ("user", "why ?"))
    ]
    text = policy.processor.apply_chat_template(turns, tokenize=False)
    end = policy.processor.tokenizer.decode(answer_ids(policy, "yes")[-1:])
    assert text.partition("yes")[2].startswith(end) and end != policy.processor.tokenizer.eos_token
    assert answer_ids(policy, "yes", ended=False) == answer_ids(policy, "yes")[:-1]
    without = replace(policy, processor=plain_policy("qwen2_5_vl").processor)
    assert without.end_id == without.processor.tokenizer.eos_token_id, (
        "that tokenizer has no such token"
    )


def still_then_moving() -> Frames:
    """Return 6 frames, the first 4 of them equal."""
    frames = make_frames(6, height=56, width=112)
    pixels = np.concatenate([np.repeat(frames.pixels[:1], 4, axis=0), frames.pixels[4:]])
    return replace(frames, pixels=pixels)


def test_video_llama_3_drops_the_tokens_of_still_frames_and_answers_as_with_pixels() -> None:
    """One token of each still frame is kept; prompt and features hold what is left, also for
    several answers.
    """
    policy = plain_policy("video_llama_3")
    moving = make_row(policy, make_frames(6, height=56, width=112), answer="yes")
    row = make_row(policy, still_then_moving(), answer="yes")
    each = len(moving.features.embeddings) // 6
    assert len(row.features.embeddings) == 3 * each + 3
    text = (
        prompt_text(policy.processor, "what happens ?")
        + "yes"
        + policy.processor.tokenizer.eos_token
    )
    out = process_frames(policy.family, policy.processor, text, still_then_moving(), {})
    inputs = {
        name: value if isinstance(value, torch.Tensor) else torch.tensor(value)
        for name, value in out.items()
        if name != "text_replacement_offsets"
    }
    with torch.no_grad():
        stock = policy.bare(**inputs).logits[0]
    torch.testing.assert_close(row_logits(policy, row), stock, atol=TOLERANCE, rtol=0)
    asked = [
        TokenRow(prompt=each.prompt, clip=each.clip, features=each.features)
        for each in (row, moving)
    ]
    answers = generate_answers(
        policy, asked, seeds=[[1, 2, 3], [4]], sampler=Sampler(temperature=1.0, max_new_tokens=4)
    )
    assert [len(made) for made in answers] == [3, 1]


def test_video_llama_3_counts_what_a_moving_clip_takes() -> None:
    policy = plain_policy("video_llama_3")
    counted = video_tokens(policy.spec, VideoSettings(), num_frames=6, height=56, width=112)
    assert FAMILIES["video_llama_3"].compresses
    assert counted > len(make_row(policy, still_then_moving()).features.embeddings)


def test_molmo2_lets_the_first_frame_see_the_last_and_no_text_see_the_future() -> None:
    policy, clip = plain_policy("molmo2"), CLIPS[0]
    row = clip_of_rows(policy, clip)[0]
    frames = clip.frames()
    last = np.concatenate([frames.pixels[:-1], 255 - frames.pixels[-1:]])
    other = make_row(policy, replace(frames, pixels=last), clip.question, clip.answers[0])
    moved = (row_logits(policy, row) - row_logits(policy, other)).abs().amax(1)  # (T,)
    visual = collate(policy, [row], "right")["mm_token_type_ids"][0] == 1
    first = int(visual.nonzero().min())
    assert moved[first] > 1e-3, "a frame token sees later frames"
    assert float(moved[:first].max()) == 0.0, "text before the clip sees nothing of it"
    between = ~visual[: len(moved)] & (torch.arange(len(moved)) < int(visual.nonzero().max()))
    assert between[first:].any(), "there are time stamps between the frames"


def test_molmo2_s_shared_prefix_is_wrong_without_its_block() -> None:
    """The suite compares the engine with separate rows; plain causal attention would not pass
    it.
    """
    policy = tuned_family("molmo2")
    rows = rows_of(
        policy, ({"count": 4, "height": 56, "width": 56}, {"what ?": ["yes", "a red square"]})
    )
    causal = replace(policy, family=replace(policy.family, block_type=None))
    with torch.no_grad():
        right, wrong = (
            answer_part(rows, run_engine(each, shared_prefix_engine, rows).log_probs)
            for each in (policy, causal)
        )
    assert (torch.cat(right) - torch.cat(wrong)).abs().max() > 1e-3


def test_molmo2_prompts_begin_as_its_processor_begins_them() -> None:
    """Its templates write no beginning-of-text token; the processor adds one, in place of it the
    end token.
    """
    policy = plain_policy("molmo2")
    first = family_rows("molmo2")[0][0].prompt.input_ids[:2].tolist()
    assert policy.processor.tokenizer.bos_token is None
    assert first == policy.processor.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"])


@pytest.mark.parametrize("family", BOUNDED)
@pytest.mark.parametrize("count", [2, 8])
def test_bounds_on_pixels_are_per_frame_also_where_the_processor_s_are_per_clip(
    family: str, count: int
) -> None:
    policy = plain_policy(family)
    side = policy.frame_processor.patch_size * policy.frame_processor.merge_size
    settings = VideoSettings(min_pixels=4 * side * side, max_pixels=9 * side * side)
    size = frame_size(policy.spec, settings, num_frames=count, height=400, width=400)
    assert 4 * side * side <= size.height * size.width <= 9 * side * side
    frames = make_frames(count, height=400, width=400)
    prompt = encode_prompt(policy, "?", video_inputs(policy, frames, settings))
    holes = int((prompt.input_ids == policy.family.placeholder(policy.bare.config)).sum())
    assert holes == video_tokens(policy.spec, settings, num_frames=count, height=400, width=400)
    small = frame_size(policy.spec, settings, num_frames=count, height=side // 2, width=side // 2)
    assert small.height * small.width >= 4 * side * side


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_capped_pixels_are_counted_as_the_processor_caps_them(family: str) -> None:
    policy, settings = plain_policy(family), VideoSettings(cap_pixels=True, max_pixels=40_000)
    prompt = encode_prompt(
        policy, "?", video_inputs(policy, make_frames(8, height=300, width=400), settings)
    )
    holes = int((prompt.input_ids == policy.family.placeholder(policy.bare.config)).sum())
    assert holes == video_tokens(policy.spec, settings, num_frames=8, height=300, width=400)


@pytest.mark.parametrize("family", ["qwen3_vl", "glm4v"])
def test_a_clip_of_one_frame_is_refused_where_the_tower_takes_two(family: str) -> None:
    policy = plain_policy(family)
    with pytest.raises(UserError, match="the processor refuses"):
        video_inputs(policy, make_frames(1), VideoSettings())
    with pytest.raises(UserError, match="the processor refuses 1 frames of 150x100 pixels"):
        video_tokens(policy.spec, VideoSettings(), num_frames=1, height=100, width=150)


@pytest.mark.parametrize(
    "check",
    [
        checks.tokens_are_counted_from_the_config,
        checks.prompt_is_the_processors_and_a_prefix,
        checks.features_equal_pixels,
        checks.shuffled_frames_are_noticed,
        checks.generates_as_teacher_forced,
    ],
    ids=check_name,
)
def test_glm_4_6v_flash_is_a_glm4v_with_the_processor_of_4_6v(check: Check, tmp_path: Path) -> None:
    """As its published files: model type `glm4v`, and time stamps in tenths of a second."""

    def published() -> tuple[PreTrainedModel, ProcessorMixin]:
        return glm4v()[0], glm46v()[1]

    folder = write_tiny(published, tmp_path / "flash")
    subject = Subject(settings=ModelSettings(name=str(folder), device="cpu"))
    assert subject.family is FAMILIES["glm4v"]
    assert type(subject.plain.processor).__name__ == "Glm46VProcessor"
    check(subject, tmp_path / "check")
