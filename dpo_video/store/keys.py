"""Keys: hashes of all that determines a row, and of files."""

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from dpo_video.core.seal import DOCUMENTS, SEAL

ENCODE = json.JSONEncoder(
    sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False
).encode
"""Makes canonical JSON."""
HASHED_BYTES = 1 << 30


def row_key(**parts: Any) -> str:
    """Return the sha256 of all that determines a row, as canonical JSON: same parts, same key.

    An iterator among the parts counts as the list of what it yields, which is never held.
    """
    digest = hashlib.sha256()
    opening = "{"
    for name, value in sorted(parts.items()):
        digest.update(f"{opening}{ENCODE(name)}:".encode())
        for piece in _list_pieces(value) if isinstance(value, Iterator) else [ENCODE(value)]:
            digest.update(piece.encode())
        opening = ","
    digest.update(b"}" if parts else b"{}")
    return digest.hexdigest()


def _list_pieces(values: Iterator[Any]) -> Iterator[str]:
    """Yield the canonical JSON of a list in pieces."""
    opening = "["
    for value in values:
        yield opening + ENCODE(value)
        opening = ","
    yield "]" if opening == "," else "[]"


def content_hash(path: Path) -> str:
    """Return the sha256 of a file, or of the names and contents of all files below a folder.

    A file over 1 GiB counts by size and time of change instead of content: weights would take
    minutes to read. A copy of it then counts as another file, which costs a repetition and never
    reuses a wrong row. The documents of a sealed folder count for nothing.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if (path / SEAL).is_file():
        files = [file for file in files if file.name not in DOCUMENTS]
    facts = [(file, file.stat()) for file in files]
    return _hash_files(tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in facts))


@lru_cache
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for path, size, changed in files:
        if size > HASHED_BYTES:
            digest.update(f"{path.name}: {size} bytes, {changed}\n".encode())
            continue
        with path.open("rb") as content:
            digest.update(
                f"{path.name}: {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode()
            )
    return digest.hexdigest()
