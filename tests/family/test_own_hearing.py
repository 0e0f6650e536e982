"""A user's family whose model hears: a row that is right, and wrong ones, each told in a line that
names the field.
"""

import re
from pathlib import Path

import pytest
from family_cases import family_folder

from dpo_video.core.errors import UserError
from dpo_video.family.run import CHECKS, Outcome, run_checks
from dpo_video.family.subject import Subject
from dpo_video.models.hub import load_config
from dpo_video.recipe import ModelSettings

FILE = """
from dataclasses import replace

from dpo_video.models.families import FAMILIES
from dpo_video.video.frames import SoundFormat

OMNI = FAMILIES["qwen2_5_omni"]
SILENT = FAMILIES["qwen2_5_vl"]


def hears(**changes):
    return replace(OMNI, hearing=lambda config: replace(OMNI.hearing(config), **changes))


FAMILY = {row}
"""
"""With what `row` stands for: a row that differs from Qwen2.5-Omni's."""


def settings(folder: Path, row: str) -> ModelSettings:
    file = folder / "my_family.py"
    file.write_text(FILE.replace("{row}", row))
    name = str(family_folder("qwen2_5_omni"))
    return ModelSettings(name=name, family=str(file), device="cpu", trust_remote_code=True)


def first_reason(subject: Subject) -> str:
    """Return what the first check that fails says, which is the last line of `family test`."""
    outcome: Outcome
    for outcome in run_checks(subject):
        if outcome.reason is not None:
            return outcome.reason
    raise AssertionError("no check failed")


def test_a_right_row_passes(tmp_path: Path) -> None:
    made = list(run_checks(Subject(settings=settings(tmp_path, "hears()"))))
    assert [outcome.reason for outcome in made] == [None] * len(CHECKS)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            "hears(tokens=lambda samples: samples // 600)",
            r"FAMILY\.hearing: counts 13 tokens for 0\.5 s of sound, and the prompt has 12",
        ),
        (
            "hears(inputs=())",
            r"FAMILY\.features: makes 0 rows for a clip's sound whose prompt has 82 placeholders "
            r"of the id 4 \(see hearing: placeholder and inputs\)",
        ),
        (
            "hears(inputs=('input_features', 'mask'))",
            r"`hearing` names the inputs \['mask'\], which the processor does not make of a clip "
            r"with sound\. It makes: .*feature_attention_mask",
        ),
        (
            "hears(most_tokens=12)",
            r"FAMILY\.hearing: counts \d+ tokens, and most_tokens is 12",
        ),
        ("hears(placeholder=5)", r"256 placeholders of the id 5 \(see hearing: placeholder"),
        (
            "hears(placeholder=None)",
            r"makes 82 rows for a clip's sound .*\(see hearing",
        ),
        ("replace(OMNI, features=SILENT.features)", r"makes 0 rows for a clip's sound"),
        (
            "hears(form=SoundFormat(8000))",
            r"FAMILY\.hearing: has sound read at 8000 samples a second, and the processor takes "
            "16000",
        ),
    ],
    ids=[
        "tokens",
        "no inputs",
        "other inputs",
        "most",
        "another token",
        "no token",
        "deaf",
        "rate",
    ],
)
def test_a_wrong_row_is_told_by_its_field(row: str, reason: str, tmp_path: Path) -> None:
    told = first_reason(Subject(settings=settings(tmp_path, row)))
    assert re.search(reason, told), told


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("replace(OMNI, hearing=3)", "FAMILY.hearing must be a function of the config .*TypeError"),
        ("replace(OMNI, hearing=lambda config: 7)", "must return a Hearing or None, and returns 7"),
        ("hears(form=16000)", r"`form` must be a SoundFormat\(rate=.*got 16000"),
        ("hears(inputs='input_features')", "`inputs` must be a tuple of texts, got 'input_feat"),
        ("hears(inputs=(1,))", r"`inputs` must be a tuple of texts, got \(1,\)"),
        ("hears(width=None)", "`width` must be a whole number, got None"),
        ("hears(placeholder='<audio>')", "`placeholder` must be a token id or None, got '<audio>'"),
        ("hears(most_tokens=1.5)", "`most_tokens` must be a whole number or None, got 1.5"),
        ("hears(tokens=25)", "`tokens` must be a function, got 25"),
    ],
)
def test_what_is_no_hearing_is_refused_when_the_row_is_read(
    row: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        load_config(settings(tmp_path, row))
