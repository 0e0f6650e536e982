"""The candidates that a sample will have, written or not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dpo_video.core.records import Candidate, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAnswers:
    """The candidates of a sample."""

    sample: Sample
    candidates: Mapping[str, Callable[[dict[str, Any]], Candidate]]
    """By the key of the stored row, what makes the candidate of it, in the order of the file."""
