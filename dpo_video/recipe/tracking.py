"""Section `tracking`."""

from typing import Annotated, Literal

from pydantic import Field

from dpo_video.recipe.affects import Affects
from dpo_video.recipe.section import Section


class TrackingSettings(Section):
    """Experiment tracking."""

    to: Annotated[Literal["wandb", "none"], Affects.DISPLAY] = "wandb"
    """`wandb` goes online with a key and is written offline without."""
    project: Annotated[str, Affects.DISPLAY] = "dpo-video"
    """W&B project."""
    entity: Annotated[str | None, Affects.DISPLAY] = None
    """W&B user or team; None is the key's own."""
    pair_table_rows: Annotated[int, Affects.DISPLAY] = Field(default=32, ge=0)
    """Sampled pairs shown with a strip of frames."""
