"""The audio branch of VideoLLaMA 2.1-7B-AV: what is read of a clip's sound, and the tower."""

import json
import logging
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import write_clip
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from stand_ins.flat_checkpoints import AUDIO, videollama2_qwen2
from stand_ins.videollama2.beats import SIZES, BEATs, bucket
from stand_ins.videollama2.mm_utils import kaldi_fbank, process_audio_from_video
from tiny_world import make_pairs, make_recipe
from torch import nn

from dpo_video.check.preview import describe, view_clip
from dpo_video.core.errors import UserError
from dpo_video.family.subject import noise_frames
from dpo_video.models.decoding import reading_for, sound_format
from dpo_video.models.families.own_code.beats import Beats, BeatsSizes, distance_buckets
from dpo_video.models.families.own_code.videollama2_audio import (
    RATE,
    audio_inputs,
    audio_rows,
    fbank,
    heard_seconds,
    sound_pieces,
)
from dpo_video.models.features import encode_video
from dpo_video.models.load import load_policy
from dpo_video.models.prompts import video_inputs
from dpo_video.models.tokens import clip_tokens
from dpo_video.recipe import ModelSettings, VideoSettings
from dpo_video.train.selection import select_pairs
from dpo_video.video.read import read_frames

TINY = BeatsSizes(**SIZES)


def noise(samples: int, loudness: float = 0.1) -> NDArray[np.float32]:
    """Return noise (S,) as 16-bit samples have it."""
    drawn = np.random.default_rng(samples).normal(0, loudness * 2**15, samples)
    return (np.clip(np.rint(drawn), -(2**15), 2**15 - 1) / 2**15).astype(np.float32)


SOUNDS = {
    "noise": noise(RATE),
    "quiet": noise(RATE, 1e-3),
    "clipped": noise(RATE, 3.0),
    "tone": np.rint(np.sin(np.arange(RATE) / 8) * 2**14).astype(np.float32) / 2**15,
    "silence": np.zeros(RATE, np.float32),
    "one frame": noise(400),
}


@pytest.mark.parametrize("name", sorted(SOUNDS))
def test_filter_banks_are_kaldis(name: str) -> None:
    """Held against them written out by their definition, and not against torchaudio, which is
    no dependency.
    """
    wanted = kaldi_fbank(SOUNDS[name].astype(np.float64) * 2**15)
    made = fbank(SOUNDS[name])
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, wanted, atol=1e-4, rtol=0)


def test_samples_of_no_file_are_rounded_to_those_of_one() -> None:
    finer = SOUNDS["noise"] + np.float32(0.4 / 2**15)
    np.testing.assert_array_equal(fbank(finer), fbank(SOUNDS["noise"]))
    np.testing.assert_array_equal(
        fbank(SOUNDS["clipped"] * 2), fbank(np.clip(SOUNDS["clipped"] * 2, -1, 1))
    )


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.5, 1.99, 2.0, 2.01, 10.0, 16.0, 30.0, 100.3])
def test_pieces_are_spread_over_the_sound(seconds: float) -> None:
    """A sample tells its place: 8 pieces of 2 s, an eighth of the way apart."""
    samples = round(seconds * RATE)
    pieces = sound_pieces(np.arange(1, samples + 1, dtype=np.float32))
    assert pieces.shape == (30 * RATE,)
    last = max(Fraction(samples, RATE) - 2, Fraction(0))
    size = min(samples, 2 * RATE)
    for number in range(8):
        piece = pieces[number * size : (number + 1) * size]
        first = last * number / 8 * RATE  # samples
        assert np.all(np.diff(piece) == 1)
        if samples:
            assert piece[0] - 1 in {int(first), int(first) - 1}, "the rule computes in float64"
    assert not pieces[8 * size :].any(), "what is behind them is silence"


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 25_000, 32_000, 300_001, 700_123])
def test_every_length_gives_the_published_input(samples: int) -> None:
    sound = noise(samples)
    made = audio_inputs(sound)["input_features"]
    wanted = process_audio_from_video(sound).float()
    assert made.shape == wanted.shape == (1, 2998, 128)
    differing = (made != wanted).float().mean()  # bfloat16 rounds either way near its steps
    assert differing < 1e-4
    torch.testing.assert_close(made, wanted, atol=0.13, rtol=0)


