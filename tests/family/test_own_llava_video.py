"""LLaVA-Video as its authors publish it: pooling, newlines, prompts, frames, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_ins.calls import CALLS, assert_logits_are_the_published_ones
from stand_ins.flat_checkpoints import llava_qwen
from stand_ins.llava_qwen.mm_utils import (
    DEFAULT_IMAGE_TOKEN,
    IMAGE_TOKEN_INDEX,
    Conversation,
    tokenizer_image_token,
)

from dpo_video.core.errors import UserError
from dpo_video.family.subject import CheckClip, noise_frames, processor_outputs
from dpo_video.models.hub import load_config
from dpo_video.models.load import load_policy
from dpo_video.models.prompts import video_inputs
from dpo_video.recipe import ModelSettings, VideoSettings


def settings_of(folder: Path) -> ModelSettings:
    return ModelSettings(name=str(folder / "model"), device="cpu")


@pytest.mark.parametrize("pool", ["average", "max", "bilinear"])
@pytest.mark.parametrize("newline", ["grid", "frame", "one_token", "no_token"])
def test_llavas_rows_are_pooled_and_ended_as_its_config_says(
    tmp_path: Path, pool: str, newline: str
) -> None:
    fields = {"mm_spatial_pool_mode": pool, "mm_newline_position": newline}
    model = llava_qwen(tmp_path / "model", **fields)
    policy = load_policy(settings_of(tmp_path))
    assert_logits_are_the_published_ones(CALLS["llava_qwen"], model, policy)


@pytest.mark.parametrize("scaling", ["linear", "dynamic"])
def test_a_published_stretch_of_rope_is_computed_and_saved(tmp_path: Path, scaling: str) -> None:
    """Both classes are handed the field by its published name."""
    fields = {"rope_scaling": {"type": scaling, "factor": 2.0}}
    model = llava_qwen(tmp_path / "model", **fields)
    path = tmp_path / "model" / "config.json"
    published = {**json.loads(path.read_text()), "rope_scaling": {"type": scaling, "factor": 2.0}}
    path.write_text(json.dumps(published))
    policy = load_policy(settings_of(tmp_path))
    assert_logits_are_the_published_ones(CALLS["llava_qwen"], model, policy)
    assert policy.bare.config.get_text_config().rope_parameters["rope_type"] == scaling
    policy.bare.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert saved["rope_scaling"] == published["rope_scaling"]


def test_a_newline_position_of_null_is_refused(tmp_path: Path) -> None:
    """The published code has a default for a config without the field, and none for null."""
    llava_qwen(tmp_path / "model", mm_newline_position=None)
    with pytest.raises(UserError, match="its mm_newline_position is None"):
        load_config(settings_of(tmp_path))


@pytest.mark.parametrize("timed", [True, False])
def test_llavas_prompt_is_tokenized_as_published(tmp_path: Path, timed: bool) -> None:
    """Against lmms-eval's way to write a clip and its times into the published conversation."""
    llava_qwen(tmp_path / "model", add_time_instruction=timed)
    policy = load_policy(settings_of(tmp_path))
    clip = CheckClip(
        count=4, height=56, width=56, seconds_apart=1.5, question="what happens ?", answers=()
    )
    times = ",".join(f"{seconds:.2f}s" for seconds in (0.0, 1.5, 3.0, 4.5))
    told = (
        "The video lasts for 6.00 seconds, and 4 frames are uniformly sampled from it. These "
        f"frames are located at {times}.Please answer the following questions related to this "
        "video.\n"
    )
    conversation = Conversation()
    question = f"{DEFAULT_IMAGE_TOKEN}\n{told if timed else ''}{clip.question}"
    conversation.append_message(conversation.roles[0], question)
    conversation.append_message(conversation.roles[1], None)
    wanted = tokenizer_image_token(conversation.get_prompt(), policy.processor.tokenizer)
    place = wanted.index(IMAGE_TOKEN_INDEX)
    placeholder = policy.family.placeholder(policy.bare.config)
    wanted[place : place + 1] = [placeholder] * (4 * 3 * (3 + 1))
    assert processor_outputs(policy, clip)["input_ids"][0].tolist() == wanted


def test_llavas_frames_are_normalized_as_published(tmp_path: Path) -> None:
    llava_qwen(tmp_path / "model")
    policy = load_policy(settings_of(tmp_path))
    frames = noise_frames(3, height=70, width=70)
    made = video_inputs(policy, frames, VideoSettings()).pixels["pixel_values_videos"][0]
    wanted = torch.from_numpy(frames.pixels).permute(0, 3, 1, 2) / 255 * 2 - 1
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mm_projector_type", "linear", "its mm_projector_type is 'linear', and must be"),
        ("mm_resampler_type", "qformer", "its mm_resampler_type is 'qformer', and must be absent"),
        (
            "mm_spatial_pool_mode",
            None,
            "its mm_spatial_pool_mode is None, and must be 'average' or",
        ),
        ("mm_spatial_pool_stride", 4, "its mm_spatial_pool_stride is 4, and must be absent or 2"),
        ("mm_newline_position", "row", "its mm_newline_position is 'row', and must be absent or"),
        ("add_faster_video", True, "its add_faster_video is True, and must be absent or False"),
        ("mm_patch_merge_type", "flat", "its mm_patch_merge_type is 'flat', which has no newline"),
        ("mm_vision_tower", "openai/clip-vit-large-patch14-336", "is no SigLIP"),
        ("mm_vision_tower", "/no/such/siglip", "/no/such/siglip"),
    ],
)
def test_a_llava_that_the_row_does_not_hold_is_refused(
    tmp_path: Path, field: str, value: Any, message: str
) -> None:
    llava_qwen(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(UserError) as caught:
        load_config(settings_of(tmp_path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    if message != value:
        assert "the nearest family is 'llava_onevision'" in str(caught.value)
