"""The conformance suite: what every family must do before its row may stand in FAMILIES.

scripts/families_table.py runs these checks and writes their outcomes into docs/families.md.
"""

import re
from pathlib import Path

import pytest
from family_cases import each_family, subject_of
from tiny_families import BUILDERS

from dpo_video.family.run import CHECKS, Check, check_name
from dpo_video.models.families import FAMILIES

LAYER = (
    r"(model\.)?(language_model|text_model)\.(model\.)?layers\.\d+\.\w+\.\w+"
    r"(\.(gate|up|down)_proj)?"
)
"""A linear layer by transformers' weight names since 4.52, as vLLM maps them once PEFT's prefix is
off; the last part is that of experts that all tokens share.
"""


def test_every_family_has_a_tiny_model_and_every_tiny_model_a_family() -> None:
    assert set(BUILDERS) == set(FAMILIES)


@each_family
@pytest.mark.parametrize("check", CHECKS, ids=check_name)
def test_family(family: str, check: Check, tmp_path: Path) -> None:
    subject = subject_of(family)
    assert subject.family is FAMILIES[family]
    check(subject, tmp_path)


@each_family
def test_adapters_have_the_layer_names_that_vllm_maps(family: str) -> None:
    wrong = [name for name in subject_of(family).decoder_linears if not re.fullmatch(LAYER, name)]
    assert not wrong
