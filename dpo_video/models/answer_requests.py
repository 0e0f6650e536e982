"""What a policy is asked for when it writes answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from dpo_video.models.collate import TokenRow
from dpo_video.models.sampling import Sampler


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnswerRequest:
    """Answers to one prompt, by one sampler."""

    row: TokenRow
    """The prompt, without an answer."""
    sampler: Sampler
    seeds: Sequence[int]
    """One for each answer."""
