"""Video negatives: the chosen answer again, rejected where it goes with a corrupted clip or another
one.

A model that answers from the question alone finds both equally likely; such pairs teach it to look
(conditional
preference: mDPO, arXiv 2406.11839; on clips VistaDPO, arXiv 2504.13122).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dpo_video.core.records import Pair
from dpo_video.core.turns import whole_question
from dpo_video.video import (
    clip_key,
    draw_corruption,
    draw_number,
    file_name,
    rejected_clip_key,
)

OTHER_CLIP = "other_clip"
NO_OTHER = "no other video file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Negatives:
    """Pairs with their video negatives, and how many these are."""

    pairs: list[Pair]
    """A question's negatives stand behind its pairs."""
    counts: dict[str, int]
    """Negatives by source."""
    dropped: dict[str, int]
    """Negatives that could not be made, by reason."""


def add_negatives(pairs: Sequence[Pair], kinds: Sequence[str], *, seed: int) -> Negatives:
    """Return the pairs and, for each question, one of each kind: its best chosen answer with the
    negative clip.

    A question whose pairs already tell clips apart gets none. The result depends on seed and pairs
    only; another clip is drawn from those of the pairs, and is of another file.
    """
    best: dict[tuple[str, str, str], Pair] = {}
    for pair in pairs:
        if rejected_clip_key(pair) == clip_key(pair):
            highest = best.setdefault(_question(pair), pair)
            if _score(pair) > _score(highest):
                best[_question(pair)] = pair
    pair_of_clip = {clip_key(pair): pair for pair in best.values()}
    last_index = {_question(pair): index for index, pair in enumerate(pairs)}
    with_negatives: list[Pair] = []
    dropped: Counter[str] = Counter()
    for index, pair in enumerate(pairs):
        with_negatives.append(pair)
        chosen = best.get(_question(pair))
        if chosen is None or last_index[_question(pair)] != index:
            continue
        for kind in dict.fromkeys(kinds):
            negative = _negative(chosen, kind, pair_of_clip, seed)
            if negative is None:
                dropped[NO_OTHER] += 1
            else:
                with_negatives.append(negative)
    counts = Counter(pair.source for pair in with_negatives)
    counts -= Counter(pair.source for pair in pairs)
    return Negatives(pairs=with_negatives, counts=dict(counts), dropped=dict(dropped))


def _negative(pair: Pair, kind: str, pair_of_clip: Mapping[str, Pair], seed: int) -> Pair | None:
    """Return the pair's chosen answer against itself with a negative clip; None where there is no
    other clip.
    """
    negative = replace(
        pair,
        rejected=pair.chosen,
        rejected_score=None,
        rejected_id=pair.chosen_id,
        rejected_finish="stop",
        source=f"video_{kind}",
        implicit_margin=None,
    )
    if kind != OTHER_CLIP:
        corruption = draw_corruption(kind, seed=seed, clip=clip_key(pair))
        return replace(negative, rejected_corruption=corruption)
    other_files = [
        other
        for _, other in sorted(pair_of_clip.items())
        if file_name(other.video) != file_name(pair.video)
    ]
    if not other_files:
        return None
    drawn = draw_number(kind, seed=seed, clip=clip_key(pair))
    clip = other_files[drawn % len(other_files)]
    return replace(
        negative, rejected_video=clip.video, rejected_start=clip.start, rejected_end=clip.end
    )


def _question(pair: Pair) -> tuple[str, str, str]:
    return pair.sample_id, clip_key(pair), whole_question(pair)


def _score(pair: Pair) -> float:
    return float("-inf") if pair.chosen_score is None else pair.chosen_score
