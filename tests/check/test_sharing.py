"""What `check` says of families whose answers share no prompt."""

from pathlib import Path

import pytest
from family_cases import family_settings
from tiny_world import make_recipe

from dpo_video.check.sharing import check_sharing
from dpo_video.models.hub import model_spec
from dpo_video.models.memory import PeakLoad

LOAD = PeakLoad(sequences=1, prompt_tokens=900, answer_tokens=50, patches=3600)


@pytest.mark.parametrize(
    ("family", "why", "again"),
    [
        ("qwen3_5", "recurrent layers of its language model", False),
        ("instructblipvideo", "its Q-Former reads the question", True),
    ],
)
def test_the_cost_is_told_against_a_family_that_shares(
    tmp_path: Path, family: str, why: str, again: bool
) -> None:
    """Two rows of 900 + 50 tokens, against one prompt of 900 with two answers of 50."""
    findings = check_sharing(make_recipe(tmp_path), model_spec(family_settings(family)), LOAD)
    (warning,) = findings.warnings
    assert f"the family {family!r} shares no prompt between answers, as {why}" in warning
    assert "takes 1,900 tokens in training where" in warning
    assert "that shares takes 1,000 (1.9 times)" in warning
    assert ("the tower runs in each forward" in warning) == again


def test_nothing_is_told_of_a_family_that_shares(tmp_path: Path) -> None:
    spec = model_spec(family_settings("qwen2_5_vl"))
    assert check_sharing(make_recipe(tmp_path), spec, LOAD).warnings == ()
