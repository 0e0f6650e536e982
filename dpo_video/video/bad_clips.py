"""Clips that are set aside: why, and the file to blame as it was then, so that a mended file is
noticed.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.video.frames import PASSING, ClipRequest, VideoError

FileState = list[list[str | int]]
"""Name, size in bytes and time of change in ns of a file, or of each file in a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadClip:
    """Why a clip was set aside, and the state of its files then.

    Example: `BadClip(reason="cannot read 'a.mp4': the file has zero bytes [empty]", code="empty",
    files={"/clips/a.mp4": [["a.mp4", 0, 1700000000000000000]]})`.
    """

    reason: str
    code: str = ""
    """Of a VideoError; empty for what a model's processor refuses."""
    files: dict[str, FileState | None] = field(default_factory=dict)
    """The clip's files, or its folder, each with its state then; None where there was none."""

    @property
    def is_worth_another_try(self) -> bool:
        """Whether the next run may read the clip although its files stay as they are."""
        return self.code in PASSING

    def is_changed(self) -> bool:
        """Return whether a file is another one now than when the clip was set aside."""
        return any(file_state(Path(path)) != state for path, state in self.files.items())

    def may_be_readable(self) -> bool:
        """Return whether another try may help: the reason may pass, a file has changed, or none was
        noted, as by earlier versions.
        """
        return self.is_worth_another_try or not self.files or self.is_changed()

    def as_row(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


def bad_clip(error: UserError, request: ClipRequest | None = None) -> BadClip:
    """Return what is noted of a clip that raised this error just now; without a request its file is
    the one that the error names.
    """
    if request is not None:
        paths = request.video if isinstance(request.video, tuple) else (request.video,)
    else:
        paths = (error.path,) if isinstance(error, VideoError) else ()
    return BadClip(
        reason=str(error),
        code=error.code if isinstance(error, VideoError) else "",
        files={os.path.abspath(path): file_state(path) for path in paths},
    )


def bad_clip_of_row(row: Mapping[str, Any]) -> BadClip:
    """Return what `as_row` gave; rows of earlier versions hold the reason alone. TypeError,
    ValueError or KeyError for a damaged row.
    """
    reason, files = row["reason"], row.get("files", {})
    if not isinstance(reason, str) or not isinstance(files, dict):
        raise TypeError("a reason is text, and files are an object")
    code = re.search(r"\[(\w+)\]$", reason)
    return BadClip(reason=reason, code=row.get("code", code[1] if code else ""), files=files)


def file_state(path: Path) -> FileState | None:
    """Return what tells a file, or the files of a folder, from themselves after a change; None
    where there is none.
    """
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        stats = [(file.name, file.stat()) for file in files]
    except (OSError, ValueError):
        return None
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
