"""The commands that serve and measure a run."""

from pathlib import Path

import pytest

from dpo_video.parity.serving_commands import serving_text
from dpo_video.recipe.file import load_recipe

DOCUMENT = Path(__file__).parents[2] / "docs" / "serving.md"


def commands(*overrides: str) -> str:
    recipe = load_recipe("qwen2_5_vl_7b", ["name=mine", "data.samples=mine.jsonl", *overrides])
    return serving_text(recipe, recipe.run_folder / "merged")


def test_the_document_shows_what_merge_prints() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for block in commands().split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        assert all(line in text for line in lines), block


@pytest.mark.parametrize(("rank", "served"), [(8, 8), (64, 64), (100, 128)])
def test_vllm_is_told_a_rank_that_it_takes_and_that_holds_the_adapter(rank, served) -> None:
    assert f"--max-lora-rank {served} " in commands(f"train.lora.rank={rank}")


def test_an_adapter_of_the_tower_is_served_as_one() -> None:
    assert "--enable-tower-connector-lora" not in commands()
    assert "--enable-tower-connector-lora" in commands("train.tune=[language,vision]")


def test_frames_and_pixels_are_the_recipes() -> None:
    text = commands("video.max_pixels=100352")
    assert "max_pixels=100352,max_num_frames=64,fps=2 " in text and '"num_frames": 64' in text
    uniform = commands("video.policy=uniform", "video.num_frames=16")
    assert "max_num_frames=16 " in uniform and '"num_frames": 16' in uniform


def test_tuned_experts_are_served_merged_alone() -> None:
    """No server was seen to read PEFT's updates of experts."""
    assert "--enable-lora" in commands()
    experts = commands("train.lora.experts=true")
    assert "--enable-lora" not in experts and "the merged model" in experts
