"""Where a sample's clip lies, and its name in counts and in the store."""

import hashlib
import json
import os
import re
from pathlib import Path

from dpo_video.records import Pair, Sample
from dpo_video.video.frames import VideoError

REMOTE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")


def resolve_video(video: str | list[str], root: Path) -> Path | list[Path]:
    """Return the path (or paths, of a list of frames) of a record's `video`; relative ones start from `root`."""
    if isinstance(video, list):
        return [_resolve(name, root) for name in video]
    return _resolve(video, root)


def _resolve(name: str, root: Path) -> Path:
    if REMOTE.match(name) and not os.path.exists(root / name):
        raise VideoError("remote", name, "an address, not a file: download it first")
    return root / Path(name).expanduser()


def clip_key(sample: Sample | Pair) -> str:
    """Return the name of a sample's clip: its video, then `#t=start,end` where it is a part of it."""
    name = sample.video
    if isinstance(name, list):
        digest = hashlib.sha256(json.dumps(name).encode()).hexdigest()[:12]
        name = f"{name[0] if name else ''} and on ({len(name)} frames, {digest})"
    if sample.start is None and sample.end is None:
        return name
    start, end = ("" if second is None else repr(float(second)) for second in (sample.start, sample.end))
    return f"{name}#t={start},{end}"


def file_name(video: str | list[str]) -> str:
    """Return the name of a record's video, whatever part of it the clip is: what is resampled as one."""
    return video if isinstance(video, str) else "\n".join(video)
