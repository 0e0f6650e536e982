"""The cache of `video.cache: auto`: the first entries stay, within its limit and half of the free
disk.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dpo_video.video.cache import DiskCache, entry_head

BODY = bytes(100 - len(entry_head("00")))
"""An entry of 100 bytes, its head counted."""


def held(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*/*"))


def test_the_first_entries_stay_and_are_all_found_in_each_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 15 clips in turn 10 fit: kept first, each round finds 10; by last use none would be."""
    caplog.set_level("INFO")
    first = DiskCache(tmp_path / "first", limit=1000, keeps_first=True)
    last = DiskCache(tmp_path / "last", limit=1000)
    names = [f"{number:02}" for number in range(15)]
    for _ in range(3):
        for cache in (first, last):
            for name in names:
                if cache.get(name, len) is None:
                    cache.put(name, BODY)
    assert held(first.folder) == names[:10]
    assert first.counts == {"written": 10, "full": 15, "hits": 20}
    assert last.counts["hits"] == 0
    assert caplog.text.count("what does not fit is decoded in each stage") == 1


def test_a_lower_limit_holds_when_it_is_opened_again(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, limit=1000, keeps_first=True)
    for number in range(10):
        cache.put(f"{number:02}", BODY)
    again = DiskCache(tmp_path, limit=550, keeps_first=True)
    assert len(held(tmp_path)) == 5
    again.put("10", BODY)
    assert len(held(tmp_path)) == 5


def test_no_more_than_half_of_what_the_disk_has_left_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the disk's 500 bytes and the 300 that it holds itself."""
    usage: Callable[[Any], Any] = shutil.disk_usage
    cache = DiskCache(tmp_path, limit=10_000, keeps_first=True)
    for number in range(3):
        cache.put(f"{number:02}", BODY)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=500))
    fuller = DiskCache(tmp_path, limit=10_000, keeps_first=True)
    assert fuller.limit == 400
    for number in range(10):
        fuller.put(f"1{number}", BODY)
    assert len(held(tmp_path)) == 4


def test_what_others_write_on_the_disk_leaves_less_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk of 1,000 bytes: half is 500, and 250 once something else has taken 500 of them."""
    usage: Callable[[Any], Any] = shutil.disk_usage
    others = 0

    def disk_of_1000(path: Path) -> Any:
        return usage(path)._replace(free=1000 - others - 100 * len(held(tmp_path)))

    monkeypatch.setattr(shutil, "disk_usage", disk_of_1000)
    cache = DiskCache(tmp_path, limit=10_000, keeps_first=True)
    assert cache.limit == 500
    cache.put("00", BODY)
    others = 500
    for number in range(1, 10):
        cache.put(f"{number:02}", BODY)
    assert held(tmp_path) == ["00", "01"]


def test_clips_of_other_settings_go_where_this_process_has_not_read_them(tmp_path: Path) -> None:
    """A cache that an earlier command has filled, after a setting was changed: seven entries of the
    old one and three of the new one are there, two of the old one are still read.
    """
    body = bytes(100 - len(entry_head("00-a")))
    before = DiskCache(tmp_path, limit=1000, keeps_first=True)
    for number in range(10):
        name = f"{number:02}-{'a' if number < 7 else 'b'}"
        before.put(name, body)
        os.utime(tmp_path / name[:2] / name, ns=(number, number))
    cache = DiskCache(tmp_path, limit=1000, keeps_first=True)
    for name in ("00-a", "01-a"):
        assert cache.get(name, len) == len(body)
    for number in range(10, 20):
        cache.put(f"{number}-b", body)
    left = ["00-a", "01-a", "07-b", "08-b", "09-b"]
    assert held(tmp_path) == [*left, *(f"{number}-b" for number in range(10, 15))]
    assert cache.counts == {"hits": 2, "written": 5, "evicted": 5, "full": 5}


def test_what_cannot_be_removed_or_vanishes_stops_nothing(tmp_path: Path) -> None:
    """Folders where a file is looked for are what no process may remove; a link to nothing is there
    and cannot be asked, as what another process has just removed.
    """
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "gone").symlink_to("nowhere")
    (tmp_path / "ab" / ".torn").mkdir()
    os.utime(tmp_path / "ab" / ".torn", (0, 0))
    (tmp_path / "ab" / "ab1").mkdir()
    for keeps_first in (False, True):
        full = DiskCache(tmp_path, limit=1, keeps_first=keeps_first)
        assert full.folder == tmp_path and (tmp_path / "ab" / "ab1").is_dir()
        cache = DiskCache(tmp_path, limit=100_000, keeps_first=keeps_first)
        cache.put("ab2", BODY)
        assert cache.get("ab2", len) == len(BODY)


WRITER = """
import sys
from pathlib import Path
from dpo_video.video.cache import DiskCache
cache = DiskCache(Path(sys.argv[1]), limit=40_000, keeps_first=True)
for number in range(200):
    cache.put(f"{sys.argv[2]}{number:03}", bytes(400))
assert cache.counts["full"], cache.counts
"""


def test_processes_that_fill_it_together_keep_the_limit_but_for_a_part_each(
    tmp_path: Path,
) -> None:
    with ThreadPoolExecutor(3) as threads:
        done = list(
            threads.map(
                lambda name: subprocess.run(
                    [sys.executable, "-c", WRITER, str(tmp_path), name],
                    capture_output=True,
                    text=True,
                    check=False,
                ),
                "abc",
            )
        )
    assert [one.returncode for one in done] == [0, 0, 0], [one.stderr for one in done]
    size = sum(path.stat().st_size for path in tmp_path.glob("*/*"))
    assert 40_000 * 0.95 < size <= 40_000 * (1 + 3 / 20)
