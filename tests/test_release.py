"""The wheel and the sdist: complete, the same bytes when they are built again, and they run where
they are installed.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import dpo_video

ROOT = Path(__file__).parents[1]
NAMES = ("-py3-none-any.whl", ".tar.gz")


def build(out: Path, *options: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *options]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from the sdist."""
    out = tmp_path_factory.mktemp("first")
    build(out)
    return out


def test_a_second_build_gives_the_same_bytes(first: Path, tmp_path: Path) -> None:
    """That of the wheel from the checkout, so that the sdist leaves nothing out."""
    build(tmp_path, "--sdist", "--wheel")
    names = sorted(path.name for path in first.iterdir())
    assert names == [f"dpo_video-{dpo_video.__version__}{end}" for end in NAMES]
    for name in names:
        assert (tmp_path / name).read_bytes() == (first / name).read_bytes(), name


def test_it_runs_where_it_is_installed(first: Path, tmp_path: Path) -> None:
    (wheel,) = first.glob("*.whl")
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(target), str(wheel)], check=True, capture_output=True)
    code = (
        "import dpo_video; from pathlib import Path; from importlib.metadata import version\n"
        "print(Path(dpo_video.__file__).parent, version('dpo-video'), dpo_video.__version__)\n"
        "print(dpo_video.load_recipe('quickstart').name)"
    )
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    place, *versions, name = done.stdout.split()
    assert done.stderr == "" and place == str(target / "dpo_video")
    assert versions == [dpo_video.__version__] * 2 and name == "quickstart"


def test_the_wheel_says_that_it_is_typed_and_carries_what_it_ships(first: Path) -> None:
    (wheel,) = first.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = ("py.typed", "__init__.pyi", "cards/model_card.md.jinja", "cards/pairs_card.md.jinja")
    wanted += ("recipes/sweeps/wandb_beta_lr.yaml", "recipes/accelerate/ddp.yaml")
    assert {f"dpo_video/{name}" for name in wanted} <= names


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == dpo_video.__version__
