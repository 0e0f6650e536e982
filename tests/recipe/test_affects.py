"""Every setting says what it affects, and keys and fingerprints hold what they always held."""

from collections.abc import Iterator

import pytest

from dpo_video.judge.scorer import ClaimRules, Scorer
from dpo_video.recipe import (
    CleanSettings,
    DataSettings,
    GenerateSettings,
    JudgeSettings,
    ModelSettings,
    Recipe,
    TrainSettings,
    VideoSettings,
)
from dpo_video.recipe.affects import Affects, affects, key_settings, names_that_affect
from dpo_video.recipe.file import change_recipe, load_recipe
from dpo_video.recipe.section import Section

NO_RESULT = {
    DataSettings: {"outside_root"},
    VideoSettings: {
        "preset",
        "workers",
        "timeout",
        "max_clip_gb",
        "cache",
        "cache_gb",
        "cache_folder",
    },
    GenerateSettings: {
        "base_url",
        "batch_size",
        "concurrency",
        "timeout",
        "retries",
        "api_key_env",
    },
    JudgeSettings: {
        "base_url",
        "api_key_env",
        "batch_size",
        "concurrency",
        "timeout",
        "retries",
        "max_failed_fraction",
        "max_unscored_fraction",
        "engine",
        "answers_as",
        "prices",
        "max_cost",
    },
    TrainSettings: {"save_steps", "logging_steps", "reference_folder"},
}
"""Settings that no fingerprint of an earlier version held."""


def sections(model: type[Section] = Section) -> Iterator[type[Section]]:
    for inner in model.__subclasses__():
        yield inner
        yield from sections(inner)


def test_every_setting_says_what_it_affects() -> None:
    assert {Recipe, VideoSettings, Scorer, ClaimRules} <= set(sections())
    for section in sections():
        if not section.__module__.startswith("dpo_video."):
            continue
        for name, field in section.model_fields.items():
            try:
                affects(field)
            except LookupError as error:
                pytest.fail(f"{section.__name__}.{name}: {error}")


def test_a_setting_without_a_mark_is_found() -> None:
    class Unmarked(Section):
        workers: int = 2

    with pytest.raises(LookupError, match="without a mark"):
        key_settings(Unmarked())


def test_fingerprints_hold_the_settings_that_they_always_held() -> None:
    recipe = load_recipe("qwen2_5_vl_7b")
    kept = key_settings(recipe)
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section) and name != "tracking":
            assert set(kept[name]) == set(section.model_fields) - NO_RESULT.get(section, set())
            assert kept[name].items() <= getattr(recipe, name).model_dump().items()


@pytest.mark.parametrize(
    ("model", "what", "names"),
    [
        (
            VideoSettings,
            Affects.PIXELS | Affects.DECODER,  # a row of the cache of frames
            "policy num_frames fps min_frames max_frames change backend",
        ),
        (
            VideoSettings,
            Affects.PIXELS | Affects.SIZE,  # a stored candidate
            "policy num_frames fps min_frames max_frames change min_pixels max_pixels cap_pixels "
            "max_tokens reserve_tokens",
        ),
        (
            VideoSettings,
            Affects.SIZE,  # the features of a clip and the log-probs of the reference: a list
            "min_pixels max_pixels cap_pixels max_tokens reserve_tokens",
        ),
        (
            ModelSettings,
            Affects.WEIGHTS,  # checkpoints
            "name revision family dtype quantize attention positions rope_factor trust_remote_code",
        ),
        (
            CleanSettings,
            Affects.SAMPLES,  # whether training samples are filtered at all
            "caption_min_words caption_max_words languages drop_refusals sample_similarity "
            "heldout_similarity max_per_source min_seconds max_seconds min_side max_aspect "
            "min_brightness min_motion",
        ),
        (
            Scorer,
            Affects.SCORES,  # the hash of a scorer file, with coverage by its own hash
            "coverage mode prompt verdict reply_prefix labels scale label_ranges claims "
            "needs_reference",
        ),
        (ClaimRules, Affects.SCORES, "prompt most"),
    ],
)
def test_stored_rows_are_keyed_by_the_settings_that_they_always_were(
    model: type[Section], what: Affects, names: str
) -> None:
    assert names_that_affect(model, what) == tuple(names.split())


@pytest.mark.parametrize(
    "override",
    [
        "video.backend=decord",
        "video.preset=llava_hound",
        "train.gradient_checkpointing=true",
        "train.activation_offloading=true",
        "train.trl.save_total_limit=5",
        "train.trl.ddp_timeout=7200",
        "train.trl.logging_nan_inf_filter=false",
        "train.trl.log_level=info",
        "train.trl.torch_empty_cache_steps=10",
    ],
)
def test_a_setting_that_touches_no_result_is_in_no_fingerprint(override: str) -> None:
    recipe = load_recipe("llava_hound_dpo")
    assert key_settings(change_recipe(recipe, [override])) == key_settings(recipe)


def test_what_changes_weights_beside_them_stays_in_the_fingerprint() -> None:
    recipe = load_recipe("llava_hound_dpo")
    changed = change_recipe(recipe, ["train.trl.weight_decay=0.1", "train.trl.save_total_limit=5"])
    assert key_settings(changed)["train"]["trl"] == {"weight_decay": 0.1}
