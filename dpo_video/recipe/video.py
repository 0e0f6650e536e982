"""Section `video`."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from dpo_video.recipe.section import Section


class VideoSettings(Section):
    """Which frames the model sees; one policy for generate, train and evaluate."""

    policy: Literal["uniform", "fps"] = "uniform"
    """`uniform` spreads `num_frames` over the clip; `fps` takes frames at a rate."""
    num_frames: PositiveInt = 8
    """Frames per clip under `uniform`."""
    fps: PositiveFloat = 2.0
    """Frames per second under `fps`."""
    min_frames: PositiveInt = 4
    """Fewest frames under `fps`."""
    max_frames: PositiveInt = 768
    """Most frames under `fps`."""
    min_pixels: PositiveInt | None = None
    """Least height x width of a frame after resizing; None keeps the checkpoint's value."""
    max_pixels: PositiveInt | None = None
    """Most height x width of a frame after resizing; None keeps the checkpoint's value."""
    max_tokens: PositiveInt | None = None
    """Most video tokens per clip; a clip over it loses frames, evenly, and is counted."""
    backend: Literal["pyav", "decord"] = "pyav"
    """`pyav` is exact everywhere; `decord` reads only files that it is known to read right, else pyav, counted."""
    workers: int = Field(default=2, ge=1)
    """Decoding processes."""
    timeout: PositiveFloat = 120.0
    """Seconds after which a clip is given up and set aside."""
    cache: Literal["none", "frames", "features"] = "none"
    """What of a clip is kept on disk: `frames` saves decoding it again (uncompressed, exact), `features` the vision
    tower as well. Every stage reads it."""
    cache_gb: PositiveFloat = 50.0
    """Size limit of the cache in GiB; what was not read for longest goes first."""
    cache_folder: str | None = None
    """Folder of the cache, which runs may share; None is `cache` in the run folder."""
