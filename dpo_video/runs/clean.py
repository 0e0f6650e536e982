"""`dpo-video clean RUN`: what of a run folder can go, and how large it is."""

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.store.lock import give_up_lock, take_lock

REMOVABLE = {
    "checkpoints": "checkpoints of training: a killed run goes on from them",
    "cache": "decoded frames or features: made again when needed",
    "stale": "reports about results that were replaced",
}
"""Folders of a run that no result needs, and what they are for."""
SIGNS = ("manifest.json", "store.sqlite", "segments")
"""What one of a run's folder holds: a run that was killed has no manifest yet, and the folder of
rounds, or of runs that share a store, only that.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovableFolder:
    """A folder that can go."""

    path: Path
    meaning: str
    num_bytes: int


def removable_folders(run_folder: Path) -> list[RemovableFolder]:
    """Return what of a run folder can go, largest first; UserError where it is no run's folder."""
    if not any((run_folder / name).exists() for name in SIGNS):
        raise UserError(f"no manifest.json and no store in {str(run_folder)!r}: no run works there")
    folders = [
        RemovableFolder(path=run_folder / name, meaning=meaning, num_bytes=_size(run_folder / name))
        for name, meaning in REMOVABLE.items()
        if (run_folder / name).is_dir() and not (run_folder / name).is_symlink()
    ]
    return sorted(folders, key=lambda folder: folder.num_bytes, reverse=True)


def remove_folders(run_folder: Path, folders: list[RemovableFolder]) -> None:
    """Remove folders of a run; UserError while a process works in it, or in the run whose store it
    uses.
    """
    with ExitStack() as locks:
        for locked in dict.fromkeys((_store_folder(run_folder), run_folder)):
            locks.callback(give_up_lock, take_lock(locked))
        for folder in folders:
            shutil.rmtree(folder.path)


def _store_folder(run_folder: Path) -> Path:
    """Return the folder whose store a run uses, and whose lock it holds, as its manifest says."""
    manifest = run_folder / "manifest.json"
    if not manifest.is_file():
        return run_folder
    try:
        store = strict_json.loads(manifest.read_text(encoding="utf-8"))["recipe"].get("store")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{str(manifest)!r} is damaged ({error}), and does not tell whose lock the run holds. "
            "Make it again: dpo-video run RECIPE, which finds all rows in the store"
        ) from error
    folder = run_folder if store is None else Path(normpath(run_folder / store))
    return folder if folder.is_dir() else run_folder


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def size_text(num_bytes: int) -> str:
    """Return a size as `12 kB`, `3.4 MB` or `1.2 GB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes / 1e3:.0f} kB"
