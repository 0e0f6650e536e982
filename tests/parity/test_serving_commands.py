"""The commands that serve and measure a run."""

from pathlib import Path

import pytest
from stand_ins.flat_checkpoints import STAND_INS as OWN_LAYOUT

from dpo_video.parity.server_commands import merged_commands
from dpo_video.parity.serving_commands import serving_text
from dpo_video.recipe.file import change_recipe, load_recipe

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


def test_tuned_experts_are_served_merged_alone_and_it_says_why() -> None:
    assert "--enable-lora" in commands()
    experts = commands("train.lora.experts=true")
    assert "--enable-lora" not in experts and "# the merged model" in experts
    assert "# base and adapter: there is no command, as no server was seen to read" in experts


def test_an_adapter_that_fits_this_package_alone_is_served_merged(tmp_path: Path) -> None:
    """MiniCPM-V's layers have their published names, LLaVA-Video's do not."""
    for name, merged_only in (("llava_qwen", True), ("minicpmv", False)):
        OWN_LAYOUT[name](tmp_path / name)
        text = commands(f"model.name={tmp_path / name}")
        assert ("there is no command, as its layers have names of this package" in text) == (
            merged_only
        )
        assert ("--enable-lora" in text) != merged_only
        assert "--model huggingface" not in text and "transformers serve" not in text


def test_code_of_a_repository_runs_where_it_was_allowed_to() -> None:
    """A file of the user's own is none of a server's."""
    recipe = load_recipe("qwen2_5_vl_7b", ["name=mine", "data.samples=mine.jsonl"])
    for changes, allowed in (
        ([], False),
        (["model.trust_remote_code=true", "model.revision=" + 40 * "a"], True),
        (["model.trust_remote_code=true", "model.family=mine.py"], False),
    ):
        lines = merged_commands(change_recipe(recipe, changes), Path("merged"))
        assert [("--trust-remote-code" in line) for line in lines] == [allowed] * 3
