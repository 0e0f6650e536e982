"""What a decoding process is asked, and what it answers beside frames: records alone, so that
whoever asks need not import a decoder.
"""

from dataclasses import dataclass
from pathlib import Path

from dpo_video.recipe import VideoSettings
from dpo_video.video.frames import ClipRequest, SoundFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallClipSettings:
    """How small."""

    lines: int = 360
    max_fps: float = 30.0
    max_seconds: float = 120.0
    """A longer clip is cut there."""
    max_megabytes: float = 4.0
    timeout: float = 120.0
    """Seconds after which the clip is given up."""
    with_video: bool = True
    """False writes the poster and the strip alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallClip:
    """What was written."""

    seconds: float
    fps: float
    width: int
    height: int
    has_sound: bool = False
    note: str = ""
    """What is not shown or heard of the clip, and which of several tracks is heard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A clip to read and how."""

    request: ClipRequest
    settings: VideoSettings
    multiple_of: int
    sound: SoundFormat | None = None
    asks_size: bool = False
    """Whether the size to decode at is asked for, by a SizeQuestion, once it is known how many
    frames there are.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeQuestion:
    """Asks for the height and width to decode frames at, and waits for them."""

    num_frames: int
    height: int
    width: int
    sound_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallClipJob:
    """A clip to make small for a page, and where to."""

    request: ClipRequest
    stem: Path
    settings: SmallClipSettings
