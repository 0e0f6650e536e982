"""Section `tracking`."""

from typing import Literal

from pydantic import Field

from dpo_video.recipe.section import Section


class TrackingSettings(Section):
    """Experiment tracking."""

    to: Literal["wandb", "none"] = "wandb"
    """`wandb` goes online with a key and is written offline without."""
    project: str = "dpo-video"
    """W&B project."""
    entity: str | None = None
    """W&B user or team; None is the key's own."""
    pair_table_rows: int = Field(default=32, ge=0)
    """Sampled pairs shown with a strip of frames."""
