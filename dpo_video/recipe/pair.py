"""Section `pair`."""

from typing import Literal

from pydantic import Field, PositiveInt

from dpo_video.recipe.section import Section


class PairSettings(Section):
    """Which candidates become chosen and rejected."""

    rule: Literal["hound", "best_worst", "all_pairs"] = "best_worst"
    """`hound`: one at or above `threshold` against one below; `best_worst`; `all_pairs` by margin."""
    min_margin: float = Field(default=0.5, ge=0)
    """Least score difference under `best_worst` and `all_pairs`."""
    threshold: float | None = None
    """Score from which an answer counts as good under `hound`; None takes the scorer's."""
    max_pairs_per_sample: PositiveInt = 2
    """Cap under `all_pairs`; the widest margins stay."""
    balance_length: bool = False
    """Drop smallest-margin pairs until chosen and rejected are equally long on average."""
    tie_break: str | None = None
    """Pairwise scorer for a question that would be dropped because its answers are a tie or less than `min_margin`
    apart: it compares the highest with the lowest in both orders, and the pair counts where both orders agree."""
