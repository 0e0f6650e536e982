"""What can be told about a clip without reading all of it: records alone, facts.py finds them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from dpo_video.video.frames import ClipRequest, VideoError


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFacts:
    """What cleaning asks about a clip."""

    seconds: float
    """How long the clip lasts; of a part of a file, that part."""
    shorter: int
    """Pixels of the shorter side of a frame, whichever way it is turned."""
    longer: int
    """Pixels of the longer side."""
    brightness: float | None = None
    """Mean of the brightest frame looked at, 0 to 255; None where frames were not looked at."""
    motion: float | None = None
    """Largest mean absolute difference from one frame looked at to the next, 0 to 255; 0 of a
    single frame.
    """


ClipProbe = Callable[
    [Iterable[ClipRequest]], Iterator["tuple[ClipRequest, ClipFacts | VideoError]"]
]
"""Yields what is known of each clip, in order."""
