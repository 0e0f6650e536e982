"""Clips in the order of training, decoded in worker processes ahead of the step."""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from dpo_video.errors import UserError
from dpo_video.models.load import Policy
from dpo_video.models.prompts import ClipInputs, video_inputs
from dpo_video.models.tokens import fit_frames
from dpo_video.recipe import VideoSettings
from dpo_video.records import Pair
from dpo_video.training.order import ClipOrder
from dpo_video.video import ClipRequest, FramePool, Frames, VideoError, clip_key, resolve_video

OnBadClip = Callable[[str, UserError], None]
"""Told a clip's key and why it cannot be read; may raise to stop."""


def clip_request(pair: Pair, root: Path) -> ClipRequest:
    """Return what to decode for a pair; raises VideoError for an address."""
    video = resolve_video(pair.video, root)
    return ClipRequest(key=clip_key(pair), video=tuple(video) if isinstance(video, list) else video, start=pair.start,
                       end=pair.end)


def clip_inputs(policy: Policy, frames: Frames, settings: VideoSettings) -> ClipInputs:
    """Return the processor's tensors for a clip, after `video.max_tokens`."""
    return video_inputs(policy, fit_frames(policy.blueprint, settings, frames), settings)


class ClipReader:
    """Gives the clip that training is at, while the pool decodes those that come next.

    A clip is decoded once an epoch: its pairs follow each other in `order`, and it is kept until the next clip.
    """

    def __init__(self, pool: FramePool, requests: Mapping[str, ClipRequest], order: ClipOrder, *,
                 prepare: Callable[[Frames], ClipInputs], on_bad_clip: OnBadClip, bad: Iterable[str] = ()) -> None:
        """Read the clips `requests` (by key) from `pool` in `order`.

        Args:
            prepare: turns a clip's frames into tensors.
            on_bad_clip: told of each clip that cannot be read, once.
            bad: clips known to be bad, e.g. from before a resume; they are not tried.
        """
        self._pool = pool
        self._requests = requests
        self._order = order
        self._prepare = prepare
        self._on_bad_clip = on_bad_clip
        self._bad = set(bad)
        self._coming: deque[str] = deque()
        self._stream: Iterator[tuple[ClipRequest, Frames | VideoError]] = iter(())
        self._current: tuple[str, ClipInputs] | None = None
        self.num_decoded = 0

    def read(self, key: str) -> ClipInputs | None:
        """Return a clip's tensors, None when it cannot be read."""
        if key in self._bad:
            return None
        if self._current is not None and self._current[0] == key:
            return self._current[1]
        while self._coming and self._coming[0] in self._bad:  # it failed since this list was made
            self._next()
        if not self._coming or self._coming[0] != key:  # a new epoch, or the middle of one after a resume
            ordered = self._order.clip_order()
            self._coming = deque(clip for clip in ordered[ordered.index(key):] if clip not in self._bad)
            self._stream = self._pool.map([self._requests[clip] for clip in self._coming])
        frames = self._next()
        try:
            if isinstance(frames, VideoError):
                raise frames
            self._current = key, self._prepare(frames)
        except UserError as error:  # also frames that the processor refuses
            self._bad.add(key)
            self._on_bad_clip(key, error)
            return None
        return self._current[1]

    def _next(self) -> Frames | VideoError:
        self._coming.popleft()
        self.num_decoded += 1
        return next(self._stream)[1]


def note_bad_clip(folder: Path, clip: str, reason: str) -> None:
    """Append to the list of clips that failed during training, which a resumed run leaves out as well."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "bad_clips.jsonl").open("a", encoding="utf-8") as out:  # one short line: whole, or torn at the end
        out.write(json.dumps({"clip": clip, "reason": reason}) + "\n")


def noted_bad_clips(folder: Path) -> dict[str, str]:
    """Return the clips that failed during an earlier part of this training, with the reasons."""
    path = folder / "bad_clips.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    return {row["clip"]: row["reason"] for row in map(json.loads, lines)}
