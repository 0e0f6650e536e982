"""Write docs/commands.md anew from the commands."""

from pathlib import Path

from dpo_video.cli.app import app
from dpo_video.cli.command_page import commands_page

(Path(__file__).parents[1] / "docs" / "commands.md").write_text(
    commands_page(app), encoding="utf-8"
)
