"""Section `pair`."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from dpo_video.recipe.affects import ABSENT_AT_DEFAULT, CONTENTS_IN_KEYS, Affects
from dpo_video.recipe.section import Section


class PairSettings(Section):
    """Which candidates become chosen and rejected."""

    rule: Annotated[
        Literal["hound", "best_worst", "best_vs_sigma", "all_pairs", "across"], Affects.PAIRS
    ] = "best_worst"
    """`hound`: one at or above `threshold` against one below; `best_worst`; `best_vs_sigma`: the
    best against the one nearest to `rejected_sigmas` below the mean; `all_pairs` by margin;
    `across`: the best of `chosen_samplers` against those of `rejected_samplers`, where the judge
    agrees."""
    chosen_samplers: Annotated[list[str], Affects.PAIRS, ABSENT_AT_DEFAULT] = Field(default=[])
    """Under `across`: samplers of `generate.mix` whose answers are chosen. One that scores below
    the threshold is never."""
    rejected_samplers: Annotated[list[str], Affects.PAIRS, ABSENT_AT_DEFAULT] = Field(default=[])
    """Under `across`: samplers whose answers are rejected, where the judge scores them lower."""
    max_length_ratio: Annotated[float | None, Affects.PAIRS, ABSENT_AT_DEFAULT] = Field(
        default=None, gt=1
    )
    """Under `across`: drop a pair whose longer answer has more than this many times the characters
    of the other; TEMPLE takes 1.5."""
    chosen_longer_than: Annotated[list[str], Affects.PAIRS, ABSENT_AT_DEFAULT] = Field(default=[])
    """Under `across`: samplers of `rejected_samplers` whose answers make a pair only with a longer
    one, in place of `max_length_ratio`; TEMPLE does so where frames were dropped."""
    min_margin: Annotated[float, Affects.PAIRS] = Field(default=0.5, ge=0)
    """Least score difference, except under `hound`."""
    noise_margins: Annotated[PositiveFloat | None, Affects.PAIRS] = None
    """Ask for this many times the judge's own noise too: `noise_sigma` of RUN/agreement.json, the
    standard deviation of a score when the same answer is judged again, as `dpo-video agree RUN`
    measures it.
    """
    noise_from: Annotated[str | None, Affects.PAIRS, CONTENTS_IN_KEYS] = None
    """An agreement.json to take that noise from, of another run with the same judge and scorer;
    None: the run's own, in later rounds that of the first."""
    threshold: Annotated[float | None, Affects.PAIRS] = None
    """Score from which an answer counts as good under `hound`; None takes the scorer's."""
    rejected_sigmas: Annotated[PositiveFloat, Affects.PAIRS] = 2.0
    """Under `best_vs_sigma`, how many standard deviations of the question's scores the rejected
    answer is sought below their mean."""
    max_pairs_per_sample: Annotated[PositiveInt, Affects.PAIRS] = 2
    """Cap under `all_pairs` and `across`; the widest margins stay."""
    min_rejected_score: Annotated[float | None, Affects.PAIRS] = None
    """Drop pairs whose rejected answer scores lower: a question that draws such answers teaches
    little (RIP).
    """
    min_rejected_length: Annotated[NonNegativeInt, Affects.PAIRS] = 0
    """Drop pairs whose rejected answer has fewer characters."""
    implicit_rewards: Annotated[str | None, Affects.PAIRS] = None
    """JSONL of Reward: a policy's implicit reward of every candidate, as `dpo-video rewards RUN`
    writes it. Pairs then carry their implicit margin."""
    keep_hardest: Annotated[float, Affects.PAIRS] = Field(default=1.0, gt=0, le=1)
    """Share of the pairs that stay, those with the smallest implicit margins; needs
    `implicit_rewards`.
    """
    balance_length: Annotated[bool, Affects.PAIRS] = False
    """Drop smallest-margin pairs until chosen and rejected are equally long on average."""
    video_negatives: Annotated[
        list[Literal["shuffle", "reverse", "drop", "other_clip"]], Affects.PAIRS
    ] = Field(default=[])
    """For every question paired, and also for those of `data.pairs`, one more pair of each kind:
    the chosen answer against itself with a clip that it does not describe. `shuffle` and `reverse`:
    its frames in another order; `drop`: all frames but a fifth in a row are gone; `other_clip`: the
    clip of another question's file.
    """
    also: Annotated[str | None, Affects.PAIRS, CONTENTS_IN_KEYS] = None
    """JSONL of Pair to train on beside those that are built, e.g. RUN/pairs.jsonl of an earlier
    round; what was built anew is not taken twice."""
    tie_break: Annotated[str | None, Affects.PAIRS] = None
    """Pairwise scorer for a question that would be dropped because its answers are a tie or less
    than `min_margin`
    apart: it compares the highest with the lowest in both orders, and the pair counts where both
        orders agree.
    """
    votes: Annotated[Literal["prefer", "filter", "ignore"], Affects.PAIRS, ABSENT_AT_DEFAULT] = (
        "ignore"
    )
    """What people's votes in RUN/votes.jsonl (`dpo-video review`) do to the pairs: under `prefer`
    the answer that they prefer is the chosen one, under `filter` a pair that they order the other
    way is dropped; under both a pair that they call a tie, or both answers bad, is dropped, and one
    without a vote stays.
    """
