"""What a run keeps of its clips on disk: which form, and as many bytes as were foretold."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from clips import write_clip
from family_cases import family_settings
from tiny_world import make_recipe

from dpo_video import __version__
from dpo_video.models.clip_source import open_source, read_features, tower_identity
from dpo_video.models.families import FAMILIES
from dpo_video.models.hub import model_spec
from dpo_video.models.kept_clips import kept_bytes, kept_of_clips
from dpo_video.models.load import load_policy
from dpo_video.recipe import Recipe, TrainSettings, VideoSettings
from dpo_video.video import ClipRequest
from dpo_video.video.cache import cache_folder, cache_size, read_frames_entry

HEIGHT, WIDTH = 64, 160


def recipe_of(folder: Path, family: str, **video: Any) -> Recipe:
    recipe = make_recipe(folder, video={"num_frames": 6, **video})
    return recipe.model_copy(update={"model": family_settings(family, dtype="float32")})


@pytest.mark.parametrize(
    ("family", "max_tokens", "kept"),
    [
        ("qwen2_5_vl", None, "features"),
        ("qwen2_5_vl", 12, "features"),
        ("qwen3_vl", None, "features"),
        ("qwen3_5", None, "features"),
        ("llava_next_video", None, "features"),
        ("instructblipvideo", None, "frames"),
    ],
)
def test_an_entry_holds_as_many_bytes_as_are_foretold(
    tmp_path: Path, family: str, max_tokens: int | None, kept: str
) -> None:
    """Features in float32, those of Qwen3-VL's early layers among them, or pixels."""
    recipe = recipe_of(tmp_path, family, max_tokens=max_tokens)
    policy = load_policy(recipe.model)
    write_clip(tmp_path / "c.mp4", 12, size=(WIDTH, HEIGHT))
    with open_source(policy, recipe) as source:
        ((_, clip),) = source.map([ClipRequest(key="c.mp4", video=tmp_path / "c.mp4")])
        source.encode(clip)  # type: ignore[arg-type]
    (entry,) = cache_folder(recipe).glob("*/*")
    entry.with_name("gone").symlink_to("nowhere")  # as what another process removes meanwhile
    data = entry.read_bytes().partition(b"\n")[2]
    if kept == "features":
        features = read_features(data).features
        tensors = (features.embeddings, *features.layers)
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        assert (len(features.layers) > 0) == (family == "qwen3_vl")
    else:
        num_bytes = read_frames_entry(data).pixels.nbytes
    foretold = kept_bytes(
        recipe,
        model_spec(recipe.model),
        frames_taken=6,
        frames_seen=6 - clip.frames_dropped,  # type: ignore[union-attr]
        height=HEIGHT,
        width=WIDTH,
    )
    assert num_bytes == foretold
    assert cache_size(recipe) == {
        "folder": str(cache_folder(recipe)),
        "clips": 1,
        "gigabytes": entry.stat().st_size / 1e9,
    }


def test_features_of_another_version_are_made_again() -> None:
    """A family's code, or a library's, may make others."""
    model = load_policy(family_settings("qwen2_5_vl"))
    libraries = {name: version(name) for name in ("torch", "transformers")}
    versions = tower_identity(model, VideoSettings())["versions"]
    assert versions == {"dpo-video": __version__, **libraries}


def test_what_auto_keeps_is_what_all_stages_can_read(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    tuned = recipe.model_copy(update={"train": TrainSettings(tune=["language", "projector"])})
    for name, family in FAMILIES.items():
        assert kept_of_clips(tuned, family) == "frames", name
        expected = "frames" if family.encode == "in_forward" else "features"
        assert kept_of_clips(recipe, family) == expected, name
    for cache in ("none", "frames", "features"):
        asked = make_recipe(tmp_path, video={"cache": cache})
        assert kept_of_clips(asked, FAMILIES["qwen2_5_vl"]) == cache
        assert kept_bytes_of_a_frame(asked) == {"none": 0, "frames": 3 * 28 * 28}.get(
            cache, kept_bytes_of_a_frame(recipe)
        )


def kept_bytes_of_a_frame(recipe: Recipe) -> int:
    recipe = recipe.model_copy(update={"model": family_settings("qwen2_5_vl")})
    spec = model_spec(recipe.model)
    return kept_bytes(recipe, spec, frames_taken=1, frames_seen=1, height=28, width=28)
