"""Keys: hashes of all that determines a row, and of files."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

HASHED_BYTES = 1 << 30


def row_key(**parts: Any) -> str:
    """Return the sha256 of all that determines a row, as canonical JSON: same parts, same key."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def content_hash(path: Path) -> str:
    """Return the sha256 of a file, or of the names and contents of all files below a folder.

    A file over 1 GiB counts by size and time of change instead of content: weights would take minutes to read. A copy
    of it then counts as another file, which costs a repetition and never reuses a wrong row.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
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
            digest.update(f"{path.name}: {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
