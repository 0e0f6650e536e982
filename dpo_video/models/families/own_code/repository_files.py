"""Files of a checkpoint's repository: where one lies, and copies beside a model that is saved."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file


def repository_file(file: str, name: str, source: Mapping[str, Any]) -> str | None:
    """Return where a checkpoint's file lies; None where it has none."""
    where = {key: source[key] for key in ("revision", "local_files_only") if key in source}
    found = cached_file(name, file, _raise_exceptions_for_missing_entries=False, **where)
    return None if found is None else str(found)


def copy_files(files: Iterable[str], to: Path, name: str, source: Mapping[str, Any]) -> None:
    """Copy those of a checkpoint's files that it has into a folder, in place of any there."""
    for file in files:
        found = repository_file(file, name, source)
        if found is not None and Path(found).resolve() != (to / file).resolve():
            shutil.copyfile(found, to / file)
