"""train.trl and train.loss: what reaches TRL, and what is refused with what to do instead."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from trl import DPOConfig, DPOTrainer

from dpo_video.core.errors import UserError
from dpo_video.recipe import (
    DataSettings,
    JudgeSettings,
    LoraSettings,
    ModelSettings,
    Recipe,
    TrainSettings,
)
from dpo_video.train.dpo_config import (
    LOSSES,
    REFUSED_FIELDS,
    SET_BY_RECIPE,
    TUNABLE,
    check_train_settings,
    dpo_config,
)


def recipe(**train: Any) -> Recipe:
    return Recipe(
        name="r",
        model=ModelSettings(name="m"),
        data=DataSettings(samples="s.jsonl"),
        judge=JudgeSettings(model="j"),
        train=TrainSettings(**train),
    )


def config(tmp_path: Path, **train: Any) -> DPOConfig:
    return dpo_config(recipe(**train), output_dir=tmp_path, precision="no", use_cpu=True)


def test_the_recipe_s_numbers_reach_trl(tmp_path: Path) -> None:
    made = config(
        tmp_path,
        loss=["sigmoid", "sft"],
        beta=0.3,
        batch_size=2,
        gradient_accumulation=4,
        max_steps=17,
        optimizer="adamw_torch_fused",
        trl={"loss_weights": [1.0, 0.2], "adam_beta2": 0.95},
    )
    assert (made.loss_type, made.loss_weights, made.beta) == (["sigmoid", "sft"], [1.0, 0.2], 0.3)
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps, made.max_steps) == (
        2,
        4,
        17,
    )
    assert (made.optim, made.adam_beta2, made.report_to) == ("adamw_torch_fused", 0.95, [])


def test_trl_never_cuts_a_sequence_and_never_checkpoints_reentrantly(tmp_path: Path) -> None:
    made = config(tmp_path)
    assert made.max_length is None
    assert made.gradient_checkpointing and made.gradient_checkpointing_kwargs == {
        "use_reentrant": False
    }
    assert not config(tmp_path, gradient_checkpointing=False).gradient_checkpointing


@pytest.mark.parametrize("ratio, steps", [(0.1, 2), (0.0, 0), (1.0, 20)])
def test_warmup_is_a_share_of_the_steps(tmp_path: Path, ratio: float, steps: int) -> None:
    """transformers takes 1.0 as one step; of 20 steps a ratio of 1 is 20."""
    assert config(tmp_path, warmup_ratio=ratio).get_warmup_steps(20) == steps


@pytest.mark.parametrize(
    "key, told",
    [
        ("beta", "set `train.beta` instead"),
        ("max_length", "set `train.max_length` instead"),
        ("warmup_steps", "set `train.warmup_ratio` instead"),
        ("padding_free", "video rows are padded"),
        ("precompute_ref_log_probs", "does not notice a change of frames"),
        ("truncation_mode", "loses video tokens"),
        ("hub_token", "never holds a token"),
        ("loss_weight", "Did you mean 'loss_weights'?"),
    ],
)
def test_a_key_that_cannot_be_used_is_refused_with_what_to_do(key: str, told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)) as error:
        check_train_settings(recipe(trl={key: 1}))
    assert f"`train.trl.{key}`" in str(error.value)


def test_an_unknown_loss_names_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"unknown loss in train\.loss 'sigmoyd'\. Did you mean 'sigmoid'"
    ):
        check_train_settings(recipe(loss=["sigmoyd"]))


@pytest.mark.parametrize(
    ("loss", "trl", "told"),
    [
        (
            "robust",
            {"label_smoothing": 0.5},
            "label_smoothing` is 0.5, but for `train.loss` 'robust'",
        ),
        (
            "exo_pair",
            {"label_smoothing": 0},
            "'exo_pair' needs `train.trl.label_smoothing` above 0",
        ),
        (
            "sigmoid",
            {"label_smoothing": "x"},
            "`train.trl.label_smoothing` must be a number, got 'x'",
        ),
        ("sigmoid", {"f_divergence_type": "js"}, "unknown train.trl.f_divergence_type 'js'"),
        (
            "sigmoid",
            {"max_grad_norm": True},
            "`train.trl.max_grad_norm` must be a number, got True",
        ),
        ("sigmoid", {"ddp_timeout": 1.5}, "`train.trl.ddp_timeout` must be an integer, got 1.5"),
    ],
)
def test_a_value_that_breaks_the_loss_is_refused_before_training(
    loss: str, trl: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        check_train_settings(recipe(loss=[loss], trl=trl))


def test_a_value_that_trl_refuses_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"TRL refuses the training settings.*loss_weights"):
        config(tmp_path, trl={"loss_weights": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"scheduler": "cosine_with_min_lr"}, "One of min_lr or min_lr_rate should be set"),
        ({"trl": {"lr_scheduler_kwargs": {"foo": 1}}}, "unexpected keyword argument 'foo'"),
        ({"trl": {"optim_args": "betas"}}, "not enough values to unpack"),
        ({"optimizer": "lomo"}, "You need to install `lomo_optim`"),
    ],
)
def test_an_optimizer_or_a_schedule_that_cannot_be_made_is_found_before_training(
    tmp_path: Path, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=f"TRL refuses the training settings.*{told}"):
        config(tmp_path, **settings)


def test_lora_dropout_that_trl_would_switch_off_is_refused(tmp_path: Path) -> None:
    dropout = LoraSettings(dropout=0.05)
    with pytest.raises(UserError, match=r"TRL switches dropout off.*disable_dropout: false"):
        check_train_settings(recipe(lora=dropout))
    assert not config(tmp_path, lora=dropout, trl={"disable_dropout": False}).disable_dropout


def test_fewer_than_two_checkpoints_are_refused() -> None:
    with pytest.raises(UserError, match="keep at least 2 checkpoints"):
        check_train_settings(recipe(trl={"save_total_limit": 1}))


def test_the_losses_are_those_of_the_installed_trl() -> None:
    """TRL keeps no table of its losses; its error message lists them."""
    source = inspect.getsource(DPOTrainer._compute_loss)
    assert set(re.findall(r'loss_type == "(\w+)"', source)) == set(LOSSES)


def test_every_named_field_is_one_of_the_installed_trl() -> None:
    fields = {field.name for field in dataclasses.fields(DPOConfig)}
    assert set(SET_BY_RECIPE) | set(REFUSED_FIELDS) | TUNABLE <= fields
    assert not set(SET_BY_RECIPE) & set(REFUSED_FIELDS)
    assert not TUNABLE & (set(SET_BY_RECIPE) | set(REFUSED_FIELDS))


def test_a_field_of_trl_that_nobody_tried_on_video_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also one that the next TRL adds: only what stands in TUNABLE reaches it."""
    field = dataclasses.field(default=False)
    monkeypatch.setitem(DPOConfig.__dataclass_fields__, "next_year_s_trick", field)
    field.name, field.type = "next_year_s_trick", bool
    field._field_type = DPOConfig.__dataclass_fields__["beta"]._field_type  # type: ignore[attr-defined]
    for key in ("next_year_s_trick", "use_cache", "accelerator_config"):
        with pytest.raises(UserError, match=f"`train.trl.{key}` is not known to work on video"):
            check_train_settings(recipe(trl={key: True}))


def test_every_owned_key_points_at_a_recipe_key() -> None:
    for target in SET_BY_RECIPE.values():
        section, _, key = target.partition(" ")[0].partition(".")
        assert section in Recipe.model_fields, target
        if key and not key.startswith("trl."):
            assert key in Recipe.model_fields[section].annotation.model_fields, target  # type: ignore[union-attr]
