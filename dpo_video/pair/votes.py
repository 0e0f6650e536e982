"""People's votes on the pairs of a run (`pair.votes`): they overrule the judge, or drop what it got
wrong.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dpo_video.core.errors import UserError
from dpo_video.core.records import Pair
from dpo_video.data.votes import (
    FILE,
    Decision,
    PairKey,
    decisions,
    on_these_texts,
    pair_key,
    read_votes,
)
from dpo_video.pair.answers import Drop

SOURCE = "votes"
"""Source of pairs whose order people turned."""


class VotedPairs(NamedTuple):
    """The pairs after the votes, the others as drops, and what was counted."""

    pairs: list[Pair]
    drops: list[Drop]
    counts: dict[str, Any]


def votes_on_pairs(folder: Path, pairs: Sequence[Pair]) -> dict[PairKey, Decision]:
    """Return what the votes in a run folder come to; UserError where there are none."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(
            f"pair.votes goes by {str(path)!r}, which is not there. Vote first: dpo-video review "
            f"{folder}; or set pair.votes=ignore"
        )
    keys = {pair_key(pair.chosen_id, pair.rejected_id) for pair in pairs}
    text_of = {pair.chosen_id: pair.chosen for pair in pairs}
    text_of |= {pair.rejected_id: pair.rejected for pair in pairs}
    votes = [vote for vote in read_votes(path) if pair_key(vote.left_id, vote.right_id) in keys]
    return decisions(on_these_texts(votes, text_of))


def apply_votes(
    pairs: Sequence[Pair],
    voted: Mapping[PairKey, Decision],
    mode: Literal["prefer", "filter"],
    *,
    finish_of: Mapping[str, str] | None = None,
) -> VotedPairs:
    """Return the pairs as the votes have them. Pairs without a vote stay as they are.

    A pair that was voted a tie, or both answers bad, is dropped. One whose rejected answer people
    prefer is turned under `prefer`, and dropped under `filter`.

    Args:
        finish_of: how the answers ended, by candidate id, for the rejected ones of turned pairs.
    """
    remaining: list[Pair] = []
    dropped: list[tuple[Pair, str]] = []
    counts: Counter[str] = Counter()
    for pair in pairs:
        decision = voted.get(pair_key(pair.chosen_id, pair.rejected_id))
        if decision is None:
            remaining.append(pair)
        elif decision.outcome != "prefers":
            dropped.append((pair, f"voted {decision.outcome.replace('_', ' ')}"))
        elif decision.preferred_id == pair.chosen_id:
            counts["confirmed"] += 1
            remaining.append(pair)
        elif mode == "filter":
            dropped.append((pair, "voted the other way"))
        else:
            counts["turned"] += 1
            remaining.append(_turned(pair, finish_of or {}))
    paired_ids = {pair.sample_id for pair in remaining}
    drops = []
    for pair, reason in dropped:
        drops.append(_drop(pair, "pair", reason))
        if pair.sample_id not in paired_ids:
            paired_ids.add(pair.sample_id)
            drops.append(_drop(pair, "question", reason))
    counts["dropped"] = len(dropped)
    return VotedPairs(remaining, drops, dict(counts))


def _turned(pair: Pair, finish_of: Mapping[str, str]) -> Pair:
    return replace(
        pair,
        chosen=pair.rejected,
        rejected=pair.chosen,
        chosen_id=pair.rejected_id,
        rejected_id=pair.chosen_id,
        chosen_score=pair.rejected_score,
        rejected_score=pair.chosen_score,
        rejected_finish=finish_of.get(pair.chosen_id, "stop"),
        implicit_margin=None if pair.implicit_margin is None else -pair.implicit_margin,
        source=SOURCE,
    )


def _drop(pair: Pair, unit: Literal["pair", "question"], reason: str) -> Drop:
    return Drop(
        sample_id=pair.sample_id,
        unit=unit,
        reason=reason,
        count=1,
        detail=f"{pair.chosen_id} over {pair.rejected_id}",
    )
