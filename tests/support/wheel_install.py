"""The package as others get it: a wheel, in an environment that holds it and no other of it."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]


def install_wheel(folder: Path) -> Path:
    """Build the wheel and install it into a new environment; return the environment's folder.

    What the package depends on is found where the tests find it: a `.pth` names their folder, whose
    own `.pth` files, such as that of a checkout, are not read.
    """
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    _done([*build, "--directory", str(folder)], cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    python = str(environment / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    _done([*pip, "--quiet", str(wheel)], cwd=folder)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    paths = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(paths)))
    return environment


def run_installed(
    environment: Path, name: str, *arguments: object, cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment where no checkout is on Python's path."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(environment / "bin" / name), *map(str, arguments)]
    return _done(command, cwd=cwd, env=variables)


def _done(
    command: list[str], *, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done
