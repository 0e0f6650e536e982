"""Bodies of rows, as this version and an earlier one wrote them."""

import sqlite3
from contextlib import closing
from pathlib import Path

from dpo_video.store import RunStore


def test_nan_that_an_earlier_version_stored_is_none_and_no_damage(tmp_path: Path) -> None:
    """Trainings that had diverged were finished then, with NaN among their counts."""
    with RunStore(tmp_path, kind="sqlite") as store:
        store.put("row", "a", {"loss": 0.5})
        store.finish("train", fingerprint="f", seconds=1.0, summary={"loss": 0.5})
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as database, database:
        database.execute("""update rows set body = '{"loss": NaN}'""")
        database.execute("""update stages set summary = '{"loss": NaN}'""")
    for kind in ("sqlite", "segments"):
        with RunStore(tmp_path, kind=kind) as store:
            assert store.get("row", ["a"]) == {"a": {"loss": None}}
            assert store.finished("train") == {
                "fingerprint": "f",
                "seconds": 1.0,
                "summary": {"loss": None},
            }
