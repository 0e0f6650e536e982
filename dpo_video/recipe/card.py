"""Section `card`."""

from typing import Annotated

from pydantic import Field

from dpo_video.recipe.affects import Affects
from dpo_video.recipe.section import Section


class CardSettings(Section):
    """What the cards of an adapter and of its pairs say beside what the run knows."""

    license: Annotated[str | None, Affects.DISPLAY] = None
    """Licence of what is published, as the hub writes it: `apache-2.0`. None says that none is
    stated."""
    clips_license: Annotated[str | None, Affects.DISPLAY] = None
    """Licence of the clips and captions, in words or as the hub writes it."""
    base_model: Annotated[str | None, Affects.DISPLAY] = None
    """Hub id of the base model, where `model.name` is a folder of this machine."""
    datasets: Annotated[list[str], Affects.DISPLAY] = Field(default=[])
    """Hub ids of the data sets that the samples are from."""
    language: Annotated[list[str], Affects.DISPLAY] = Field(default=[])
    """ISO codes of the languages of questions and answers: `[en]`."""
