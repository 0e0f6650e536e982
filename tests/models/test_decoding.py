"""Decoding at the model's size: shapes as the processor makes them, pixels close to its own, and
other keys.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import write_clip
from family_cases import family_settings
from PIL import Image
from tiny_world import make_recipe

from dpo_video.core.errors import UserError
from dpo_video.models.clip_source import ClipSource, ReadyClip, open_source
from dpo_video.models.decoding import model_pool, size_rule
from dpo_video.models.families import FAMILIES
from dpo_video.models.hub import model_spec
from dpo_video.models.load import load_policy
from dpo_video.models.tokens import frame_size
from dpo_video.recipe import Recipe, VideoSettings
from dpo_video.video import ClipRequest, Frames
from dpo_video.video.cache import cache_folder

STATED = sorted(name for name, family in FAMILIES.items() if family.resized is not None)
WIDTH, HEIGHT = 1280, 704


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "c.mp4"
    write_clip(path, 12, size=(WIDTH, HEIGHT))
    return path


def recipe_of(folder: Path, family: str, **video: Any) -> Recipe:
    recipe = make_recipe(folder, video={"num_frames": 4, "decode_size": "model", **video})
    return recipe.model_copy(update={"model": family_settings(family)})


def read(recipe: Recipe, clip: Path) -> Frames:
    with model_pool(model_spec(recipe.model), recipe.video) as pool:
        frames = pool.read(ClipRequest(key="c", video=clip))
    assert isinstance(frames, Frames), frames
    return frames


@contextmanager
def opened(recipe: Recipe) -> Iterator[ClipSource]:
    with open_source(load_policy(recipe.model), recipe) as source:
        yield source


def ready(source: ClipSource, clip: Path) -> ReadyClip:
    ((_, made),) = source.map([ClipRequest(key="c", video=clip)])
    assert isinstance(made, ReadyClip), made
    return made


@pytest.mark.parametrize("family", STATED)
def test_the_processor_leaves_frames_of_the_stated_size_as_they_are(
    family: str, tmp_path: Path, clip: Path
) -> None:
    """With its resizing switched off it makes the same of them: nothing is left for it to do; and
    from the frames as they were it makes tensors of the same shapes and nearly the same values.
    """
    recipe = recipe_of(tmp_path, family)
    spec = model_spec(recipe.model)
    frames = read(recipe, clip)
    assert frames.own_size == (HEIGHT, WIDTH)
    size = frame_size(spec, recipe.video, num_frames=4, height=HEIGHT, width=WIDTH)
    assert frames.pixels.shape[1] >= size.height and frames.pixels.shape[2] >= size.width
    assert frames.pixels.shape[1] * frames.pixels.shape[2] < HEIGHT * WIDTH
    policy = load_policy(recipe.model)
    with open_source(policy, recipe) as source:
        small = ready(source, clip)
    policy.frame_processor.do_resize = False
    with open_source(policy, recipe) as source:
        unresized = ready(source, clip)
    native = recipe.video.model_copy(update={"decode_size": "native"})
    with opened(recipe.model_copy(update={"video": native})) as source:
        own = ready(source, clip)
    assert small.inputs.expansions == own.inputs.expansions
    for name, tensor in small.inputs.pixels.items():
        assert torch.equal(tensor, unresized.inputs.pixels[name])
        assert tensor.shape == own.inputs.pixels[name].shape
        apart = (tensor - own.inputs.pixels[name]).abs().mean()
        assert 0 < apart < 0.05, "of values that are spread by about one"


def test_frames_that_a_budget_leaves_are_decoded_at_the_size_that_they_get(
    tmp_path: Path, clip: Path
) -> None:
    """Fewer frames may be larger, where a total of pixels bounds the clip: of the frames as they
    were decoded as many stay, of the same size.
    """
    for decode_size in ("native", "model"):
        bounds = {"num_frames": 12, "max_tokens": 33}
        recipe = recipe_of(tmp_path, "qwen3_vl", decode_size=decode_size, **bounds)
        with opened(recipe) as source:
            made = ready(source, clip)
        grid = made.inputs.clip_inputs["video_grid_thw"].tolist()
        if decode_size == "native":
            expected = grid, made.frames_dropped
    assert (grid, made.frames_dropped) == expected and made.frames_dropped > 0


def test_frames_are_never_made_larger_and_turned_ones_are_made_smaller_upright(
    tmp_path: Path,
) -> None:
    recipe = recipe_of(tmp_path, "llava_next_video")
    write_clip(tmp_path / "small.mp4", 6, size=(128, 16))
    assert read(recipe, tmp_path / "small.mp4").own_size is None
    write_clip(tmp_path / "turned.mp4", 6, size=(WIDTH, HEIGHT), rotation=90)
    turned = read(recipe, tmp_path / "turned.mp4")
    assert turned.own_size == (WIDTH, HEIGHT)
    _, height, width, _ = turned.pixels.shape
    assert height / width == pytest.approx(WIDTH / HEIGHT, rel=0.05)
    native = recipe.video.model_copy(update={"decode_size": "native"})
    own = read(recipe.model_copy(update={"video": native}), tmp_path / "turned.mp4")
    for one, other in zip(turned.pixels, own.pixels, strict=True):
        small = Image.fromarray(other).resize((width, height), Image.Resampling.BICUBIC)
        assert np.abs(one.astype(float) - np.asarray(small)).mean() < 3


def test_a_folder_of_frames_is_made_smaller_too(tmp_path: Path, clip: Path) -> None:
    recipe = recipe_of(tmp_path, "qwen2_5_vl", decode_size="native")
    (tmp_path / "frames").mkdir()
    for number, pixels in enumerate(read(recipe, clip).pixels):
        Image.fromarray(pixels).save(tmp_path / "frames" / f"{number}.png")
    smaller = recipe_of(tmp_path, "qwen2_5_vl")
    frames = read(smaller, tmp_path / "frames")
    from_file = read(smaller, clip)
    assert frames.pixels.shape == from_file.pixels.shape and frames.own_size == (HEIGHT, WIDTH)
    assert np.abs(frames.pixels.astype(float) - from_file.pixels).mean() < 3


@pytest.mark.parametrize("kept", ["frames", "features"])
def test_what_is_kept_of_one_size_is_not_found_for_the_other(
    kept: str, tmp_path: Path, clip: Path
) -> None:
    """Two entries, one a size; of frames a third for another bound on pixels, which changes what
    is decoded under `model` alone.
    """
    for changes in ({"decode_size": "native"}, {}, {}):
        with opened(recipe_of(tmp_path, "qwen2_5_vl", cache=kept, **changes)) as source:
            source.encode(ready(source, clip))
            again = source.counts["decoded"] == 0
    assert again
    recipe = recipe_of(tmp_path, "qwen2_5_vl", cache=kept)
    sizes = sorted(path.stat().st_size for path in cache_folder(recipe).glob("*/*"))
    assert len(sizes) == 2
    if kept == "frames":
        assert sizes[0] < sizes[1] / 4
    with opened(recipe_of(tmp_path, "qwen2_5_vl", cache=kept, max_pixels=4 * 28 * 28)) as source:
        ready(source, clip)
        assert source.counts["decoded"] == 1


def test_a_family_that_states_no_size_refuses_it() -> None:
    unstated = next(family for name, family in sorted(FAMILIES.items()) if name not in STATED)
    spec = model_spec(family_settings(unstated.name))
    with pytest.raises(UserError, match=r"video\.decode_size is 'model', and .*'native'"):
        size_rule(spec, VideoSettings(decode_size="model"))
    assert size_rule(spec, VideoSettings()) is None
