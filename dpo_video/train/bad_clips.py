"""Clips that training could not read: noted beside the checkpoints, and tried again where that may
help.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_atomic
from dpo_video.models.clip_source import open_source
from dpo_video.models.load import Policy
from dpo_video.recipe import Recipe
from dpo_video.train.checkpoints import BAD_CLIPS
from dpo_video.video import ClipRequest, may_pass
from dpo_video.video.cache import clip_identity

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BadClip:
    """Why a clip could not be read, and what its files were then."""

    reason: str
    """The error, whose last word is its code in brackets."""
    identity: dict[str, Any] | None = None
    """As `clip_identity` gave it; None where there was no file, or for a note of an earlier
    version.
    """

    def may_be_readable(self, request: ClipRequest | None) -> bool:
        """Return whether another try may help: the reason may pass, or a file has changed."""
        if request is None:
            return False
        return may_pass(self.reason) or clip_identity(request) != self.identity


def note_bad_clip(folder: Path, clip: str, reason: str, request: ClipRequest | None) -> None:
    """Append to the list of clips that could not be read, which a resumed run leaves out as
    well.
    """
    row = {
        "clip": clip,
        "reason": reason,
        "identity": None if request is None else clip_identity(request),
    }
    folder.mkdir(parents=True, exist_ok=True)
    # one short line: whole, or torn at the end
    with (folder / BAD_CLIPS).open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")


def noted_bad_clips(folder: Path) -> dict[str, BadClip]:
    """Return the clips that could not be read in an earlier part of this training.

    A damaged line is told and left out: its clip is tried again.
    """
    path = folder / BAD_CLIPS
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    noted: dict[str, BadClip] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            clip, reason, identity = row["clip"], row["reason"], row.get("identity")
            if not isinstance(clip, str) or not isinstance(reason, str):
                raise ValueError("a clip and a reason are text")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning(
                "train: %s:%d is damaged (%s) and left out: its clip is tried again",
                path,
                number,
                error,
            )
            continue
        noted[clip] = BadClip(reason=reason, identity=identity)
    return noted


def forget_bad_clips(folder: Path, clips: Iterable[str]) -> None:
    """Take clips from the list."""
    left = {clip: bad for clip, bad in noted_bad_clips(folder).items() if clip not in set(clips)}
    rows = (
        {"clip": clip, "reason": bad.reason, "identity": bad.identity} for clip, bad in left.items()
    )
    write_atomic(folder / BAD_CLIPS, (json.dumps(row) + "\n" for row in rows))


def readable_again(
    policy: Policy,
    recipe: Recipe,
    noted: Mapping[str, BadClip],
    requests: Mapping[str, ClipRequest],
) -> list[str]:
    """Return the noted clips that can be read now; only those are tried that another try may
    help.
    """
    candidates = [
        requests[clip] for clip, bad in noted.items() if bad.may_be_readable(requests.get(clip))
    ]
    if not candidates:
        return []
    with open_source(policy, recipe) as source:
        return [
            request.key
            for request, clip in source.map(candidates)
            if not isinstance(clip, UserError)
        ]
