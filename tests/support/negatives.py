"""Pairs with video negatives of every kind."""

from collections.abc import Sequence

from tiny_world import make_pairs

from dpo_video.core.records import Pair
from dpo_video.pair.video_negatives import add_negatives

NEGATIVES = ("shuffle", "reverse", "drop", "other_clip")


def with_negatives(count: int = 3, kinds: Sequence[str] = NEGATIVES) -> list[Pair]:
    return add_negatives(make_pairs(count), kinds, seed=3).pairs
