"""MiniCPM-V 2.6: frames, slices and prompts as its own processor makes them; what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins.flat_checkpoints import minicpmv
from stand_ins.minicpmv import processing_minicpmv as published
from stand_ins.minicpmv.modeling_minicpmv import SiglipVisionEmbeddings

from dpo_video.core.errors import UserError
from dpo_video.family.subject import noise_frames
from dpo_video.models.families.family import FrameSize
from dpo_video.models.families.own_code.minicpm_frames import FrameReader
from dpo_video.models.families.own_code.minicpmv import patch_places
from dpo_video.models.hub import load_config
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.prompts import encode_prompt, video_inputs
from dpo_video.models.tokens import video_tokens
from dpo_video.recipe import ModelSettings, VideoSettings

SIZES = [(56, 56), (40, 300), (300, 40), (57, 56), (110, 60), (70, 210), (20, 20), (361, 203)]
"""Heights and widths: of a square, of one or two slices in either direction, and odd ones."""
SQUARE = published.SIDE**2


def settings_of(folder: Path) -> ModelSettings:
    return ModelSettings(name=str(folder / "model"), device="cpu")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("minicpm")
    minicpmv(folder / "model")
    return load_policy(settings_of(folder))


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_prompt_and_pixels_are_those_of_the_published_processor(
    policy: Policy, size: tuple[int, int], slices: int
) -> None:
    frames = noise_frames(2, height=size[0], width=size[1])
    images = [Image.fromarray(frame) for frame in frames.pixels]
    wanted = published.process(policy.processor.tokenizer, images, "what happens ?", slices)
    settings = VideoSettings(max_pixels=SQUARE if slices == 1 else None)
    clip = video_inputs(policy, frames, settings)
    prompt = encode_prompt(policy, "what happens ?", clip)
    assert prompt.input_ids.tolist() == wanted["input_ids"][0].tolist()
    pictures = [
        picture
        for frame, pieces in zip(*clip.pixels.values(), strict=True)
        for picture in (frame, *pieces)
    ]
    sizes = [[side // published.PATCH for side in picture.shape[1:]] for picture in pictures]
    assert sizes == wanted["tgt_sizes"][0].tolist()
    for picture, (rows, columns), strip in zip(
        pictures, sizes, wanted["pixel_values"][0], strict=True
    ):
        tiles = picture.unflatten(2, (columns, -1)).unflatten(1, (rows, -1))
        torch.testing.assert_close(tiles.permute(0, 2, 1, 3, 4).flatten(2), strip)
    bounds = wanted["image_bound"][0]
    assert (bounds[:, 1] - bounds[:, 0]).tolist() == [published.TOKENS] * len(pictures)
    count = video_tokens(policy.spec, settings, num_frames=2, height=size[0], width=size[1])
    assert count == len(pictures) * published.TOKENS


def test_slices_are_those_of_the_published_processor_for_any_size_and_number() -> None:
    reader = FrameReader.of({"scale_resolution": published.SIDE})
    sizes = np.random.default_rng(0).integers(14, 400, (300, 2)).tolist()
    for height, width in sizes:
        for slices in (1, 2, 9):
            columns, rows = published.get_sliced_grid((width, height), slices) or (0, 0)
            assert reader.grid(FrameSize(height, width), slices) == (rows, columns)


def test_published_frames_of_a_film_take_64_tokens_and_two_slices() -> None:
    """1280 x 720: whole at 602 x 336, two slices of 420 x 476, by the published arithmetic."""
    reader, size = FrameReader.of({}), FrameSize(720, 1280)
    assert reader.grid(size, 2) == (1, 2)
    assert reader.whole(size, cut=True) == FrameSize(336, 602)
    assert reader.piece(size, (1, 2)) == FrameSize(476, 420)
    assert reader.text(1, size, 2).count("<unk>") == 3 * 64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_pixels": SQUARE - 1}, f"set it to {SQUARE}, which leaves out slices"),
        ({"min_pixels": 100}, "leave out video.min_pixels"),
    ],
)
def test_bounds_on_pixels_that_cannot_hold_are_refused(
    policy: Policy, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        video_inputs(policy, noise_frames(2), VideoSettings(**settings))


@pytest.mark.parametrize("version", [2.5, None, 4.5])
def test_other_versions_are_refused(tmp_path: Path, version: Any) -> None:
    minicpmv(tmp_path / "model", version=version)
    with pytest.raises(UserError, match=r"only MiniCPM-V 2.6 .* 'minicpmv4_6'") as caught:
        load_config(settings_of(tmp_path))
    assert f"its config has version {version}, " in str(caught.value)


def test_a_tokenizer_without_the_marks_is_refused(tmp_path: Path) -> None:
    minicpmv(tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    path.write_text(path.read_text().replace("<slice>", "<piece>"))
    with pytest.raises(UserError, match="has no token '<slice>'"):
        load_config(settings_of(tmp_path))


def test_without_its_preprocessor_config_it_is_told(tmp_path: Path) -> None:
    minicpmv(tmp_path / "model")
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"preprocessor_config.json"):
        load_config(settings_of(tmp_path))


def test_a_tower_whose_last_layer_stays_is_whole(tmp_path: Path) -> None:
    minicpmv(tmp_path / "model", drop_vision_last_layer=False)
    config, _ = load_config(settings_of(tmp_path))
    written = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config.vision_config.num_hidden_layers == written["vision_config"]["num_hidden_layers"]


def test_patches_have_the_places_that_the_published_tower_gives_them(policy: Policy) -> None:
    """70 x 70 places, as published: in a picture of 49 patches a side rounding decides on some."""
    edges = torch.arange(1 / 70, 1.0, 1 / 70)
    for rows, columns in [(24, 49), (49, 24), (58, 20), (25, 40), (1, 100)]:
        wanted = [
            torch.bucketize(torch.arange(0, 1 - 1e-6, 1 / torch.tensor(count)), edges, right=True)
            for count in (rows, columns)
        ]
        cells = [70 * int(row) + int(column) for row in wanted[0] for column in wanted[1]]
        assert patch_places(rows, columns, 70).tolist() == cells
    tower, picture = policy.bare.vpm.embeddings, torch.rand(1, 3, 14 * 5, 14 * 58)
    stand_in = SiglipVisionEmbeddings(policy.bare.config.vision_config.to_dict())
    stand_in.load_state_dict(tower.state_dict())
    mask = torch.ones(1, 5, 58, dtype=torch.bool)
    ours = tower(pixel_values=picture, patch_attention_mask=mask)
    strip = picture[0].unflatten(2, (58, 14)).unflatten(1, (5, 14)).permute(0, 2, 1, 3, 4)
    theirs = stand_in(strip.flatten(2), 5, 58)
    torch.testing.assert_close(ours, theirs)


def test_what_is_merged_has_the_repositorys_own_files(tmp_path: Path) -> None:
    minicpmv(tmp_path / "model")
    code = tmp_path / "model" / "processing_minicpmv.py"
    code.write_text("raise RuntimeError('this must not run')")
    path = tmp_path / "model" / "tokenizer_config.json"
    fields = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["a.B", None]}}
    path.write_text(json.dumps(fields))
    load_policy(settings_of(tmp_path)).processor.save_pretrained(tmp_path / "saved")
    for name in ("processing_minicpmv.py", "tokenizer_config.json", "preprocessor_config.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (path.parent / name).read_bytes()