@pytest.mark.parametrize("seconds", [0.5, 2, 10, 17.75, 18, 18.25, 100])
def test_seconds_that_are_heard_are_those_inside_of_a_piece(seconds: float) -> None:
    samples = np.arange(1, int(seconds * RATE) + 1, dtype=np.float32)
    heard = np.unique(sound_pieces(samples))
    assert heard_seconds(seconds) == pytest.approx((len(heard) - (heard[0] == 0)) / RATE)


def test_a_sound_takes_as_many_rows_whatever_its_length() -> None:
    assert audio_rows(BeatsSizes()) == (2998 // 16) * (128 // 16) == 1496
    assert audio_rows(TINY) == 46 * 2
    with torch.no_grad():
        for samples in (0, 400, 900_000):
            heard = Beats(TINY)(audio_inputs(noise(samples))["input_features"])
            assert heard.shape == (1, audio_rows(TINY), TINY.encoder_embed_dim)


def towers() -> tuple[Beats, BEATs]:
    """Return the tower, and the one written after the published interface with its weights."""
    torch.manual_seed(0)
    published = BEATs(SIZES)
    with torch.no_grad():
        for parameter in published.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    ours = Beats(TINY)
    ours.load_state_dict(
        {
            name.replace("weight_g", "parametrizations.weight.original0").replace(
                "weight_v", "parametrizations.weight.original1"
            ): weight
            for name, weight in published.state_dict().items()
        }
    )
    return ours.eval(), published.eval()


def test_the_tower_is_the_published_one() -> None:
    ours, published = towers()
    sounds = torch.cat([audio_inputs(noise(samples))["input_features"] for samples in (9, 90_000)])
    with torch.no_grad():
        wanted, times, bins = published.extract_features(sounds)
        made = ours(sounds)
    assert times * bins == made.shape[1]
    assert made.std() > 0.1
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=1e-5)
    assert float((made[0] - made[1]).abs().max()) > 0.1


def test_a_tower_in_half_precision_reads_spectrograms_exactly() -> None:
    ours, _ = towers()
    sound = audio_inputs(noise(90_000))["input_features"]
    with torch.no_grad():
        exact, half = ours(sound), ours.bfloat16()(sound)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(320, 800), (16, 24)])
