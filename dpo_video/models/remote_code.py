"""Code of repositories, which runs under `model.trust_remote_code`: none that nobody pinned."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from dpo_video.core.errors import UserError
from dpo_video.core.strict_json import loads_foreign
from dpo_video.models.names import resolve_model
from dpo_video.recipe import ModelSettings

COMMIT = re.compile(r"[0-9a-f]{40}")
NAME_CODE = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
"""Files of a checkpoint in which `auto_map` says which code is run."""


def check_own_code(settings: ModelSettings) -> None:
    """Raise UserError where code of a repository may run that nobody pinned; say which may."""
    if not settings.trust_remote_code or Path(resolve_model(settings.name)).is_dir():
        return
    if settings.revision is None or not COMMIT.fullmatch(settings.revision):
        raise UserError(
            f"model.trust_remote_code is true, and model.revision is {settings.revision!r}: the "
            f"code of {settings.name!r} may change at any time. Set model.revision to the commit "
            "that you have read (40 hexadecimal digits)"
        )


def check_repositories_of_code(settings: ModelSettings, *, local_only: bool = False) -> None:
    """Raise UserError where a checkpoint runs code of a repository other than its own: transformers
    (5.24) reads that at its newest commit, whatever `model.revision` says.
    """
    if not settings.trust_remote_code:
        return
    name = resolve_model(settings.name)
    for file in NAME_CODE:
        found = cached_file(
            name,
            file,
            revision=settings.revision,
            local_files_only=local_only,
            _raise_exceptions_for_missing_entries=False,
        )
        if found is None:
            continue
        fields = loads_foreign(Path(found).read_text(encoding="utf-8"))
        for repository in _repositories(fields.get("auto_map")):
            if repository != name and not Path(repository).is_dir():
                raise UserError(
                    f"the {file} of {settings.name!r} runs code of {repository!r} at its newest "
                    "commit (auto_map), which may change at any time and which model.revision "
                    f"does not pin. Put the checkpoint into a folder with the Python files of "
                    f"{repository!r} that you have read, and take '{repository}--' out of its "
                    "auto_map"
                )


def _repositories(auto_map: Any) -> Iterator[str]:
    """Return the repositories that stand before the classes of an `auto_map`, as
    `owner/name--module.Class`; a tokenizer's entry may be a list of two.
    """
    if isinstance(auto_map, str):
        repository, mark, _ = auto_map.rpartition("--")
        if mark:
            yield repository
    elif isinstance(auto_map, dict | list):
        for part in auto_map.values() if isinstance(auto_map, dict) else auto_map:
            yield from _repositories(part)
