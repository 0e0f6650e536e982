"""A family of the user's own: the document's example as it stands, and files that are wrong."""

from pathlib import Path

import pytest
from own_family import example, vipllava, written
from tiny_models import write_tiny
from transformers import AutoConfig

from dpo_video.core.errors import UserError
from dpo_video.family.command import test_family as outcomes_of
from dpo_video.family.run import CHECKS, Outcome
from dpo_video.models.families import Family
from dpo_video.models.hub import load_config, revision_of
from dpo_video.models.load import load_policy
from dpo_video.recipe import ModelSettings


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(vipllava, tmp_path_factory.mktemp("vipllava"))


def settings(checkpoint: Path, file: Path, **more: object) -> ModelSettings:
    values = {"name": str(checkpoint), "family": str(file), "device": "cpu"}
    return ModelSettings(**{**values, "trust_remote_code": True, **more})  # type: ignore[arg-type]


def outcomes(checkpoint: Path, file: Path) -> list[Outcome]:
    return outcomes_of(
        file, model=str(checkpoint), revision=None, trust_remote_code=True, tell=lambda _: None
    )


def test_the_documents_file_passes_all_checks_and_is_no_longer_than_it_says(
    checkpoint: Path, tmp_path: Path
) -> None:
    made = outcomes(checkpoint, written(tmp_path))
    assert [outcome.reason for outcome in made] == [None] * len(CHECKS)
    assert len(example().splitlines()) <= 65


def test_a_file_is_run_only_where_that_is_allowed(checkpoint: Path, tmp_path: Path) -> None:
    file = written(tmp_path)
    with pytest.raises(UserError, match=r"to read it is to run it: set model\.trust_remote_code"):
        load_config(settings(checkpoint, file, trust_remote_code=False))
    with pytest.raises(UserError, match="to test it is to run it: add --trust-remote-code"):
        outcomes_of(file, model=str(checkpoint), revision=None, trust_remote_code=False, tell=print)


@pytest.mark.parametrize("revision", [None, "main"])
def test_code_of_a_hub_repository_is_pinned_to_a_commit(
    revision: str | None, tmp_path: Path
) -> None:
    unpinned = settings(Path("owner/name"), written(tmp_path), revision=revision)
    with pytest.raises(UserError, match=r"Set model\.revision to the commit that you have read"):
        load_config(unpinned)


def test_another_file_is_another_revision(checkpoint: Path, tmp_path: Path) -> None:
    one = settings(checkpoint, written(tmp_path))
    before = revision_of(one, load_config(one)[0])
    written(tmp_path, ('formula="F', 'formula="about F'))
    assert revision_of(one, load_config(one)[0]) != before
    assert before.partition("+family:")[2]
    assert isinstance(load_config(one)[1], Family)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("FAMILY = Family(", "ROW = Family("), r"it holds no FAMILY; it must hold one row"),
        (
            ("    features=features,", "    feature=features,"),
            r"my_family.py:\d+: FAMILY has an unknown field 'feature'. Did you mean 'features'?",
        ),
        (
            ("    features=features,", "    "),
            r"my_family.py:\d+: FAMILY lacks the fields 'features'",
        ),
        (("import torch", "import torchh"), r"my_family.py:3: running it failed: ModuleNotFound"),
        (("FAMILY = Family(", "FAMILY = Family(("), r"my_family.py:\d+: running it failed: Syntax"),
        ((r"(self_attn|mlp)\.", r"(self_attn|mlp"), "FAMILY.lora_targets is no regular expression"),
        ((r"model\.language_model", r"model\.text"), "FAMILY.lora_targets matches no layer"),
        (
            (r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.", ".*"),
            r"FAMILY.lora_targets matches 'model.vision_tower.* outside the language model",
        ),
    ],
)
def test_a_file_that_is_wrong_is_told_in_one_line_with_the_field(
    checkpoint: Path, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_policy(settings(checkpoint, written(tmp_path, change)))
    assert "\n" not in str(caught.value)


def test_features_that_are_not_as_many_as_placeholders_fail_a_check_that_says_so(
    checkpoint: Path, tmp_path: Path
) -> None:
    short = written(tmp_path, ("list(output.pooler_output))", "list(output.pooler_output))[:-4]"))
    placeholder = AutoConfig.from_pretrained(checkpoint).image_token_id
    failed = {o.check: o.reason for o in outcomes(checkpoint, short) if o.reason is not None}
    assert failed["tokens are counted from the config"] == (
        "FAMILY.features: makes 60 rows for a clip whose prompt has 64 placeholders of the id "
        f"{placeholder} (see placeholder)"
    )
    assert "`features` makes 60 rows of a clip, and its prompt has 64 placeholders" in str(
        failed["batched equals unbatched"]
    )
