"""Section `agree`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from dpo_video.recipe.affects import Affects
from dpo_video.recipe.section import Section


class AgreeSettings(Section):
    """How far the judge is to be trusted: against gold labels, itself and probes."""

    precision: Annotated[float, Affects.METRICS] = Field(default=0.9, gt=0.5, le=1)
    """Wanted share of pairs that gold orders the same way; `pair.min_margin` is suggested for it.
    """
    repeats: Annotated[int, Affects.METRICS] = Field(default=4, ge=0)
    """Further judgments of each answer that noise is measured on: drawn anew where verdicts are
    sampled, else in other words; 0 leaves noise out."""
    noise_samples: Annotated[PositiveInt, Affects.METRICS] = 40
    """Samples whose answers are judged again for it."""
    probes: Annotated[int, Affects.METRICS] = Field(default=100, ge=0)
    """Probes of each kind, one a caption; 0 leaves probes out."""
    probes_from: Annotated[Literal["caption", "answer"], Affects.METRICS] = "caption"
    """`caption` swaps facts in a sentence of the caption; `answer` in the sample's gold answer,
    asked with its own question."""
    bins: Annotated[PositiveInt, Affects.METRICS] = 10
    """Bins of the reliability diagram and of the expected calibration error."""
    bootstrap: Annotated[PositiveInt, Affects.METRICS] = 1000
    """Resamples behind every 95 % interval; whole clips are resampled."""
