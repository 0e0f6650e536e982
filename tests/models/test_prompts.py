"""Prompts, answers and token counts against the processors themselves."""

import json
import math

import pytest
import torch
from policies import each_kind, make_frames, policy
from transformers import AutoVideoProcessor, LlavaNextVideoVideoProcessor, Qwen2VLVideoProcessor

from dpo_video.core.errors import UserError
from dpo_video.models.families import FAMILIES
from dpo_video.models.hub import ModelSpec
from dpo_video.models.prompts import answer_ids, encode_prompt, prompt_text, video_inputs
from dpo_video.models.published import PUBLISHED
from dpo_video.models.tokens import fit_frames, frames_within, video_tokens
from dpo_video.recipe import VideoSettings
from dpo_video.video import Frames, video_metadata

SHAPES = [(6, 100, 150), (2, 240, 320), (8, 320, 240), (1, 64, 64), (4, 37, 300), (12, 720, 1280)]


def processor_output(model, question: str, frames: Frames, **kwargs):
    """Return the processor's own call on text and video together."""
    return model.processor(
        text=[question],
        videos=[frames.pixels],
        return_tensors="pt",
        videos_kwargs={
            "video_metadata": [video_metadata(frames)],
            "do_sample_frames": False,
            **kwargs,
        },
    )


@each_kind
def test_a_prompt_is_what_the_processor_makes_of_text_and_video_together(kind):
    model, frames = policy(kind), make_frames(6)
    clip = video_inputs(model, frames, VideoSettings())
    for question in ("what happens ?", "describe the video\nin detail please", ""):
        prompt = encode_prompt(model, question, clip)
        wanted = processor_output(model, prompt_text(model.processor, question), frames)
        assert torch.equal(prompt.input_ids, wanted["input_ids"][0])
        assert torch.equal(clip.pixels["pixel_values_videos"], wanted["pixel_values_videos"])
        if prompt.token_types is not None:
            assert torch.equal(prompt.token_types, wanted["mm_token_type_ids"][0])
        for name, tensor in clip.clip_inputs.items():
            assert torch.equal(tensor, wanted[name])


@each_kind
def test_the_prompt_is_a_token_prefix_of_prompt_and_answer_and_the_answer_ends_the_turn(kind):
    model, frames = policy(kind), make_frames(4)
    prompt = encode_prompt(model, "what happens ?", video_inputs(model, frames, VideoSettings()))
    end = model.processor.tokenizer.eos_token
    for answer in ("a red square", " the man talks", "", "yes\nno"):
        text = prompt_text(model.processor, "what happens ?") + answer + end
        whole = processor_output(model, text, frames)["input_ids"][0].tolist()
        assert whole == [*prompt.input_ids.tolist(), *answer_ids(model, answer)]


@each_kind
def test_a_question_or_answer_with_the_models_own_video_token_is_refused(kind):
    model = policy(kind)
    token = model.processor.video_token
    clip = video_inputs(model, make_frames(2), VideoSettings())
    with pytest.raises(UserError, match=", a control token of"):
        encode_prompt(model, f"{token}\nwhat happens ?", clip)
    with pytest.raises(UserError, match=", a control token of"):
        answer_ids(model, f"it shows {token}")


@pytest.mark.parametrize("seconds", [0.5, 1.0, 3.0])
def test_qwen_gets_the_true_seconds_between_steps_of_two_frames(seconds):
    clip = video_inputs(
        policy("qwen2_5_vl"), make_frames(6, seconds_apart=seconds), VideoSettings()
    )
    assert clip.clip_inputs["second_per_grid_ts"].tolist() == pytest.approx([2 * seconds])


@each_kind
@pytest.mark.parametrize("shape", SHAPES)
def test_video_tokens_from_the_config_are_those_in_the_prompt(kind, shape):
    model = policy(kind)
    count, height, width = shape
    prompt = encode_prompt(
        model,
        "?",
        video_inputs(model, make_frames(count, height=height, width=width), VideoSettings()),
    )
    holes = int((prompt.input_ids == model.family.placeholder(model.bare.config)).sum())
    assert (
        video_tokens(model.spec, VideoSettings(), num_frames=count, height=height, width=width)
        == holes
    )


@pytest.mark.parametrize(
    ("least", "most", "side"),
    [(None, 8 * 784, 280), (14 * 784, None, 56), (20 * 784, 64 * 784, 280)],
)
def test_min_and_max_pixels_change_qwens_token_count_as_computed(least, most, side):
    model = policy("qwen2_5_vl")
    settings = VideoSettings(min_pixels=least, max_pixels=most)
    clip = video_inputs(model, make_frames(6, height=side, width=side), settings)
    counted = video_tokens(model.spec, settings, num_frames=6, height=side, width=side)
    assert counted == int(clip.clip_inputs["video_grid_thw"].prod()) // 4
    assert counted != video_tokens(
        model.spec, VideoSettings(), num_frames=6, height=side, width=side
    )


