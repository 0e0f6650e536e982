"""Clips, a tiny policy, its adapter and a judge: one of each for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from judge_server import judge_server


@pytest.fixture(scope="package")
def judge_url() -> Iterator[str]:
    """A judge that gives every prompt its own score, `steady_score(prompt)`."""
    with judge_server() as server:
        yield server.url


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory, judge_url: str) -> Path:
    """What `make_evaluation_world` makes: clips, a policy and an adapter."""
    from evaluation_runs import make_evaluation_world  # here: not every test waits for torch

    return make_evaluation_world(tmp_path_factory.mktemp("world"), judge_url)
