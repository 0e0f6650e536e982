"""Every test runs offline and on one thread, so that a suite of several processes does not fight
for cores.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # a suite in the background of a shell: its children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST_FILES = (
    "test_distributed.py",
    "test_rounds.py",
    "test_quickstart.py",
    "test_policy.py",
    "test_judge.py",
)
"""Few tests of minutes each. They begin first, so that no process is left alone with one."""

settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # on a busy machine
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, all else in its order (pytest-xdist's own puts them last, as
    they hold few tests: `--no-loadscope-reorder`).
    """
    rank = {name: place for place, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="module", params=["qwen2_5_vl", "llava_next_video"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny checkpoint and three clips, for each of the two first families."""
    from tiny_world import make_world  # here: tests without a model need not wait for torch

    return make_world(tmp_path_factory.mktemp("world"), request.param)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for Qwen2.5-VL alone."""
    from tiny_world import make_world

    return make_world(tmp_path_factory.mktemp("qwen"), "qwen2_5_vl")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser that pages are opened in; tests that need one are skipped without it.

    Not of the session: while it is open an event loop runs, beside which `asyncio.run` fails.
    """
    from browser import open_browser  # here: few tests need it

    with open_browser() as opened:
        yield opened
