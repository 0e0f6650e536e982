"""Section `data`."""

from pydantic import Field, PositiveInt

from dpo_video.recipe.section import Section


class DataSettings(Section):
    """Where clips, captions and questions come from."""

    samples: str
    """JSONL of Sample to train on, or `toy:train`."""
    heldout: str | None = None
    """JSONL of Sample to evaluate on, or `toy:heldout`; its clips must not be among the training clips."""
    video_root: str | None = None
    """Folder that relative video paths start from; None is the folder of the JSONL file."""
    limit: PositiveInt | None = None
    """Use the first N training samples."""
    heldout_limit: PositiveInt | None = None
    """Use the first N held-out samples."""
    max_bad_fraction: float = Field(default=0.05, ge=0, le=1)
    """Stop when a larger share of the clips cannot be read."""
