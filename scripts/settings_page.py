"""Write docs/settings.md anew from the docstrings of the settings."""

from pathlib import Path

from dpo_video.recipe.explain import settings_page

(Path(__file__).parents[1] / "docs" / "settings.md").write_text(settings_page(), encoding="utf-8")
