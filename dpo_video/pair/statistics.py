"""Statistics of pairs: lengths, margins, and which samplers their answers come from."""

from collections.abc import Mapping, Sequence
from typing import Any

from dpo_video.core.records import Pair
from dpo_video.core.statistics import correlation, mean, quantiles

UNEVEN_SHARE = 0.6
"""Share of a sampler's answers that are chosen, or rejected, from which pairs teach to tell
samplers apart.
"""
FEW_ANSWERS = 20
"""Paired answers of a sampler below which its shares say little."""


def pair_statistics(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return lengths in characters, how often chosen is the longer, margins, and how far score
    follows length.
    """
    chosen = [float(len(pair.chosen)) for pair in pairs]
    rejected = [float(len(pair.rejected)) for pair in pairs]
    margins: list[float] = []
    scores: list[float] = []
    lengths: list[float] = []
    for pair in pairs:
        if pair.chosen_score is None or pair.rejected_score is None:
            continue
        margins.append(pair.chosen_score - pair.rejected_score)
        scores += pair.scores
        lengths += (float(len(pair.chosen)), float(len(pair.rejected)))
    return {
        "chosen_length": mean(chosen),
        "rejected_length": mean(rejected),
        "chosen_longer": mean([float(a > b) for a, b in zip(chosen, rejected, strict=True)]),
        "margin": quantiles(margins),
        "score_length_correlation": correlation(scores, lengths),
    }


def sampler_shares(pairs: Sequence[Pair], samplers: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Return how often each sampler's answers are chosen and rejected; `samplers` is by candidate
    id.
    """
    shares: dict[str, dict[str, int]] = {
        name: {"chosen": 0, "rejected": 0} for name in sorted(set(samplers.values()))
    }
    for row in pairs:
        shares[samplers[row.chosen_id]]["chosen"] += 1
        shares[samplers[row.rejected_id]]["rejected"] += 1
    return shares


def has_given_sides(pairs: Sequence[Pair]) -> bool:
    """Return whether the rule that made the pairs gives each sampler its side, so that its shares
    say nothing; some pairs may since have been changed by votes.
    """
    return any(pair.source == "across" for pair in pairs)


def uneven_samplers(shares: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return a warning for every sampler whose answers are mostly chosen or mostly rejected.

    Where one sampler wins most pairs, style tells the answers apart, and training copies the style.
    """
    warnings = []
    for name, share in shares.items():
        total = share["chosen"] + share["rejected"]
        side = "chosen" if share["chosen"] > share["rejected"] else "rejected"
        if total >= FEW_ANSWERS and share[side] > UNEVEN_SHARE * total:
            warnings.append(
                f"{share[side]} of the {total} paired answers of {name!r} are {side} "
                f"({share[side] / total:.0%}): pairs may teach its style, not what is true"
            )
    return warnings
