"""A sealed folder: whole, or how it differs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dpo_video.core.seal import SEAL, broken_seal, is_sealed, seal


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: None, None),
        (lambda folder: os.truncate(folder / "weights", 5), "weights has 5 of 8 bytes"),
        (lambda folder: flip_a_byte(folder / "weights"), "weights has other bytes"),
        (lambda folder: (folder / "below" / "state").unlink(), "below/state is missing"),
    ],
)
def test_a_file_that_is_not_as_it_was_sealed_is_named(
    tmp_path: Path, damage: Callable[[Path], object], told: str | None
) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "weights").write_bytes(b"12345678")
    (tmp_path / "below" / "state").write_text("{}")
    seal(tmp_path, step=4)
    assert is_sealed(tmp_path)
    damage(tmp_path)
    reason = broken_seal(tmp_path)
    assert reason is None if told is None else reason is not None and told in reason


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": 4}', '{"files": 3}'])
def test_a_seal_without_files_is_none(tmp_path: Path, content: str) -> None:
    assert not is_sealed(tmp_path)
    (tmp_path / SEAL).write_text(content)
    assert not is_sealed(tmp_path)
