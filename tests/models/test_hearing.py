"""Models that hear: what reaches them of a clip's sound is what their own processor and forward
make of it, it is counted and kept, and silence is said.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import write_clip
from family_cases import family_settings, plain_policy
from numpy.typing import NDArray
from tiny_world import make_recipe

from dpo_video.core.errors import UserError
from dpo_video.family.subject import noise_frames, with_sound
from dpo_video.models.clip_source import ClipSource, ReadyClip, open_source
from dpo_video.models.decoding import frames_alone, model_pool, sound_format
from dpo_video.models.encoded_clip import EncodedClip, read_features, write_features
from dpo_video.models.features import encode_video
from dpo_video.models.kept_clips import kept_bytes
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.memory import GIB, PeakLoad, estimate_generation
from dpo_video.models.prompts import encode_prompt, prompt_text, video_inputs
from dpo_video.models.tokens import clip_tokens, fit_frames, sound_tokens
from dpo_video.recipe import ModelSettings, Recipe, VideoSettings
from dpo_video.video import ClipRequest, Frames, corrupt
from dpo_video.video.cache import cache_folder
from dpo_video.video.read import read_frames

HEARING = ("qwen2_5_omni", "qwen3_omni_moe")
RATE = 16_000
each_hearing = pytest.mark.parametrize("family", HEARING)


def sounding(policy: Policy, *, seconds: float, count: int = 6, apart: float = 0.5) -> Frames:
    """Return noise frames with noise to hear."""
    form = sound_format(policy.spec, VideoSettings())
    assert form is not None
    frames = noise_frames(count, height=56, width=112, seconds_apart=apart)
    return with_sound(frames, form, seconds=seconds)


def mono(frames: Frames) -> NDArray[np.float32]:
    assert frames.sound is not None
    return frames.sound


@each_hearing
@pytest.mark.parametrize("seconds", [0.5, 2.9, 35.0])
def test_sound_is_what_the_processors_own_call_and_the_models_own_encoder_make_of_it(
    family: str, seconds: float
) -> None:
    """Qwen2.5-Omni's call fills each spectrum up with silence to that of its extractor's longest
    sound, which is 30 s here: ours does with less of it, and hears 35 s whole.
    """
    policy = plain_policy(family)
    frames = sounding(policy, seconds=seconds)
    ours = video_inputs(policy, frames, VideoSettings())
    longest = policy.processor.feature_extractor.n_samples
    stock = policy.processor(
        text=[prompt_text(policy.processor, "what happens ?")],
        videos=[frames.pixels],
        audio=[mono(frames)],
        audio_from_video_indices=[0],
        load_audio_from_video=True,
        audio_kwargs={"max_length": max(longest, 2 * len(mono(frames))), "truncation": False},
        videos_kwargs={"do_sample_frames": False, "fps": 2.0, "cap_pixels_per_frame": False},
        return_tensors="pt",
    )
    prompt = encode_prompt(policy, "what happens ?", ours)
    assert torch.equal(prompt.input_ids, stock["input_ids"][0])
    with torch.no_grad():
        theirs = policy.bare.get_audio_features(
            stock["input_features"], stock["feature_attention_mask"], return_dict=True
        ).last_hidden_state
    heard = encode_video(policy, ours).sound
    assert heard is not None and len(heard) == sound_tokens(
        policy.spec, VideoSettings(), len(mono(frames))
    )
    torch.testing.assert_close(heard, theirs, atol=1e-5, rtol=0)
    last = stock["feature_attention_mask"].sum()
    assert int(ours.clip_inputs["audio_feature_lengths"]) == int(last)
    columns = stock["input_features"][0, :, : int(last)]
    torch.testing.assert_close(ours.pixels["input_features"][0, :, : int(last)], columns)


@each_hearing
def test_tokens_of_sound_stand_among_those_of_the_frames_they_are_heard_with(family: str) -> None:
    """Six frames half a second apart, in pairs: at 0, 1 and 2 s. Qwen2.5-Omni takes turns of two
    seconds at 25 tokens; Qwen3-Omni puts each pair before the sound of its time, 13 a second. Both
    count positions by the tokens of sound.
    """
    policy = plain_policy(family)
    prompt = encode_prompt(
        policy, "?", video_inputs(policy, sounding(policy, seconds=3.0), VideoSettings())
    )
    config = policy.bare.config
    marks = {int(config.video_token_id): "v", int(config.audio_token_id): "a"}
    kinds = "".join(marks.get(token, "") for token in prompt.input_ids.tolist())
    pair = kinds.count("v") // 3
    a_second = 25 if family == "qwen2_5_omni" else 13
    expected = (
        "v" * 2 * pair + "a" * 2 * a_second + "v" * pair + "a" * a_second
        if family == "qwen2_5_omni"
        else "".join("v" * pair + "a" * a_second for _ in range(3))
    )
    assert kinds == expected
    first = int((prompt.input_ids == config.video_token_id).nonzero()[0])
    begin = prompt.positions[0, first]
    heard = prompt.positions[:, prompt.input_ids == config.audio_token_id] - begin
    assert heard.tolist() == [list(range(3 * a_second))] * 3
    seen = prompt.positions[0, prompt.input_ids == config.video_token_id] - begin
    assert seen.tolist() == [time * a_second for time in range(3) for _ in range(pair)]


@pytest.mark.parametrize(
    ("family", "count", "apart"),
    [
        ("qwen3_omni_moe", 12, 0.7000000000000001),
        ("qwen3_omni_moe", 32, 0.30000000000000004),
        ("qwen2_5_omni", 32, 0.5833333333333333),
        ("qwen2_5_omni", 32, 0.9166666666666666),
    ],
)
def test_frames_and_sound_at_one_time_have_the_positions_of_their_tokens(
    family: str, count: int, apart: float
) -> None:
    """Where float32 rounds a step's time to that of a token of sound, or to the end of a turn of
    two seconds, and float64 beside it.
    """
    policy = plain_policy(family)
    clip = sounding(policy, seconds=30.0, count=count)
    frames = replace(clip, times=np.arange(count) * apart)
    prompt = encode_prompt(policy, "?", video_inputs(policy, frames, VideoSettings()))
    config = policy.bare.config
    sound = prompt.positions[:, prompt.input_ids == config.audio_token_id]
    assert (sound - sound[0, 0]).tolist() == [list(range(sound.shape[1]))] * 3
    steps = prompt.positions[:, prompt.input_ids == config.video_token_id].unflatten(
        1, (count // 2, -1)
    )
    assert bool((steps[0] == steps[0, :, :1]).all())
    assert bool((steps[1:] == steps[1:, :1]).all())


@each_hearing
def test_frames_of_a_slide_show_are_as_far_apart_as_the_moments_they_are_seen_at(
    family: str, tmp_path: Path
) -> None:
    """A picture stands for nine seconds, two seconds of film follow, whose last frame stands until
    second 30. A part's frames are seen at ten moments: from its begin on, the last one a mean
    frame's length before its end.
    """
    seconds = [0.0, *(9 + number / 20 for number in range(40)), 30.0]
    ticks = [round(second * 90_000) for second in seconds]
    write_clip(tmp_path / "a.mp4", len(ticks), rate=30, ticks=ticks)
    settings = VideoSettings(policy="fps", fps=1.0)
    for start, end, num_frames in ((5.0, 15.0, 41), (10.0, 20.0, 20)):
        frames = read_frames(tmp_path / "a.mp4", settings, start=start, end=end)
        assert len(frames.times) == 10 and frames.total_frames == num_frames
        inputs = video_inputs(plain_policy(family), frames, settings)
        step = float(inputs.clip_inputs["video_second_per_grid"])
        assert step == pytest.approx(2 * (end - start) * (1 - 1 / num_frames) / 9, rel=1e-4)


@each_hearing
def test_a_real_file_is_heard_kept_and_counted(family: str, tmp_path: Path) -> None:
    """Read twice through the cache of features, and not at all under `video.sound: false`."""
    recipe = recipe_of(tmp_path, family)
    policy = load_policy(recipe.model)
    requests = clips(tmp_path)
    first = read(policy, recipe, requests)
    again = read(policy, recipe, requests)
    for (counts, made), decoded in ((first, 2), (again, 0)):
        assert counts["decoded"] == decoded
        assert counts["clips_with_sound"] == counts["clips_without_sound"] == 1
        assert made[0].features.sound is not None and made[1].features.sound is None
        assert abs(made[0].inputs.sound_samples - 2 * RATE) <= 0.05 * RATE
    assert torch.equal(first[1][0].features.sound, again[1][0].features.sound)  # type: ignore[arg-type]
    silent = recipe_of(tmp_path, family, sound=False)
    counts, made = read(policy, silent, requests)
    assert counts["decoded"] == 2 and counts["clips_with_sound"] == 0
    assert all(clip.features.sound is None for clip in made)
    torch.testing.assert_close(made[0].features.embeddings, first[1][0].features.embeddings)


def test_what_is_kept_of_a_sounding_clip_is_as_large_as_foretold(tmp_path: Path) -> None:
    """Features of frames and sound in float32; or pixels, and four bytes a sample."""
    for kept in ("features", "frames"):
        recipe = recipe_of(tmp_path / kept, "qwen2_5_omni", cache=kept)
        policy = load_policy(recipe.model)
        ((request, *_),) = [clips(tmp_path / kept)]
        _, (clip,) = read(policy, recipe, [request])
        (entry,) = cache_folder(recipe).glob("*/*")
        foretold = kept_bytes(
            recipe,
            policy.spec,
            frames_taken=4,
            frames_seen=4,
            height=64,
            width=160,
            sound_samples=clip.inputs.sound_samples,
        )
        assert foretold == pytest.approx(entry.stat().st_size, abs=4000)


def test_features_come_back_with_their_sound() -> None:
    policy = plain_policy("qwen2_5_omni")
    inputs = video_inputs(policy, sounding(policy, seconds=1.0), VideoSettings())
    clip = EncodedClip(
        inputs=replace(inputs, pixels={}), features=encode_video(policy, inputs), frames_dropped=0
    )
    again = read_features(write_features(clip))
    assert again.features.sound is not None and clip.features.sound is not None
    assert torch.equal(again.features.sound, clip.features.sound)
    assert again.inputs.sound_samples == RATE and len(again.features) == len(clip.features)


def test_sound_takes_its_part_of_a_clips_budget() -> None:
    """Eight frames are four steps of 128 tokens, six seconds of sound 150: there is room for three
    steps beside it, or for four in silence.
    """
    policy = plain_policy("qwen2_5_omni")
    frames = sounding(policy, seconds=6.0, count=8)
    shape = {"height": 56, "width": 112}
    spec, settings = policy.spec, VideoSettings()
    assert clip_tokens(spec, settings, num_frames=2, sound_samples=0, **shape) == 128
    assert clip_tokens(spec, settings, num_frames=2, sound_samples=6 * RATE, **shape) == 278
    tight = VideoSettings(max_tokens=150 + 3 * 128)
    assert len(fit_frames(policy.spec, tight, frames).pixels) == 6
    silent = fit_frames(policy.spec, tight, replace(frames, sound=None))
    assert len(silent.pixels) == 8
    with pytest.raises(UserError, match=r"beside the 150 of its sound .*video\.sound to false"):
        fit_frames(policy.spec, VideoSettings(max_tokens=277), frames)


def test_a_corrupted_clip_keeps_its_sound() -> None:
    frames = sounding(plain_policy("qwen2_5_omni"), seconds=1.0)
    assert corrupt(frames, "reverse", "c.mp4").sound is frames.sound


def test_models_that_hear_nothing_read_no_sound(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", 20, sound=1.0)
    spec = plain_policy("qwen2_5_vl").spec
    with model_pool(spec, VideoSettings(workers=1)) as pool:
        frames = pool.read(ClipRequest(key="a", video=tmp_path / "a.mp4"))
    assert isinstance(frames, Frames) and frames.sound is None and frames.sound_rate == 0
    hearing = plain_policy("qwen2_5_omni").spec
    assert sound_format(hearing, frames_alone(VideoSettings())) is None


def test_the_memory_of_a_long_sound_is_counted() -> None:
    """An hour of it: 180,000 positions, the MLP's two inner widths and two of the stream each."""
    spec = plain_policy("qwen2_5_omni").spec
    load = PeakLoad(sequences=1, prompt_tokens=100, answer_tokens=10, patches=1)
    settings = ModelSettings(name="m", dtype="float32")
    short = estimate_generation(spec, settings, load)["vision"]
    long = estimate_generation(spec, settings, replace(load, sound_samples=3600 * RATE))["vision"]
    audio = spec.config.audio_config
    numbers = 2 * audio.d_model + max(3 * audio.d_model, 2 * audio.encoder_ffn_dim)
    assert (long - short) * GIB == pytest.approx(180_000 * numbers * 4, rel=1e-2)


def recipe_of(folder: Path, family: str, **video: Any) -> Recipe:
    folder.mkdir(exist_ok=True)
    recipe = make_recipe(folder, video={"num_frames": 4, "cache": "features", **video})
    return recipe.model_copy(update={"model": family_settings(family, dtype="float32")})


def clips(folder: Path) -> list[ClipRequest]:
    """Return requests of a clip with two seconds of sound and of a silent one."""
    write_clip(folder / "a.mp4", 50, size=(160, 64), sound=2.0)
    write_clip(folder / "b.mp4", 50, size=(160, 64))
    return [ClipRequest(key=name, video=folder / name) for name in ("a.mp4", "b.mp4")]


def read(
    policy: Policy, recipe: Recipe, requests: list[ClipRequest]
) -> tuple[Any, list[EncodedClip]]:
    source: ClipSource
    made = []
    with open_source(policy, recipe) as source:
        for _, ready in source.map(requests):
            assert isinstance(ready, ReadyClip)
            made.append(source.encode(ready))
    return source.counts, made
