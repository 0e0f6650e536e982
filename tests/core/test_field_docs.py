"""What stands under a field: of the class that declares it, in one line."""

import pytest
from pydantic import BaseModel

from dpo_video.core.field_docs import field_meaning
from dpo_video.recipe import VideoSettings


class Frames(BaseModel):
    """Not about a field."""

    fps: float = 2.0
    """Frames a second,
    at most.
    """
    silent: int = 0
    label: str = "a"
    "Short."


class FewFrames(Frames):
    fps: float = 1.0
    """Few."""


@pytest.mark.parametrize(
    ("model", "name", "meaning"),
    [
        (Frames, "fps", "Frames a second, at most."),
        (Frames, "silent", ""),
        (Frames, "label", "Short."),
        (FewFrames, "fps", "Few."),
        (FewFrames, "label", "Short."),
        (VideoSettings, "workers", "Decoding processes."),
    ],
)
def test_the_docstring_under_a_field(model: type, name: str, meaning: str) -> None:
    assert field_meaning(model, name) == meaning
