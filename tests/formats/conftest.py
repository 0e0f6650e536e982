"""Clips that imported rows name."""

from pathlib import Path

import pytest
from clips import write_clip


@pytest.fixture(scope="package")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `clips/`: a video, a folder of frames under the same name, a picture."""
    root = tmp_path_factory.mktemp("root")
    (root / "clips" / "v1").mkdir(parents=True)
    for name in ("v1.mp4", "v2.mp4"):
        write_clip(root / "clips" / name, 20)
    (root / "clips" / "a.jpg").write_bytes(b"picture")
    return root
