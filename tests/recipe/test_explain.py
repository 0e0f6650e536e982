"""Settings in words, and the documents that are made of them."""

from pathlib import Path

import yaml

from dpo_video.recipe import Recipe
from dpo_video.recipe.explain import explained, setting_rows, settings_page
from dpo_video.recipe.file import load_recipe

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_document_is_what_the_docstrings_say() -> None:
    """Write it anew with `python scripts/settings_page.py`."""
    assert DOCUMENT.read_text(encoding="utf-8") == settings_page()


def test_every_setting_has_a_meaning_a_type_and_a_mark() -> None:
    rows = list(setting_rows())
    assert len(rows) > 100 and {"seed", "train.lora.rank"} <= {row.key for row in rows}
    unclear = [row for row in rows if not row.meaning or row.kind == "any" or not row.affects]
    assert unclear == []


def test_an_explained_recipe_is_the_recipe() -> None:
    recipe = load_recipe("quickstart")
    text = explained(recipe)
    assert Recipe.model_validate(yaml.safe_load(text)) == recipe
    assert "  # Pairs per device and forward.\n  batch_size:" in text
    short = explained(recipe, only_set=True)
    assert Recipe.model_validate(yaml.safe_load(short)) == recipe and len(short) < len(text) / 2