def test_distances_fall_into_the_published_buckets(num_buckets: int, max_distance: int) -> None:
    made = distance_buckets(1496, num_buckets=num_buckets, max_distance=max_distance)
    for offset in range(-1495, 1496):
        row, column = max(-offset, 0), max(offset, 0)
        wanted = bucket(offset, num_buckets, max_distance)
        assert abs(int(made[row, column]) - wanted) <= 1, "float32 logarithms round at a step"
    assert set(made.flatten().tolist()) == set(range(num_buckets)) - {num_buckets // 2}


def test_the_default_sizes_are_those_of_the_published_tower() -> None:
    """Names and shapes as the published code makes them of its own defaults."""
    with torch.device("meta"):
        tower: nn.Module = Beats(BeatsSizes())
    shapes = {name: tuple(weight.shape) for name, weight in tower.state_dict().items()}
    layer = {name: shape for name, shape in shapes.items() if ".layers.11." in name}
    short = {name.partition(".layers.11.")[2]: shape for name, shape in layer.items()}
    assert len([name for name in shapes if "self_attn.q_proj.weight" in name]) == 12
    assert short["self_attn.relative_attention_bias.weight"] == (320, 12)
    assert short["self_attn.grep_a"] == (1, 12, 1, 1)
    assert short["self_attn.grep_linear.weight"] == (8, 64)
    assert short["fc1.weight"] == (3072, 768)
    assert shapes["patch_embedding.weight"] == (512, 1, 16, 16)
    assert shapes["post_extract_proj.weight"] == (768, 512)
    assert shapes["encoder.pos_conv.0.parametrizations.weight.original0"] == (1, 1, 128)
    assert shapes["encoder.pos_conv.0.parametrizations.weight.original1"] == (768, 48, 128)
    assert shapes["predictor.weight"] == (527, 768)


@pytest.mark.parametrize("kind", ["linear", "mlp2x_gelu"])
def test_a_branch_is_loaded_and_saved_by_its_published_names(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows of a sound stand behind those of the frames, and what is saved has the same weights."""
    published = videollama2_qwen2(tmp_path / "model", **{**AUDIO, "mm_projector_a_type": kind})
    with caplog.at_level(logging.WARNING):
        model = load_policy(ModelSettings(name=str(tmp_path / "model"), device="cpu")).bare
    assert "audio_tower" not in caplog.text
    pixels = torch.rand(4, 3, 70, 70)
    sound = audio_inputs(noise(90_000))["input_features"]
    body = published.model
    with torch.no_grad():
        seen = body.mm_projector(body.vision_tower(pixels)[None])[0]
        heard = body.mm_projector_a(body.audio_tower.extract_features(sound)[0])[0]
        both = model.get_video_features(pixels[None], input_features=sound).pooler_output[0]
        silent = model.get_video_features(pixels[None]).pooler_output[0]
    torch.testing.assert_close(both, torch.cat([seen, heard]), atol=2e-4, rtol=1e-5)
    torch.testing.assert_close(silent, seen, atol=2e-4, rtol=1e-5)
    model.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    weights = published.state_dict()
    assert saved.keys() == weights.keys()
    for name, weight in saved.items():
        torch.testing.assert_close(weight, weights[name], atol=0, rtol=0)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config.items() >= {**AUDIO, "mm_projector_a_type": kind}.items()


def test_a_checkpoint_with_one_table_of_distances_is_read_as_one_with_all(tmp_path: Path) -> None:
    """As one is that was saved without doubles: the layers of a published model share the table."""
    videollama2_qwen2(tmp_path / "model", **AUDIO)
    path = tmp_path / "model" / "model.safetensors"
    whole = load_file(path)
    tables = [name for name in whole if name.endswith("relative_attention_bias.weight")]
    first, *others = sorted(tables)
    assert len(others) == SIZES["encoder_layers"] - 1 and ".layers.0." in first
    kept = {name: weight for name, weight in whole.items() if name not in others}
    save_file(kept, path, metadata={"format": "pt"})
    model = load_policy(ModelSettings(name=str(tmp_path / "model"), device="cpu")).bare
    model.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == whole.keys()
    for name in tables:
        assert torch.equal(saved[name], whole[first].to(saved[name]))


@pytest.mark.parametrize(
    ("lost", "count"),
    [
        ("model.mm_projector_a.", 4),
        ("model.audio_tower.encoder.layers.0.self_attn.relative_attention_bias.", 1),
    ],
)
def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path, lost: str, count: int) -> None:
    videollama2_qwen2(tmp_path / "model", **AUDIO)
    path = tmp_path / "model" / "model.safetensors"
    kept = {name: weight for name, weight in load_file(path).items() if not name.startswith(lost)}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"lacks {count} weights .*'{re.escape(lost)}"):
        load_policy(ModelSettings(name=str(tmp_path / "model"), device="cpu"))


def test_what_nothing_reads_may_be_missing(tmp_path: Path) -> None:
    """The tower's words for what it hears, and what SigLIP has behind its layers."""
    videollama2_qwen2(tmp_path / "model", **AUDIO)
    path = tmp_path / "model" / "model.safetensors"
    whole = load_file(path)
    unread = ("audio_tower.predictor.", ".vision_model.head.", ".vision_model.post_layernorm.")
    kept = {name: weight for name, weight in whole.items() if not any(x in name for x in unread)}
    assert len(kept) < len(whole) - len(unread)
    save_file(kept, path, metadata={"format": "pt"})
    load_policy(ModelSettings(name=str(tmp_path / "model"), device="cpu"))


def test_the_first_layers_table_of_distances_is_read() -> None:
    """The published code hands what it looked up there from layer to layer."""
    tower, _ = towers()
    sound = audio_inputs(noise(40_000))["input_features"]
    with torch.no_grad():
        heard = tower(sound)
        tower.encoder.layers[1].self_attn.relative_attention_bias.weight.zero_()
        assert torch.equal(tower(sound), heard)
        tower.encoder.layers[0].self_attn.relative_attention_bias.weight.zero_()
        assert not torch.allclose(tower(sound), heard)


def test_a_clip_is_heard_where_it_has_sound_and_the_recipe_listens(tmp_path: Path) -> None:
    """Rows of features are as many as were counted before anything was decoded; of 20 s 16 s are
    heard.
    """
    videollama2_qwen2(tmp_path / "model", **AUDIO)
    settings = ModelSettings(name=str(tmp_path / "model"), device="cpu")
    policy = load_policy(settings)
    sounding = write_clip(tmp_path / "sounding.mp4", 40, rate=2, sound=20.0)
    silent = write_clip(tmp_path / "silent.mp4", 40, rate=2)
    for clip, listens, rows in (
        (sounding, True, audio_rows(TINY)),
        (sounding, False, 0),
        (silent, True, 0),
    ):
        video = VideoSettings(num_frames=4, sound=listens)
        frames = read_frames(clip, video, **reading_for(policy.spec, video))
        inputs = video_inputs(policy, frames, video)
        assert ("input_features" in inputs.pixels) == (rows > 0)
        made = len(encode_video(policy, inputs))
        height, width = frames.pixels.shape[1:3]
        assert made == 2 * 2 * 2 + rows
        assert made == clip_tokens(
            policy.spec,
            video,
            num_frames=4,
            height=height,
            width=width,
            sound_samples=frames.sound_samples,
        )
        view = dict(describe(clip, view_clip(clip, settings, video), video))
        if rows:
            assert view["sound"] == "16.00 s heard of 20.00 s, in pieces, 92 of the tokens"
        elif listens:
            assert view["sound"] == "none: the clip has no sound"
        else:
            assert "sound" not in view


def test_a_checkpoint_without_a_branch_hears_nothing(tmp_path: Path) -> None:
    videollama2_qwen2(tmp_path / "model")
    policy = load_policy(ModelSettings(name=str(tmp_path / "model"), device="cpu"))
    assert sound_format(policy.spec, VideoSettings()) is None
    told = replace(noise_frames(2), sound=noise(16_000), sound_rate=RATE)
    assert "input_features" not in video_inputs(policy, told, VideoSettings()).pixels


def test_pairs_that_fit_with_any_sound_are_selected_without_decoding(tmp_path: Path) -> None:
    """There are no clips here to decode. 6 frames are 3 x 2 x 2 tokens, every sound 92."""
    videollama2_qwen2(tmp_path / "model", **AUDIO)
    longest = 3 * 2 * 2 + audio_rows(TINY) + 40
    recipe = make_recipe(tmp_path, max_length=longest)
    policy = load_policy(recipe.model)
    unread: list[str] = []
    selection = select_pairs(
        policy,
        recipe,
        make_pairs(3),
        root=tmp_path,
        on_bad_clip=lambda clip, error: unread.append(clip),
    )
    assert selection.indices == [0, 1, 2] and not selection.dropped and not unread
