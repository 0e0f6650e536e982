"""What both sides of a comparison with another trainer train."""

from dataclasses import dataclass
from pathlib import Path

from bench.case import Case
from dpo_video.core.records import Pair

RATE = 2
"""Pictures a second of the written clips, all of which both sides take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerJob:
    """One checkpoint, written clips and pairs about them."""

    folder: Path
    """Holds `model/`, `pairs.jsonl` and the clips that it names."""
    case: Case
    """Video tokens, questions and answers of each clip."""
    clips: int
    epochs: int
    pairs: tuple[Pair, ...]
    video_token_id: int
    side: int
    """Pixels of a clip's edge; clips are square."""
    longest: int
    """Tokens of the longest row."""
    first_row: int
    """Tokens of the first pair's prompt and chosen answer."""

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch: one for each clip's pairs."""
        return self.clips
