"""SmolLM2-135M-Instruct as checkpoints, written once a session. Without the packages of the extra
`real` these tests are skipped; where REAL_WEIGHTS=required is set, that is an error.
"""

import os
from pathlib import Path

import pytest
from real_weights import weights_folder, write_checkpoints


@pytest.fixture(scope="session")
def real_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoints `judge`, SmolLM2, and `policy`, a LLaVA-NeXT-Video around
    it.
    """
    if weights_folder() is None:
        if os.environ.get("REAL_WEIGHTS") == "required":
            pytest.fail("the packages of the extra `real` are not installed: scripts/setup.sh real")
        pytest.skip("the packages of the extra `real` are not installed: scripts/setup.sh real")
    folder = tmp_path_factory.mktemp("real")
    write_checkpoints(folder)
    return folder