def published(name: str) -> ModelSpec:
    kind = json.loads((PUBLISHED[name] / "config.json").read_text())["model_type"]
    processor = AutoVideoProcessor.from_pretrained(PUBLISHED[name])
    config = policy(kind).bare.config if kind == "qwen2_5_vl" else _Patch14()
    return ModelSpec(family=FAMILIES[kind], config=config, video_processor=processor)


class _Patch14:
    """The one fact of a config that LLaVA's token formula reads."""

    class vision_config:
        patch_size = 14


@pytest.mark.parametrize(
    ("name", "shape", "tokens"),
    [
        # 720 x 1280 snaps to 728 x 1288: 16/2 steps x (728/28 = 26) x (1288/28 = 46)
        ("Qwen/Qwen2.5-VL-7B-Instruct", (16, 720, 1280), 8 * 26 * 46),
        # 240 x 320 snaps to 252 x 308 (python rounds 8.57 to 9, 11.43 to 11)
        ("Qwen/Qwen2.5-VL-3B-Instruct", (8, 240, 320), 4 * 9 * 11),
        ("Qwen/Qwen2.5-VL-3B-Instruct", (7, 240, 320), 4 * 9 * 11),
        # 24 x 24 patches of 14 in 336, pooled by 2 x 2
        ("llava-hf/LLaVA-NeXT-Video-7B-hf", (8, 720, 1280), 8 * 144),
        ("llava-hf/LLaVA-NeXT-Video-7B-hf", (32, 240, 320), 32 * 144),
    ],
)
def test_published_checkpoints_cost_the_tokens_of_their_formula(name, shape, tokens):
    count, height, width = shape
    assert (
        video_tokens(published(name), VideoSettings(), num_frames=count, height=height, width=width)
        == tokens
    )


def test_the_cap_over_a_whole_video_is_counted_like_the_processor_does_it():
    processor = Qwen2VLVideoProcessor(cap_pixels_per_frame=True, max_video_tokens=2000)
    spec = ModelSpec(family=FAMILIES["qwen2_5_vl"], config=None, video_processor=processor)
    frames = make_frames(32, height=480, width=640)
    grid = processor(videos=[frames.pixels], do_sample_frames=False, return_tensors="pt")[
        "video_grid_thw"
    ]
    counted = video_tokens(spec, VideoSettings(), num_frames=32, height=480, width=640)
    assert counted == int(grid.prod()) // 4
    uncapped = Qwen2VLVideoProcessor(cap_pixels_per_frame=False)
    plain = ModelSpec(family=spec.family, config=None, video_processor=uncapped)
    assert counted < video_tokens(plain, VideoSettings(), num_frames=32, height=480, width=640)


@each_kind
def test_a_clip_over_the_budget_loses_frames_evenly_in_whole_steps(kind):
    model = policy(kind)
    frames = make_frames(12)
    per_step = video_tokens(model.spec, VideoSettings(), num_frames=2, height=100, width=150)
    settings = VideoSettings(max_tokens=3 * per_step + per_step // 2 - 1)
    kept = fit_frames(model.spec, settings, frames)
    assert len(kept.indices) == 6
    assert kept.indices[0] == frames.indices[0] and kept.indices[-1] == frames.indices[-1]
    gaps = {later - earlier for earlier, later in zip(kept.indices, kept.indices[1:], strict=False)}
    assert gaps <= {20, 30}, "11 gaps of 10 are spread over 5"
    assert (
        video_tokens(model.spec, settings, num_frames=6, height=100, width=150)
        <= settings.max_tokens
    )
    assert fit_frames(model.spec, VideoSettings(max_tokens=6 * per_step), frames) is frames


@each_kind
def test_a_budget_below_one_step_is_refused_with_the_least_that_a_clip_takes(kind):
    with pytest.raises(
        UserError, match=r"1 video tokens \(video.max_tokens 1\), and the least that a 150x100"
    ):
        frames_within(
            policy(kind).spec, VideoSettings(max_tokens=1), num_frames=8, height=100, width=150
        )


def test_pixel_bounds_that_cannot_work_are_refused():
    with pytest.raises(UserError, match=r"leave out video.min_pixels and video.max_pixels"):
        video_inputs(policy("llava_next_video"), make_frames(2), VideoSettings(max_pixels=100000))
    with pytest.raises(UserError, match="the least must not be above the most"):
        video_inputs(policy("qwen2_5_vl"), make_frames(2), VideoSettings(max_pixels=784))


def test_frames_that_the_processor_refuses_are_a_users_error():
    with pytest.raises(UserError, match="the processor refuses frames of 900x2 pixels"):
        video_inputs(policy("qwen2_5_vl"), make_frames(2, height=2, width=900), VideoSettings())


def test_llava_processors_crop_decides_its_size_whatever_the_clip():
    processor = LlavaNextVideoVideoProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    out = processor(videos=[make_frames(3, height=97, width=211).pixels], return_tensors="pt")
    assert out["pixel_values_videos"].shape == (1, 3, 3, 56, 56)
    assert math.prod(out["pixel_values_videos"].shape[-2:]) // 14**2 == 16
