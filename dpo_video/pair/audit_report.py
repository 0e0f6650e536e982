"""The records of an audit, in the layout of audit.json."""

from dataclasses import dataclass

from dpo_video.core.report import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Equal bins over the values of all series."""

    edges: list[float]
    """(bins + 1,)."""
    series: dict[str, list[int]]
    """(bins,) counts each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCounts:
    """How many pairs there are, and what was left out by unit and reason."""

    pairs: int
    questions: int
    clips: int
    pairs_per_question: dict[str, int]
    dropped: dict[str, dict[str, int]]
    cleaned: dict[str, dict[str, int]]
    other_clip_pairs: int | None = None
    """Pairs that compare two clips: they are not audited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Answers that repeat another of their question, and pairs that repeat an earlier pair."""

    answers: int
    judged_once_for_several: int
    pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImplicitMargins:
    """What is known of the policy's own margins, in nats x beta."""

    quantiles: dict[str, float]
    n: int
    wrongly_ranked: float
    """Share of pairs with a margin below 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """The score margins of the pairs."""

    quantiles: dict[str, float]
    mean: float
    histogram: Histogram
    implicit: ImplicitMargins | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Lengths of answers in characters, and how much of the margin goes with them."""

    chosen: float
    rejected: float
    extra: Estimate
    """Chosen length less rejected length."""
    chosen_longer: Estimate
    histogram: Histogram
    fitted_on: str
    answers: int
    score_correlation: Estimate
    score_correlation_within_questions: Estimate
    score_per_100_characters: Estimate
    margin: Estimate
    residual_margin: Estimate
    """The margin less slope x extra length."""
    explained_by_length: float
    """Share of pairs without a residual margin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndPlaces:
    """Share of the answers of one side that are the first, or the last, candidate."""

    first: float
    last: float | None
    """None where the candidates are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Positions:
    """Where chosen and rejected answers stand among the candidates; only `n` where their ids do not
    tell.
    """

    n: int
    by_place: dict[int, list[int]] | None = None
    """By place: how often chosen, how often rejected."""
    chosen_earlier: Estimate | None = None
    chosen: EndPlaces | None = None
    rejected: EndPlaces | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerAudit:
    """How often a sampler's answers are chosen and rejected."""

    chosen: int
    rejected: int
    share_chosen: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """All that an audit found, in the layout of audit.json."""

    run: str
    counts: PairCounts
    duplicates: Duplicates
    margin: Margins
    length: Lengths
    position: Positions
    samplers: dict[str, SamplerAudit]
    warnings: list[str]
