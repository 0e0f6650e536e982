"""Section `rounds`."""

from typing import Annotated, Literal

from pydantic import PositiveInt

from dpo_video.recipe.affects import Affects
from dpo_video.recipe.section import Section


class RoundsSettings(Section):
    """The five stages several times in a row, each time from the adapter of the round before."""

    count: Annotated[PositiveInt, Affects.SPEED] = 3
    """How many rounds; one more leaves those before as they are, unless `samples` is `split`."""
    reference: Annotated[Literal["base", "previous"], Affects.WEIGHTS] = "base"
    """What each round is pulled to: `base`, the reference of the first round, whose log-probs stay
    valid; `previous`, the policy of the round before."""
    samples: Annotated[Literal["all", "split"], Affects.SAMPLES] = "all"
    """`all`: every round samples answers to all questions; `split`: each has a part of the clips of
    its own."""
    keep_pairs: Annotated[bool, Affects.PAIRS] = False
    """Train on the pairs of the earlier rounds, too."""
    stop: Annotated[Literal["never", "no_gain"], Affects.SPEED] = "never"
    """`no_gain`: begin no further round after one whose gain on the held-out samples is inside its
    interval."""
