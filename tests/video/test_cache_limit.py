"""The limit of the cache of frames and features: what goes above it."""

import os
from pathlib import Path

from dpo_video.video.cache import DiskCache, entry_head


def test_above_the_limit_what_was_not_read_for_longest_goes(tmp_path: Path) -> None:
    """Ten entries fill the limit; the first is read again, so the eleventh costs the second and
    third: a tenth.
    """
    cache = DiskCache(tmp_path, limit=1000)
    body = bytes(100 - len(entry_head("00")))
    for number in range(10):
        cache.put(f"{number:02}", body)
        os.utime(tmp_path / f"{number:02}" / f"{number:02}", ns=(number, number))
    assert cache.counts == {"written": 10}
    assert cache.get("00", len) == len(body)
    cache.put("10", body)
    left = sorted(path.name for path in tmp_path.glob("*/*"))
    assert left == ["00", "03", "04", "05", "06", "07", "08", "09", "10"]
    assert cache.counts == {"written": 11, "hits": 1, "evicted": 2}
    cache.put("11", bytes(1001))
    assert cache.counts["too_large"] == 1 and cache.get("11", len) is None


def test_a_smaller_limit_is_kept_when_the_cache_is_opened(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, limit=10_000)
    for number in range(10):
        cache.put(f"{number:02}", bytes(100 - len(entry_head("00"))))
    DiskCache(tmp_path, limit=500)
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= 450
