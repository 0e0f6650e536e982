"""Section `evaluate`."""

from pydantic import Field, PositiveInt

from dpo_video.recipe.section import Section


class EvaluateSettings(Section):
    """Before and after on held-out clips."""

    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature of the evaluated answers; 0 is greedy."""
    max_new_tokens: PositiveInt = 256
    """An evaluated answer is cut there."""
    hallucination_scorer: str | None = "caption_support"
    """Scorer whose share below its threshold is the hallucination rate; None leaves it out."""
    pairwise_scorer: str | None = None
    """Scorer of `mode: pairwise` that compares each answer before with the one after, in both
    orders.
    """
    pair_samples: int = Field(default=100, ge=0)
    """Held-out samples to build held-out pairs from."""
    pair_candidates: int = Field(default=4, ge=0)
    """Answers of the base model per such sample."""
    bootstrap: PositiveInt = 2000
    """Resamples behind every 95 % interval; whole clips are resampled."""
