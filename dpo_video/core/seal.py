"""Sealed folders: complete.json lists the size and sha256 of every file, so that a folder that was
half written, cut short or changed is told from a whole one.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from dpo_video.core import strict_json
from dpo_video.core.jsonl import write_atomic

SEAL = "complete.json"
CARD, RECIPE = "README.md", "recipe.yaml"
DOCUMENTS = frozenset({CARD, RECIPE})
"""What tells of a sealed folder: it is renewed at will, so it stands in no seal and in no hash of
the folder.
"""


def seal(folder: Path, **facts: Any) -> None:
    """Bring all files below a folder to the disk, then write their sizes and sha256 beside them,
    with `facts`.

    Example of the file: `{"step": 4, "files": {"adapter_model.safetensors": {"size": 51872,
    "sha256": "9f86d0..."}}}`.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != SEAL and path.name not in DOCUMENTS:
            with path.open("rb") as content:
                # a seal must not survive a power cut that a file did not
                os.fsync(content.fileno())
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            files[path.relative_to(folder).as_posix()] = {
                "size": path.stat().st_size,
                "sha256": digest,
            }
    write_atomic(folder / SEAL, strict_json.dumps({**facts, "files": files}) + "\n")


def is_sealed(folder: Path) -> bool:
    """Return whether a folder has a seal that lists files; earlier versions wrote one without."""
    try:
        return isinstance(
            strict_json.loads((folder / SEAL).read_text(encoding="utf-8"))["files"], dict
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def broken_seal(folder: Path) -> str | None:
    """Return how the files of a sealed folder differ from its seal; None where they do not."""
    files = strict_json.loads((folder / SEAL).read_text(encoding="utf-8"))["files"]
    for name, fact in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != fact["size"]:
            return f"{name} has {size} of {fact['size']} bytes"
        with path.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != fact["sha256"]:
                return f"{name} has other bytes than were written"
    return None
