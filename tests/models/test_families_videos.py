"""Families whose frames all have one size: what their processors and towers see, and the traps on
the way there.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from family_cases import family_settings, plain_policy
from policies import make_frames, make_row

from dpo_video.core.errors import UserError
from dpo_video.models.collate import collate
from dpo_video.models.features import encode_video
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.prompts import encode_prompt, video_inputs
from dpo_video.recipe import VideoSettings
from dpo_video.video import Frames

SQUARE = ("video_llava", "internvl", "smolvlm")


def prompt_of(policy: Policy, frames: Frames) -> str:
    """Return the prompt about frames as text, special tokens and all."""
    prompt = encode_prompt(policy, "what happens ?", video_inputs(policy, frames, VideoSettings()))
    return str(policy.processor.tokenizer.decode(prompt.input_ids))


@pytest.mark.parametrize("family", SQUARE)
def test_pixel_bounds_are_refused_where_they_could_change_nothing(family: str) -> None:
    with pytest.raises(
        UserError,
        match=r"leave out video.min_pixels and video.max_pixels, and use video.num_frames",
    ):
        video_inputs(plain_policy(family), make_frames(2), VideoSettings(max_pixels=4096))


def test_video_llava_encodes_video_with_its_video_tower() -> None:
    """The generation class has get_image_features only, which runs the other tower."""
    policy, called = plain_policy("video_llava"), []
    model = policy.bare.model
    hooks = [
        tower.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, tower in (("image", model.image_tower), ("video", model.video_tower))
    ]
    try:
        features = encode_video(policy, video_inputs(policy, make_frames(4), VideoSettings()))
    finally:
        for hook in hooks:
            hook.remove()
    assert called == ["video"]
    assert len(features.embeddings) == 4 * (16 + 1), "16 patches of a frame, and its class token"


def test_internvl_gives_a_video_as_images_and_its_prompt_numbers_the_frames() -> None:
    policy = plain_policy("internvl")
    clip = video_inputs(policy, make_frames(3), VideoSettings())
    assert {name: tuple(pixels.shape) for name, pixels in clip.pixels.items()} == {
        "pixel_values": (3, 3, 56, 56)
    }
    frame = "<img>" + "<IMG_CONTEXT>" * 4 + "</img>"
    assert f"Frame1: {frame}\nFrame2: {frame}\nFrame3: {frame}\n" in prompt_of(
        policy, make_frames(3)
    )
    assert list(
        collate(policy, [make_row(policy, make_frames(3))], "left")["mm_encoder_outputs"]
    ) == ["image"]


@pytest.mark.parametrize(
    ("family", "token"), [("internvl", "<IMG_CONTEXT>"), ("smolvlm", "<image>")]
)
def test_a_question_with_the_token_of_a_feature_is_refused_though_the_template_uses_another(
    family: str, token: str
) -> None:
    policy = plain_policy(family)
    clip = video_inputs(policy, make_frames(2), VideoSettings())
    with pytest.raises(UserError, match=rf"the question .* contains '{token}', a control token of"):
        encode_prompt(policy, f"what is {token} ?", clip)


def test_smolvlms_prompt_tells_its_own_clips_frames_and_times_whatever_is_in_the_batch() -> None:
    """The stock processor pads the clips of a batch to the longest, and then counts the padding in
    words.
    """
    policy = plain_policy("smolvlm")
    short, long = make_frames(4, seconds_apart=20.0), make_frames(8)
    assert "series of four frames from a 0:01:20" in prompt_of(policy, short)
    assert "series of eight frames from a 0:00:08" in prompt_of(policy, long)
    assert "Frame from 00:40:" in prompt_of(policy, short)
    rows = [make_row(policy, frames) for frames in (short, long)]
    batch = collate(policy, rows, "right")
    assert "series of four frames" in policy.processor.tokenizer.decode(batch["input_ids"][0])


@pytest.mark.parametrize("empty", [[0], [1, 2], [0, 1, 2, 3]])
def test_smolvlm_keeps_frames_whose_pixels_are_all_zero(empty: list[int]) -> None:
    """Frames that normalise to 0 look like padding to the model, which drops them and leaves their
    tokens bare.
    """
    policy = plain_policy("smolvlm")
    clip = video_inputs(policy, make_frames(4), VideoSettings())
    pixels = clip.pixels["pixel_values"].clone()
    pixels[:, empty] = 0
    features = encode_video(
        policy, replace(clip, pixels={**clip.pixels, "pixel_values": pixels})
    ).embeddings
    assert len(features) == 4 * 4
    faint = pixels.clone()
    faint[:, empty] = 1e-7  # what no one takes for padding
    close = encode_video(
        policy, replace(clip, pixels={**clip.pixels, "pixel_values": faint})
    ).embeddings
    torch.testing.assert_close(features, close, atol=1e-4, rtol=0)
    full = encode_video(policy, clip).embeddings.reshape(4, 4, -1)
    same = [
        number
        for number in range(4)
        if torch.allclose(features.reshape(4, 4, -1)[number], full[number])
    ]
    assert same == [number for number in range(4) if number not in empty], (
        "and every frame keeps its place"
    )


def test_a_black_clip_of_a_smolvlm_that_does_not_shift_its_pixels_goes_through() -> None:
    policy = load_policy(family_settings("smolvlm"))
    policy.processor.video_processor.image_mean = [0.0, 0.0, 0.0]
    black = replace(make_frames(3), pixels=np.zeros((3, 64, 64, 3), np.uint8))
    row = make_row(policy, black, answer="yes")
    assert not row.clip.pixels["pixel_values"].any()
    with torch.no_grad():
        assert torch.isfinite(policy.model(**collate(policy, [row], "right")).logits).all()
