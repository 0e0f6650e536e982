"""The site builds with every link whole, a broken one fails it, and what is made from the code is
that of the code.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from dpo_video.cli.app import app
from dpo_video.cli.command_page import commands_page

ROOT = Path(__file__).parents[1]


def build(folder: Path, docs: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a folder of documents by the shipped configuration."""
    config = folder / "mkdocs.yml"
    settings = (ROOT / "mkdocs.yml").read_text().replace("docs_dir: docs", f"docs_dir: {docs}")
    config.write_text(settings)
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", str(config)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = build(tmp_path, ROOT / "docs")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "index.html").read_text()
    for attribute in ('src="http', '<link rel="stylesheet" href="http', "@import"):
        assert attribute not in page
    assert (tmp_path / "site" / "images" / "data_way.svg").is_file()


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", docs)
    with (docs / "concepts.md").open("a") as page:
        page.write("\n[gone](no_such_page.md)\n")
    done = build(tmp_path, docs)
    assert done.returncode != 0 and "no_such_page.md" in done.stderr + done.stdout


def test_every_page_can_be_reached() -> None:
    def pages(entries: list[object]) -> set[str]:
        listed: set[str] = set()
        for entry in entries:
            for value in entry.values() if isinstance(entry, dict) else [entry]:
                listed |= pages(value) if isinstance(value, list) else {str(value)}
        return listed

    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert pages(navigation) == {path.name for path in (ROOT / "docs").glob("*.md")}


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    """Write it anew with `python scripts/commands_page.py`."""
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == commands_page(app)
