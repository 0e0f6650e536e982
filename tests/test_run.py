"""The run folder as commands find it again."""

import json
from pathlib import Path

import pytest

from dpo_video.core.errors import UserError
from dpo_video.recipe.file import load_recipe
from dpo_video.run import recipe_of


def test_the_recipe_of_a_run_is_read_from_its_manifest(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart", [f"runs_folder={tmp_path}", "name=moved"])
    (tmp_path / "elsewhere").mkdir()
    manifest = tmp_path / "elsewhere" / "manifest.json"
    manifest.write_text(json.dumps({"recipe": recipe.model_dump()}))
    assert recipe_of(tmp_path / "elsewhere") == recipe.model_copy(update={"name": "elsewhere"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no manifest.json in"),
        ("", "manifest.json:1: not JSON"),
        ('{"recipe": {', "manifest.json:1: not JSON"),
        ("[]", "manifest.json:1: expected one JSON object"),
        ("{}", "manifest.json: it holds no `recipe`"),
        ('{"recipe": 3}', "manifest.json: it holds no `recipe`"),
        ('{"recipe": {}}', "manifest.json: missing `name`"),
        ('{"stages": {"train": {"loss": NaN}}}', "manifest.json:1: not JSON (NaN is no number"),
        ('{"recipe": {"name": "r", "sede": 1}}', "unknown key `sede`. Did you mean 'seed'?"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError) as error:
        recipe_of(tmp_path)
    assert message in str(error.value)
