"""Clips in the order of training, prepared in processes and threads ahead of the step."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import dropwhile

from dpo_video.core.errors import UserError
from dpo_video.models.clip_source import ClipSource, ReadyClip
from dpo_video.models.encoded_clip import EncodedClip
from dpo_video.video import ClipRequest

OnBadClip = Callable[[str, UserError], None]
"""Told a clip's key and why it cannot be read; may raise to stop."""


class ClipPrefetcher:
    """Gives the clips that training is at, while the source prepares those that come next.

    A group is the clips of a pair: one, or that of the rejected answer too. Groups with a clip in
    common follow each other and the clips of a group are held until the next, so a clip is read and
    encoded once an epoch, and once more for each other clip whose pairs reject it.
    """

    def __init__(
        self,
        source: ClipSource,
        requests: Mapping[str, ClipRequest],
        ahead: Callable[[], Iterable[tuple[str, ...]]],
        *,
        on_bad_clip: OnBadClip,
        bad: set[str] | None = None,
        encode: Callable[[ReadyClip], EncodedClip] | None = None,
    ) -> None:
        """Read the clips `requests` (by key) from `source`.

        Args:
            ahead: returns the groups in the order in which they will be asked for, from the start
                of this epoch on.
            on_bad_clip: told of each clip that cannot be read, once.
            bad: clips known to be bad, e.g. from before a resume; they are not tried, and new ones
                are added.
            encode: what becomes of a clip that was read; None is the source's tower, on the
                policy's device.
        """
        self._source = source
        self._requests = requests
        self._ahead = ahead
        self._on_bad_clip = on_bad_clip
        self._bad = set() if bad is None else bad
        self._encode = encode or source.encode
        self._coming: deque[str] = deque()
        """Clips that the source was asked for and has not given yet."""
        self._stream: Iterator[tuple[ClipRequest, ReadyClip | UserError]] = iter(())
        self._held: dict[str, EncodedClip] = {}
        """The clips of the last group."""
        self.num_read = 0
        self.waited = 0.0
        """Seconds for which `read` had to wait for a clip."""

    def read(self, key: str) -> EncodedClip | None:
        """Return a clip, None when it cannot be read."""
        return self.get((key,))[0]

    def get(self, clips: tuple[str, ...]) -> list[EncodedClip | None]:
        """Return the clips of a pair, None for one that cannot be read."""
        self._held = {key: clip for key, clip in self._held.items() if key in clips}
        for key in clips:
            if key not in self._held and key not in self._bad:
                self._fetch(key, clips)
        return [self._held.get(key) for key in clips]

    def _fetch(self, key: str, group: tuple[str, ...]) -> None:
        while (
            self._coming and self._coming[0] != key and self._coming[0] in self._bad
        ):  # asked for before it failed
            self._next()
        if (
            not self._coming or self._coming[0] != key
        ):  # the first, or one in the middle of an epoch after a resume
            self._coming.clear()
            self._stream = self._source.map(self._requests_from(group))
        clip = self._next()
        if isinstance(clip, UserError):
            self._bad.add(key)
            self._on_bad_clip(key, clip)
        else:
            self._held[key] = self._encode(clip)

    def _requests_from(self, group: tuple[str, ...]) -> Iterator[ClipRequest]:
        """Yield what to read from a group on, as far ahead as the source asks; bad clips known by
        then are left out.
        """
        held = set(self._held)
        for clips in dropwhile(lambda clips: clips != group, self._ahead()):
            for clip in clips:
                if clip not in held and clip not in self._bad:
                    self._coming.append(clip)
                    yield self._requests[clip]
            held = set(clips)

    def _next(self) -> ReadyClip | UserError:
        begin = time.monotonic()
        request, clip = next(self._stream, (None, None))
        self.waited += time.monotonic() - begin
        self.num_read += 1
        assert request is not None and clip is not None, (
            "a clip was asked for that is not in the order"
        )
        assert self._coming.popleft() == request.key
        return clip
