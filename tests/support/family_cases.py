"""A family's tiny model, loaded once and shared by the checks of the conformance suite; nothing
here changes it.
"""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tiny_families import tiny_family

from dpo_video.family.subject import (
    CLIPS,
    TOLERANCE,
    Subject,
    processor_outputs,
    row_logits,
    with_adapter,
)
from dpo_video.family.subject import rows_of_clip as clip_of_rows
from dpo_video.models.collate import TokenRow
from dpo_video.models.families import FAMILIES
from dpo_video.models.load import Policy
from dpo_video.recipe import ModelSettings

__all__ = [
    "CLIPS",
    "TOLERANCE",
    "clip_of_rows",
    "each_family",
    "family_folder",
    "family_rows",
    "family_settings",
    "plain_policy",
    "processor_outputs",
    "row_logits",
    "subject_of",
    "tuned_family",
    "with_adapter",
]
EXTRAS: dict[str, str] = {"perception_lm": "timm", "smolvlm": "num2words"}
"""Packages that a family needs beyond ours, by family: without one its checks are skipped with the
reason.
"""
_FOLDERS = tempfile.TemporaryDirectory()


def each_family(check: Any) -> Any:
    """Run a check once for each family of FAMILIES, family after family, so that few models are
    loaded at a time.
    """
    return pytest.mark.parametrize("family", sorted(FAMILIES), scope="module")(check)


@cache
def family_folder(family: str) -> Path:
    """Return the checkpoint folder of a family's tiny model, written once per process."""
    if family in EXTRAS:
        pytest.importorskip(
            EXTRAS[family], reason=f"family {family} needs the package {EXTRAS[family]}"
        )
    return tiny_family(family, Path(_FOLDERS.name) / family)


def family_settings(family: str, **settings: Any) -> ModelSettings:
    """Return the settings that load a family's tiny model; its `model_type` picks the row."""
    return ModelSettings(name=str(family_folder(family)), device="cpu", **settings)


@cache
def subject_of(family: str) -> Subject:
    """Return a family's tiny model as the checks take it."""
    return Subject(settings=family_settings(family))


def plain_policy(family: str) -> Policy:
    """Return a loaded tiny policy without an adapter; checks leave it as it is."""
    return subject_of(family).plain


def tuned_family(family: str) -> Policy:
    """Return a policy of its own with an adapter that changes the model, and TRL's fused head."""
    return subject_of(family).tuned


def family_rows(family: str) -> tuple[tuple[TokenRow, ...], ...]:
    """Return the rows of each clip, encoded once by the plain policy."""
    return subject_of(family).rows
