"""Section `evaluate`."""

from typing import Annotated

from pydantic import Field, PositiveInt

from dpo_video.recipe.affects import Affects
from dpo_video.recipe.section import Section


class EvaluateSettings(Section):
    """Before and after on held-out clips."""

    temperature: Annotated[float, Affects.ANSWERS] = Field(default=0.0, ge=0)
    """Sampling temperature of the evaluated answers; 0 is greedy."""
    max_new_tokens: Annotated[PositiveInt, Affects.ANSWERS] = 256
    """An evaluated answer is cut there."""
    hallucination_scorer: Annotated[str | None, Affects.METRICS] = "caption_support"
    """Scorer whose share below its threshold is the hallucination rate; None leaves it out."""
    pairwise_scorer: Annotated[str | None, Affects.METRICS] = None
    """Scorer of `mode: pairwise` that compares each answer before with the one after, in both
    orders.
    """
    pair_samples: Annotated[int, Affects.METRICS] = Field(default=100, ge=0)
    """Held-out samples to build held-out pairs from."""
    pair_candidates: Annotated[int, Affects.METRICS] = Field(default=4, ge=0)
    """Answers of the base model per such sample."""
    bootstrap: Annotated[PositiveInt, Affects.METRICS] = 2000
    """Resamples behind every 95 % interval; whole clips are resampled."""
