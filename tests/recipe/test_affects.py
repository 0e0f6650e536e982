"""Every setting says what it affects, and keys and fingerprints hold what they always held."""

from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import Field

from dpo_video.judge.scorer import ClaimRules, Scorer
from dpo_video.recipe import (
    CleanSettings,
    JudgeSettings,
    ModelSettings,
    Recipe,
    VideoSettings,
)
from dpo_video.recipe.affects import (
    ABSENT_AT_DEFAULT,
    Affects,
    affects,
    key_settings,
    names_that_affect,
    settings_that_affect,
)
from dpo_video.recipe.file import change_recipe, load_recipe
from dpo_video.recipe.section import Section

HELD = {
    "model": (
        "name revision family dtype quantize attention positions rope_factor "
        "trust_remote_code device"
    ),
    "clean": (
        "caption_min_words caption_max_words languages drop_refusals sample_similarity "
        "heldout_similarity max_per_source min_seconds max_seconds min_side max_aspect "
        "min_brightness min_motion frames same_answer drop_cut_answers answer_min_length "
        "answer_max_length max_repetition"
    ),
    "video": (
        "policy num_frames fps min_frames max_frames change min_pixels max_pixels "
        "cap_pixels max_tokens reserve_tokens backend"
    ),
    "generate": (
        "engine num_candidates temperature first_temperature first_tokens top_p top_k "
        "min_p mix max_new_tokens served_model video_as"
    ),
    "judge": (
        "backend model revision scorer score_from temperature repeat max_tokens "
        "ask_refused_again dtype device split_claims opponents jury cascade"
    ),
    "pair": (
        "rule min_margin noise_margins threshold rejected_sigmas max_pairs_per_sample "
        "min_rejected_score min_rejected_length implicit_rewards keep_hardest "
        "balance_length video_negatives tie_break"
    ),
    "train": (
        "loss beta learning_rate epochs max_steps batch_size gradient_accumulation "
        "warmup_ratio scheduler optimizer lora tune tokens_per_batch share_prefix "
        "gradient_checkpointing activation_offloading max_length trl"
    ),
    "train.lora": "rank alpha dropout",
    "evaluate": (
        "temperature max_new_tokens hallucination_scorer pairwise_scorer pair_samples "
        "pair_candidates bootstrap"
    ),
}
"""What the fingerprints of version 0.1 were made of. A setting that is added to one, or taken out,
redoes the stages of every run there is: a new one that affects no result is marked so.
"""


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
    for name, held in HELD.items():
        values: Any = kept
        section: Any = recipe
        for part in name.split("."):
            values, section = values[part], getattr(section, part)
        assert set(values) == set(held.split()), name
        added_since = {"lora": {"experts"}} if name == "train" else None
        assert values.items() <= section.model_dump(exclude=added_since).items()


@pytest.mark.parametrize(
    ("model", "what", "names"),
    [
        (
            VideoSettings,
            Affects.PIXELS | Affects.DECODER,  # a row of the cache of frames
            "policy num_frames fps min_frames max_frames change decode_size backend",
        ),
        (
            VideoSettings,
            Affects.PIXELS | Affects.SIZE,  # a stored candidate
            "policy num_frames fps min_frames max_frames change min_pixels max_pixels cap_pixels "
            "max_tokens reserve_tokens decode_size",
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


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ({"jury": [{}, {"model": "b"}]}, {"concurrency": 2, "base_url": "http://127.0.0.1:9/v1"}),
        ({"cascade": {"model": "small"}}, {"timeout": 9, "api_key_env": "none"}),
    ],
    ids=["jury", "cascade"],
)
def test_speed_settings_of_one_of_several_judges_are_in_no_fingerprint_either(
    section: dict[str, Any], changes: dict[str, Any]
) -> None:
    """`defaults=False` gives the fingerprint of before, which held them."""
    name = next(iter(section))
    changed = section[name]
    changed = [{}, changed[1] | changes] if name == "jury" else changed | changes
    plain = JudgeSettings.model_validate({"model": "a", **section})
    quick = JudgeSettings.model_validate({"model": "a", name: changed})
    assert key_settings(plain) == key_settings(quick)
    assert key_settings(plain, defaults=False) != key_settings(quick, defaults=False)
    other = JudgeSettings.model_validate({"model": "a", **section, "temperature": 1.0})
    assert key_settings(plain) != key_settings(other)


class Later(Section):
    fps: Annotated[float, Affects.PIXELS] = 2.0
    span: Annotated[float | None, Affects.PIXELS, ABSENT_AT_DEFAULT] = None


class Outer(Section):
    inner: Later = Later()
    listed: list[Later] = Field(default_factory=list)


def test_a_setting_that_came_later_is_in_keys_only_where_it_is_set() -> None:
    plain, spanned = Later(), Later(span=4.0)
    assert key_settings(plain) == {"fps": 2.0}
    assert key_settings(spanned) == {"fps": 2.0, "span": 4.0}
    assert settings_that_affect(plain, Affects.PIXELS) == {"fps": 2.0}
    assert settings_that_affect(spanned, Affects.PIXELS) == {"fps": 2.0, "span": 4.0}
    assert key_settings(Outer(inner=spanned, listed=[plain, spanned])) == {
        "inner": {"fps": 2.0, "span": 4.0},
        "listed": [{"fps": 2.0}, {"fps": 2.0, "span": 4.0}],
    }


def test_what_changes_weights_beside_them_stays_in_the_fingerprint() -> None:
    recipe = load_recipe("llava_hound_dpo")
    changed = change_recipe(recipe, ["train.trl.weight_decay=0.1", "train.trl.save_total_limit=5"])
    assert key_settings(changed)["train"]["trl"] == {"weight_decay": 0.1}
