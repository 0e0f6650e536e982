"""Look names up: a row of a table with did-you-mean, a file shipped with the package."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from dpo_video.core.errors import UserError

PACKAGE = Path(__file__).parents[1]
Entry = TypeVar("Entry")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest known name, or one that `name` abbreviates, or an
    empty string.
    """
    names = list(names)
    near = [
        candidate
        for candidate in names
        if "".join(word[:1] for word in candidate.split("_")) == name and "_" in candidate
    ] or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def choose(table: Mapping[str, Entry], name: str, noun: str) -> Entry:
    """Return `table[name]`; a wrong name raises UserError with the nearest and all known names."""
    if name in table:
        return table[name]
    names = ", ".join(sorted(table))
    raise UserError(f"unknown {noun} {name!r}.{did_you_mean(name, table)} Known: {names}")


def shipped_folder(kind: Literal["recipes", "scorers"]) -> Path:
    """Return the folder of shipped data: inside the wheel, else beside the package in a
    checkout.
    """
    inside = PACKAGE / kind
    return inside if inside.is_dir() else PACKAGE.parent / kind


def shipped_names(kind: Literal["recipes", "scorers"]) -> list[str]:
    """Return the sorted names of the shipped recipes or scorers."""
    return sorted(path.stem for path in shipped_folder(kind).glob("*.yaml"))


def find_yaml(kind: Literal["recipes", "scorers"], name: str) -> Path:
    """Return the file of a recipe or scorer: a path when it ends in .yaml, else a shipped name, or
    of a recipe `NAME.yaml` in the current folder.
    """
    noun = kind.removesuffix("s")
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(
                f"no {noun} file at {name!r}. Give a path that exists, or a shipped name: "
                f"{', '.join(shipped_names(kind))}"
            )
        return path
    table = {stem: shipped_folder(kind) / f"{stem}.yaml" for stem in shipped_names(kind)}
    own = Path(f"{name}.yaml")
    if name not in table and kind == "recipes" and own.is_file():
        return own
    return choose(table, name, noun)
