"""Clips and questions of one folder for all tests of generation."""

import pytest
from generation_runs import write_data


@pytest.fixture(scope="package")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))
