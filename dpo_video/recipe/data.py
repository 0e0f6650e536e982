"""Section `data`."""

from typing import Annotated, Any

from pydantic import Field, PositiveInt, model_validator

from dpo_video.recipe.affects import Affects
from dpo_video.recipe.section import Section


class DataSettings(Section):
    """Where clips, captions and questions come from."""

    samples: Annotated[str, Affects.SAMPLES]
    """JSONL of Sample to train on, or `toy:train`; left out where `pairs` is given."""
    pairs: Annotated[str | None, Affects.PAIRS] = None
    """JSONL of Pair to train on, e.g. from `dpo-video import`: nothing is generated, judged or
    paired then.
    """
    heldout: Annotated[str | None, Affects.SAMPLES] = None
    """JSONL of Sample to evaluate on, or `toy:heldout`; its clips must not be among the training
    clips.
    """
    video_root: Annotated[str | None, Affects.SAMPLES] = None
    """Folder that relative video paths start from; None is the folder of the JSONL file."""
    outside_root: Annotated[bool, Affects.SPEED] = False
    """Read clips that lie outside of `video_root`, too: by an absolute path, `..`, `~` or a link.
    A file of samples from elsewhere could name any file of yours."""
    limit: Annotated[PositiveInt | None, Affects.SAMPLES] = None
    """Use the first N training samples."""
    heldout_limit: Annotated[PositiveInt | None, Affects.SAMPLES] = None
    """Use the first N held-out samples."""
    part: Annotated[str | None, Affects.SAMPLES] = Field(default=None, pattern=r"^\d+/\d+$")
    """`K/N`: of the training samples only those of the Kth of N parts, a clip's all in one; None
    takes all."""
    max_bad_fraction: Annotated[float, Affects.SAMPLES] = Field(default=0.05, ge=0, le=1)
    """Stop when a larger share of the clips cannot be read."""

    @model_validator(mode="before")
    @classmethod
    def _pairs_instead(cls, values: Any) -> Any:
        """Let pairs stand in for samples."""
        if isinstance(values, dict) and values.get("pairs") and "samples" not in values:
            return {**values, "samples": ""}
        return values
