"""Section `rounds`."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from dpo_video.recipe.affects import Affects
from dpo_video.recipe.section import Section

CHANGEABLE = ("generate", "pair", "train")
"""Sections of which a round may have settings of its own."""
SET_BY_ROUNDS = frozenset(
    {
        *("generate.first_number", "pair.also", "train.reference"),
        *("train.lora", "train.lora.rank", "train.lora.alpha", "train.lora.dropout"),
        *("train.lora.experts", "train.tune"),
    }
)
"""What rounds set themselves, or share with the adapter that they go on from."""


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

    each: Annotated[list[dict[str, Any]], Affects.ANSWERS | Affects.PAIRS | Affects.WEIGHTS] = (
        Field(default=[])
    )
    """Settings of `generate`, `pair` and `train` that the rounds do not share, an entry a round,
    first to last: `[{generate.magnitude: 16}, {generate.magnitude: 8}]`."""

    @model_validator(mode="after")
    def _check_each(self) -> Self:
        if self.each and len(self.each) < self.count:
            raise ValueError(
                f"`each` has settings for {len(self.each)} rounds, and `count` is {self.count}: "
                "give an entry for every round ({} changes nothing)"
            )
        for key in dict.fromkeys(key for settings in self.each for key in settings):
            section, _, name = key.partition(".")
            if section not in CHANGEABLE or not name:
                raise ValueError(
                    f"`each` holds {key!r}: a round may have settings of its own in "
                    f"{', '.join(CHANGEABLE)}, written as generate.temperature"
                )
            if key in SET_BY_ROUNDS:
                raise ValueError(f"`each` holds {key!r}, which must be the same in all rounds")
        return self
