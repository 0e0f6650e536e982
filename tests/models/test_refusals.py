"""What is refused says why, and what is nearest: every row that can refuse a checkpoint, and every
system that has none.
"""

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import (
    Gemma4Config,
    InstructBlipVideoConfig,
    InstructBlipVideoQFormerConfig,
    InstructBlipVideoVisionConfig,
    MiniCPMV4_6Config,
    T5Config,
)

from dpo_video.models.families import FAMILIES, Family
from dpo_video.models.families.kimi import refuses_before
from dpo_video.models.hub import SUCCESSORS, own_code_rows, own_layout_rows

ROWS: dict[str, Family] = {**FAMILIES, **own_code_rows(), **own_layout_rows()}


class Fields(SimpleNamespace):
    """A config of a layout of its own that states nothing but what it is given."""

    def field(self, name: str, default: Any = None) -> Any:
        return vars(self).get(name, default)


def flan_t5() -> InstructBlipVideoConfig:
    """Return the config of an InstructBLIP on FLAN-T5: an encoder-decoder."""
    return InstructBlipVideoConfig(
        vision_config=InstructBlipVideoVisionConfig().to_dict(),
        qformer_config=InstructBlipVideoQFormerConfig().to_dict(),
        text_config=T5Config().to_dict(),
    )


def minicpm_of_experts() -> MiniCPMV4_6Config:
    """Return the config of a MiniCPM-V whose language model is of experts."""
    return MiniCPMV4_6Config(text_config={"model_type": "qwen3_5_moe_text"})


REFUSED: dict[str, Any] = {
    "instructblipvideo": flan_t5,
    "gemma4": lambda: Gemma4Config(vision_config=None),
    "gemma4_moe": lambda: Gemma4Config(vision_config=None),
    "minicpmv4_6": minicpm_of_experts,
    "minicpmv4_7": minicpm_of_experts,
    "internvl_chat": lambda: Fields(llm_config=Fields(architectures=["GemmaForCausalLM"])),
    "qwen": Fields,
    "llava_qwen": lambda: Fields(mm_projector_type="linear"),
    "video_llama": lambda: Fields(conversation="vicuna_v1"),
    "videollama2": lambda: Fields(mm_projector_type="linear"),
    "minicpmv": lambda: Fields(version="2.5"),
}
"""A config that each row refuses."""


def test_every_row_that_can_refuse_stands_in_the_table() -> None:
    plain = FAMILIES["llava"].refuses.__code__
    refusing = {name for name, row in ROWS.items() if row.refuses.__code__ is not plain}
    assert refusing == {*REFUSED, "kimi_k25"}


def test_kimi_is_refused_on_a_transformers_that_splits_its_clips_wrongly() -> None:
    assert [refuses_before("5.24", at) for at in ("5.24.0", "5.24.1", "6.0")] == [None] * 3
    assert FAMILIES["kimi_k25"].refuses(None) is None  # the installed one
    reason = refuses_before("5.24", "5.23.0")
    assert reason is not None and "transformers 5.23.0" in reason
    assert any(family in reason.partition("nearest")[2] for family in FAMILIES)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_checkpoint_is_told_why_and_what_is_nearest(name: str) -> None:
    reason = ROWS[name].refuses(REFUSED[name]())
    assert reason is not None and "\n" not in reason
    before, word, after = reason.partition("nearest")
    assert before.strip() and word, reason
    assert any(family in after for family in FAMILIES), reason


@pytest.mark.parametrize("kind", SUCCESSORS)
def test_a_system_without_a_row_has_a_reason_and_a_nearest_family(kind: str) -> None:
    what, nearest, why = SUCCESSORS[kind]
    assert what and why and nearest in FAMILIES and kind not in FAMILIES


@pytest.mark.parametrize("name", ROWS)
def test_what_a_row_does_not_do_has_its_reason(name: str) -> None:
    row = ROWS[name]
    assert bool(row.why_not_shared) == (not row.shared_prefix)
    assert row.no_4_bit is None or len(row.no_4_bit) > 20
    assert row.no_4_bit is not None or not row.expert_parameters
