"""A family of the user's own: a Python file that holds one row, FAMILY."""

import importlib.util
import logging
import re
import sys
import traceback
from dataclasses import fields
from functools import cache
from pathlib import Path

from dpo_video.core.errors import UserError
from dpo_video.core.names import did_you_mean
from dpo_video.models.families.family import Family
from dpo_video.store import content_hash

log = logging.getLogger(__name__)
ROW = "FAMILY"


def is_family_file(name: str) -> bool:
    """Return whether a `model.family` names a Python file."""
    return name.endswith(".py")


def load_family_file(path: Path) -> Family:
    """Run a Python file and return its FAMILY; a file that did not change is run once a process.

    Raises UserError for a file that fails, or holds no such row.
    """
    if not path.is_file():
        raise UserError(f"model.family: no file at {str(path)!r}. Give one that exists")
    return _load(path.resolve(), content_hash(path))


@cache
def _load(path: Path, digest: str) -> Family:
    log.warning(
        "model.trust_remote_code: running %s (sha256 %s), the family's code", path.name, digest[:16]
    )
    name = f"dpo_video_family_{digest[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a path that ends in .py has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as an import does: classes are looked up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"{_place(path, error)}: {_reason(error)}") from error
    row = vars(module).get(ROW)
    if not isinstance(row, Family):
        what = "no FAMILY" if row is None else f"a FAMILY of type {type(row).__name__}"
        raise UserError(
            f"{path}: it holds {what}; it must hold one row, FAMILY = Family(name=..., ...), as in "
            "docs/families.md"
        )
    for field in ("lora_targets", *("keep_unquantized",) * bool(row.keep_unquantized)):
        value = getattr(row, field)
        for pattern in (value,) if isinstance(value, str) else value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(
                    f"{path}: FAMILY.{field} is no regular expression: {pattern!r} ({error})"
                ) from error
    return row


def _place(path: Path, error: Exception) -> str:
    """Return the file with the last line of it that was running."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}:{error.lineno}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()[0][:300] if str(error).strip() else ""
    unknown = re.search(r"Family\.__init__\(\) got an unexpected keyword argument '(\w+)'", text)
    if unknown is not None:
        names = [field.name for field in fields(Family)]
        return f"FAMILY has an unknown field {unknown[1]!r}.{did_you_mean(unknown[1], names)}"
    missing = re.search(r"Family\.__init__\(\) missing .*arguments?: (.*)", text)
    if missing is not None:
        return f"FAMILY lacks the fields {missing[1]}"
    return f"running it failed: {type(error).__name__}: {text}"
