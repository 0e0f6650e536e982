"""ZeRO-2 in two CPU processes, where DeepSpeed is installed: it is built with torch at hand, and so
stands in no extra (`DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed`). ZeRO-3 is refused.
"""

import importlib.util
from pathlib import Path

import pytest
import torch
from tiny_world import adapter_weights, make_pairs, make_recipe
from training import read_log, train_apart
from two_processes import both_shares_in_one_process, launched

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_jsonl
from dpo_video.recipe import DataSettings, JudgeSettings, ModelSettings, Recipe
from dpo_video.train.stage import train_on_rank

WITHOUT = importlib.util.find_spec("deepspeed") is None


@pytest.mark.skipif(WITHOUT, reason="DeepSpeed is not installed")
def test_zero_2_ends_with_the_weights_of_one_process(qwen: Path) -> None:
    recipe = make_recipe(qwen, name="zero2", epochs=1, gradient_accumulation=1)
    recipe.run_folder.mkdir(parents=True)
    write_jsonl(recipe.run_folder / "pairs.jsonl", make_pairs())
    code, said = train_apart([recipe], qwen, launcher=launched("zero2.yaml"))
    assert code == 0, said[-3000:]
    assert [row["step"] for row in read_log(recipe)] == [1, 2]
    written = adapter_weights(recipe.run_folder / "adapter")
    for name, weight in both_shares_in_one_process(qwen).items():
        torch.testing.assert_close(written[name], weight, atol=1e-6, rtol=1e-4)


def train_under(monkeypatch: pytest.MonkeyPatch, **launch: str) -> None:
    """Train as a process that accelerate launch started with DeepSpeed (accelerate/utils/launch.py)
    by a recipe whose model does not exist.
    """
    settings = {"ACCELERATE_USE_DEEPSPEED": "true", "WORLD_SIZE": "2", "RANK": "1", **launch}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    train_on_rank(
        Recipe(
            name="r",
            model=ModelSettings(name="no-such-model"),
            data=DataSettings(samples="s.jsonl"),
            judge=JudgeSettings(model="j"),
        )
    )


def test_zero_3_is_refused_before_a_model_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"zero_stage is 3, .*Take .*fsdp2\.yaml"):
        train_under(monkeypatch, ACCELERATE_DEEPSPEED_ZERO_STAGE="3")


def test_zero_3_of_deepspeeds_own_file_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"stage": 3}}')
    with pytest.raises(UserError, match=r"zero_stage is 3 in '.*ds\.json'.*fsdp2\.yaml"):
        train_under(monkeypatch, ACCELERATE_DEEPSPEED_CONFIG_FILE=str(file))
    file.write_text('{"zero_optimization": {"stage": 2}}')
    with pytest.raises(UserError, match="no-such-model"):  # it is let through
        train_under(monkeypatch, ACCELERATE_DEEPSPEED_CONFIG_FILE=str(file))


@pytest.mark.parametrize("text", [None, "{"])
def test_a_file_of_deepspeed_that_cannot_be_read_is_told(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ds.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=r"deepspeed_config_file .*ds\.json.* cannot be read"):
        train_under(monkeypatch, ACCELERATE_DEEPSPEED_CONFIG_FILE=str(file))
