"""FSDP: what is refused before anything is loaded, and where weights lie until they are sharded;
see test_train.py.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_models import Kind, tiny_policy
from tiny_world import KINDS

from dpo_video.core.errors import UserError
from dpo_video.models.load import load_policy, move_all_but_language
from dpo_video.recipe import DataSettings, JudgeSettings, ModelSettings, Recipe, TrainSettings
from dpo_video.train.dpo_config import FSDP_CONFIG
from dpo_video.train.fsdp import check_fsdp, sharding
from dpo_video.train.stage import train_on_rank


def recipe(*, model: dict[str, Any] | None = None, **train: Any) -> Recipe:
    return Recipe(
        name="r",
        model=ModelSettings(**{"name": "no-such-model", **(model or {})}),
        data=DataSettings(samples="s.jsonl"),
        judge=JudgeSettings(model="j"),
        train=TrainSettings(**train),
    )


def launched(monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    """Set what accelerate launch sets for the shipped file (accelerate/utils/launch.py:304), with
    changes.
    """
    config = yaml.safe_load(FSDP_CONFIG.read_text(encoding="utf-8"))
    assert config["distributed_type"] == "FSDP"
    given = {name.upper(): str(value).lower() for name, value in config["fsdp_config"].items()}
    given["FSDP_STATE_DICT_TYPE"] = config["fsdp_config"]["fsdp_state_dict_type"]
    for name, value in {
        "ACCELERATE_USE_FSDP": "true",
        "WORLD_SIZE": "2",
        **given,
        **changes,
    }.items():
        monkeypatch.setenv(name, value)


def test_the_shipped_file_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sharding() is None
    launched(monkeypatch)
    check_fsdp(recipe())
    assert sharding() == "fsdp2 SHARDED_STATE_DICT"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"FSDP_VERSION": "1"},
            r"fsdp_version is 1, and FSDP1 packs.*Set fsdp_version to 2, as in .*fsdp2\.yaml",
        ),
        ({"WORLD_SIZE": "1"}, "over several processes, and this is one"),
        (
            {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
            r"fsdp_cpu_ram_efficient_loading is true.*Set it to false",
        ),
        (
            {"FSDP_ACTIVATION_CHECKPOINTING": "true"},
            r"train\.gradient_checkpointing is the one place.*Set it to false",
        ),
    ],
)
def test_settings_of_the_launcher_that_cannot_work_are_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], told: str
) -> None:
    launched(monkeypatch, **changes)
    with pytest.raises(UserError, match=told):
        check_fsdp(recipe())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"model": {"quantize": "nf4"}},
            r"model\.quantize is 'nf4'.*cannot be sharded.*Set model\.quantize to none",
        ),
        (
            {"optimizer": "paged_adamw_8bit"},
            r"train\.optimizer is 'paged_adamw_8bit'.*Set train\.optimizer to adamw_torch",
        ),
    ],
)
def test_recipes_that_cannot_be_sharded_are_refused_before_a_model_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], told: str
) -> None:
    """The recipe's model does not exist."""
    launched(monkeypatch, RANK="1")
    with pytest.raises(UserError, match=told):
        train_on_rank(recipe(**settings))


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_language_model_waits_in_main_memory(tmp_path: Path, kind: Kind) -> None:
    """Another device is stood in for by torch's `meta`."""
    policy = load_policy(
        ModelSettings(name=str(tiny_policy(kind, tmp_path)), device="cpu"), to_shard=True
    )
    move_all_but_language(policy.bare, torch.device("meta"))
    tensors = {**dict(policy.bare.named_parameters()), **dict(policy.bare.named_buffers())}
    waiting = {name for name, tensor in tensors.items() if tensor.device.type == "cpu"}
    assert waiting == {
        name for name in tensors if "language_model" in name or name.startswith("lm_head")
    }
    assert 0 < len(waiting) < len(tensors)
