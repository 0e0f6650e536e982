"""Section `tracking`."""

from typing import Annotated, Literal

from pydantic import Field

from dpo_video.recipe.affects import Affects
from dpo_video.recipe.section import Section


class TrackingSettings(Section):
    """Experiment tracking."""

    to: Annotated[Literal["wandb", "trackio", "tensorboard", "none"], Affects.DISPLAY] = "wandb"
    """`wandb` goes online with a key and is written offline without; `trackio` is a dashboard on
    this machine (`trackio show`); `tensorboard` writes event files to the run folder, which hold no
    files and no pages."""
    project: Annotated[str, Affects.DISPLAY] = "dpo-video"
    """Project of W&B and Trackio."""
    group: Annotated[str | None, Affects.DISPLAY] = None
    """Group of runs in W&B and Trackio, e.g. those of a sweep."""
    tags: Annotated[list[str], Affects.DISPLAY] = Field(default=[])
    """Tags of the W&B run."""
    entity: Annotated[str | None, Affects.DISPLAY] = None
    """W&B user or team; None is the key's own."""
    pair_table_rows: Annotated[int, Affects.DISPLAY] = Field(default=32, ge=0)
    """Sampled pairs shown with a strip of frames."""
