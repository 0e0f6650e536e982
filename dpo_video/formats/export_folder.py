"""`dpo-video export --with-clips`: a folder with the rows and their clips, as `datasets` loads it
(VideoFolder: metadata.jsonl names the file of each row).
"""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

from dpo_video.core.errors import UserError
from dpo_video.formats.context import Video
from dpo_video.formats.export_run import ExportReport, ExportSource, export_run
from dpo_video.formats.fields import Dropped
from dpo_video.video.sources import check_inside, resolve_video

METADATA = "metadata.jsonl"
CLIPS = "clips"


def export_folder(
    name: str, source: ExportSource, folder: Path, *, root: Path, outside: bool = False
) -> ExportReport:
    """Write a run's rows in a format and copies of their clips; the folder is there whole or not
    at all.

    Args:
        root: folder that relative clips start from.
        outside: take clips that lie outside of it, too; else UserError for the first of them, as
            what is copied here is made to be sent to others.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out is {str(folder)!r}, which exists: name a new folder")
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    copied: dict[Path, str] = {}

    def copy(video: Video) -> str:
        if not outside:
            check_inside(video, root, str(source.folder))
        return _copied(video, root=root, folder=new, copied=copied)

    try:
        report = export_run(name, replace(source, clips=copy), new / METADATA)
        if folder.exists():
            folder.rmdir()
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return report


def _copied(video: Video, *, root: Path, folder: Path, copied: dict[Path, str]) -> str:
    """Return the address of a clip's copy inside the folder, made at the first call."""
    path = resolve_video(video, root)
    if not isinstance(path, Path) or path.is_dir():
        raise Dropped("frames, not one file", "a folder of clips has one file a clip")
    if not path.is_file():
        raise Dropped("clip not found", str(video))
    if path not in copied:
        name = f"{CLIPS}/{path.name}"
        if name in copied.values():  # of another folder
            mark = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
            name = f"{CLIPS}/{path.stem}-{mark}{path.suffix}"
        (folder / CLIPS).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
        copied[path] = name
    return copied[path]
