"""Clips that training could not read: noted beside the checkpoints, and tried again where that may
help.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_atomic
from dpo_video.models.clip_source import open_source
from dpo_video.models.load import Policy
from dpo_video.recipe import Recipe
from dpo_video.train.checkpoints import BAD_CLIPS
from dpo_video.video import ClipRequest
from dpo_video.video.bad_clips import BadClip, bad_clip, bad_clip_of_row

log = logging.getLogger(__name__)


def note_bad_clip(folder: Path, clip: str, bad: BadClip) -> None:
    """Append to the list of clips that could not be read, which a resumed run leaves out as
    well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # one short line: whole, or torn at the end
    with (folder / BAD_CLIPS).open("a", encoding="utf-8") as lines:
        lines.write(_line(clip, bad))


def noted_bad_clips(folder: Path) -> dict[str, BadClip]:
    """Return the clips that could not be read in an earlier part of this training.

    A damaged line is told and left out: its clip is tried again.
    """
    path = folder / BAD_CLIPS
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    noted: dict[str, BadClip] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = strict_json.loads(line)
            clip, bad = row["clip"], bad_clip_of_row(row)
            if not isinstance(clip, str):
                raise ValueError("a clip is text")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning(
                "train: %s:%d is damaged (%s) and left out: its clip is tried again",
                path,
                number,
                error,
            )
            continue
        noted[clip] = bad
    return noted


def forget_bad_clips(folder: Path, clips: Iterable[str]) -> None:
    """Take clips from the list."""
    left = {clip: bad for clip, bad in noted_bad_clips(folder).items() if clip not in set(clips)}
    write_atomic(folder / BAD_CLIPS, (_line(clip, bad) for clip, bad in left.items()))


def _line(clip: str, bad: BadClip) -> str:
    return strict_json.dumps({"clip": clip, **bad.as_row()}) + "\n"


def readable_again(
    policy: Policy,
    recipe: Recipe,
    folder: Path,
    noted: Mapping[str, BadClip],
    requests: Mapping[str, ClipRequest],
) -> list[str]:
    """Return the noted clips that can be read now; only those are tried that another try may
    help, and one that fails again is noted again, with its files as they are now.
    """
    candidates = [
        requests[clip] for clip, bad in noted.items() if clip in requests and bad.may_be_readable()
    ]
    if not candidates:
        return []
    readable: list[str] = []
    with open_source(policy, recipe) as source:
        for request, clip in source.map(candidates):
            if isinstance(clip, UserError):
                note_bad_clip(folder, request.key, bad_clip(clip, request))
            else:
                readable.append(request.key)
    return readable
