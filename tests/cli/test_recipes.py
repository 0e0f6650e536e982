"""Recipes on the command line, and what every command's help has."""

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from dpo_video import __version__
from dpo_video.cli.app import app
from dpo_video.cli.arguments import run_path
from dpo_video.core.errors import UserError

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


def output(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_every_command_has_an_example_of_itself_and_no_line_is_cut() -> None:
    for name in COMMANDS:
        text = " ".join(output(name, "-h").split())
        assert re.search(
            rf"Example: (accelerate launch .*|)(-m dpo_video|dpo-video) {name}\b", text
        )
    listed = output("--help")
    assert listed.count("...") == 1, "of the usage"
    assert all(f"\n  {name} " in listed for name in COMMANDS)
    assert output("--version") == f"dpo-video {__version__}\n"


def test_a_recipe_begins_as_a_shipped_one_with_what_its_settings_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "recipe: mine.yaml" in output("init", "mine.yaml", "--from", "qwen2_5_vl_7b")
    text = Path("mine.yaml").read_text()
    assert "  # Frames per second under `fps`" in text
    shown, source = (yaml.safe_load(output("show", name)) for name in ("mine", "qwen2_5_vl_7b"))
    assert shown.pop("name") == "mine" and source.pop("name") and shown == source
    assert "# Frames per second" in output("show", "mine", "--explain")
    for file, words in (("mine.yaml", "exists: name another"), ("mine", "ends in .yaml")):
        with pytest.raises(UserError, match=words):
            output("init", file)


def test_a_runs_name_is_taken_for_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/mine").mkdir(parents=True)
    assert run_path("mine") == run_path("runs/mine") == Path("runs/mine")
    with pytest.raises(UserError, match="no run folder 'other'"):
        run_path("other")
