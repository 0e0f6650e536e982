"""The run store, in SQLite and in segments: real files, real kill -9, a real file-size limit, real
second processes.
"""

import hashlib
import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from processes import python

from dpo_video.core.errors import UserError
from dpo_video.store import RunStore, row_key
from dpo_video.store.database import Database
from dpo_video.store.writer import UNCOMMITTED_ROWS, Row, Writer

both_kinds = pytest.mark.parametrize("kind", ["sqlite", "segments"])


def test_the_same_parts_give_the_same_key_in_any_order() -> None:
    assert row_key(a=1, b={"x": 1, "y": 2}) == row_key(b={"y": 2, "x": 1}, a=1)
    assert row_key(a=1) != row_key(a=2)
    assert row_key(a="1") != row_key(a=1)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"b": [], "a": {}},
        {"z": [{"y": 1, "x": None}, '\xe9\ud800"', 1.5], "a": True, "\xe9": "b"},
    ],
)
def test_a_key_is_the_hash_of_canonical_json_and_lists_may_come_in_pieces(parts) -> None:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    assert row_key(**parts) == hashlib.sha256(text.encode()).hexdigest()
    assert row_key(
        **{name: iter(value) if isinstance(value, list) else value for name, value in parts.items()}
    ) == row_key(**parts)


@both_kinds
def test_rows_outlive_the_process(tmp_path: Path, kind) -> None:
    with RunStore(tmp_path, kind=kind) as store:
        for number in range(1200):
            store.put("candidate", f"k{number}", {"n": number})
        store.put("judgment", "k1", {"n": -1})
        assert store.get("candidate", ["k3", "k1199", "k9999"]) == {
            "k3": {"n": 3},
            "k1199": {"n": 1199},
        }
        assert store.known("candidate", ["k3", "k1199", "k9999"]) == {"k3", "k1199"}
        store.finish("generate", fingerprint="f", seconds=1.5, summary={"out": 1200})
    with RunStore(tmp_path, kind=kind) as store:
        assert store.get("candidate", [f"k{n}" for n in range(1300)]) == {
            f"k{n}": {"n": n} for n in range(1200)
        }
        assert store.get("judgment", ["k1"]) == {"k1": {"n": -1}}
        assert store.finished("generate") == {
            "fingerprint": "f",
            "seconds": 1.5,
            "summary": {"out": 1200},
        }
        assert store.finished("judge") is None
        assert dict(store.rows("candidate")) == {f"k{n}": {"n": n} for n in range(1200)}
        assert [key for key, _ in store.rows("candidate")] == sorted(f"k{n}" for n in range(1200))


@both_kinds
def test_a_killed_writer_loses_at_most_one_commit_and_its_lock_is_taken_over(
    tmp_path: Path, kind
) -> None:
    writer = python(
        """
        import sys
        from pathlib import Path
        from dpo_video.store import RunStore
        with RunStore(Path(sys.argv[1]), kind=sys.argv[2]) as store:
            for number in range(10**9):
                store.put("row", str(number), {"n": number})
                if number % 1000 == 999:
                    print(number, flush=True)
        """,
        tmp_path,
        kind,
    )
    assert writer.stdout is not None
    reached = [int(writer.stdout.readline()) for _ in range(3)][-1]
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    with RunStore(tmp_path, kind=kind) as store:
        stored = store.get("row", map(str, range(reached + 1)))
        assert len(stored) >= reached + 1 - 100
        assert all(stored[key] == {"n": int(key)} for key in stored)


@both_kinds
def test_half_a_surrogate_pair_is_stored_like_any_text(tmp_path: Path, kind) -> None:
    row = {"text": "\ud83d \U0001f415"}
    with RunStore(tmp_path, kind=kind) as store:
        store.put("judgment", "k", row)
    with RunStore(tmp_path, kind=kind) as store:
        assert store.get("judgment", ["k"]) == {"k": row}


def test_a_commit_that_fails_for_any_reason_leaves_the_database_in_order(tmp_path: Path) -> None:
    database = Database(tmp_path / "rows.sqlite")
    with pytest.raises(UnicodeEncodeError):
        database.commit([Row("k", "good", "{}"), Row("k", "bad", "\ud83d")])
    database.commit([Row("k", "next", "{}")])
    assert dict(database.rows("k")) == {"next": "{}"}
    database.close()


@both_kinds
def test_a_full_disk_is_one_line_and_keeps_what_was_stored(tmp_path: Path, kind) -> None:
    with RunStore(tmp_path, kind=kind) as store:
        store.put("row", "kept", {"n": 1})
    writer = python(
        """
        import resource, signal, sys
        from pathlib import Path
        from dpo_video.core.errors import UserError
        from dpo_video.store import RunStore
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        try:
            with RunStore(Path(sys.argv[1]), kind=sys.argv[2]) as store:
                for number in range(100_000):
                    store.put("row", str(number), {"text": "x" * 100})
        except UserError as error:
            print(error)
        """,
        tmp_path,
        kind,
    )
    out, errors = writer.communicate(timeout=60)
    assert "cannot write to" in out and "What was stored before is safe" in out, errors
    with RunStore(tmp_path, kind=kind) as store:
        assert store.get("row", ["kept"]) == {"kept": {"n": 1}}
        stored = dict(store.rows("row"))
        assert 100 < len(stored) < 100_000
        assert all(row == {"text": "x" * 100} for key, row in stored.items() if key != "kept")


@both_kinds
def test_nobody_else_can_read_a_run_folder_that_the_umask_closes(tmp_path: Path, kind) -> None:
    before = os.umask(0o077)
    try:
        with RunStore(tmp_path / "run", kind=kind) as store:
            store.put("row", "a", {})
            store.flush()
            modes = [path.stat().st_mode & 0o077 for path in (tmp_path / "run").rglob("*")]
    finally:
        os.umask(before)
    assert len(modes) >= 3 and not any(modes)


def test_a_damaged_store_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    """Whatever block of its file is overwritten: all rows are read right, or the user is told."""
    whole = tmp_path / "whole"
    with RunStore(whole, kind="sqlite") as store:
        for number in range(2000):
            store.put("row", f"{number:04}", {"n": number, "text": "x" * 50})
        store.finish("judge", fingerprint="f", seconds=1.0, summary={"judged": 1})
    content = (whole / "store.sqlite").read_bytes()
    told = 0
    for block in range(0, len(content), 4096):
        folder = tmp_path / f"damaged{block}"
        folder.mkdir()
        damaged = content[:block] + b"\xa7" * 4096 + content[block + 4096 :]
        (folder / "store.sqlite").write_bytes(damaged)
        try:
            with RunStore(folder, kind="sqlite") as store:
                store.finished("judge")
                rows = dict(store.rows("row"))
                assert all(row["n"] == int(key) for key, row in rows.items())
        except UserError as error:
            assert "is damaged" in str(error) and "Or move it away" in str(error)
            assert "\n" not in str(error)
            told += 1
    assert told > 0.9 * len(content) / 4096


def test_a_row_that_is_no_json_any_more_is_named(tmp_path: Path) -> None:
    with RunStore(tmp_path, kind="sqlite") as store:
        store.put("row", "k", {"n": 1})
        store.flush()
        store._rows._db.execute("update rows set body = '{\"n\": '")  # type: ignore[union-attr]
        with pytest.raises(UserError, match="row of kind 'row' under the key 'k' is no JSON"):
            store.get("row", ["k"])


@both_kinds
def test_a_number_that_json_lacks_is_not_stored(tmp_path: Path, kind) -> None:
    with RunStore(tmp_path, kind=kind) as store:
        with pytest.raises(UserError, match="'reference' holds a number that is infinite or none"):
            store.put("reference", "k", {"logps": [float("nan")]})
        store.flush()
        assert store.get("reference", ["k"]) == {}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the run folder"):
        RunStore(tmp_path / "file" / "run")


@both_kinds
def test_a_row_is_committed_although_no_other_comes(tmp_path: Path, kind) -> None:
    """The writer puts one row and sleeps until it is killed; the row shows up in its files before
    that.
    """
    writer = python(
        """
        import sys
        from pathlib import Path
        from dpo_video.store import RunStore
        with RunStore(Path(sys.argv[1]), kind=sys.argv[2]) as store:
            store.put("row", "alone", {"n": 1})
            print("put", flush=True)
            sys.stdin.read()
        """,
        tmp_path,
        kind,
    )
    try:
        assert writer.stdout is not None and writer.stdout.readline() == "put\n"
        committed = in_database if kind == "sqlite" else in_segments
        for _ in range(1200):
            if committed(tmp_path):
                break
            time.sleep(0.1)
    finally:
        writer.kill()
        writer.communicate()
    with RunStore(tmp_path, kind=kind) as store:
        assert dict(store.rows("row")) == {"alone": {"n": 1}}


def in_database(folder: Path) -> bool:
    db = sqlite3.connect(f"file:{folder / 'store.sqlite'}?mode=ro", uri=True)
    try:
        return bool(db.execute("select count(*) from rows").fetchone()[0])
    finally:
        db.close()


def in_segments(folder: Path) -> bool:
    return any(path.stat().st_size for path in (folder / "segments").iterdir())


def test_putting_waits_neither_for_the_disk_nor_for_more_than_one_commit() -> None:
    """Making rows durable hangs until the end; then a commit hangs, and `put` waits once 100 rows
    are uncommitted.
    """
    committed: list[Row] = []
    disk, commit, asleep = threading.Event(), threading.Event(), threading.Event()
    commit.set()

    def write(rows: Sequence[Row]) -> None:
        commit.wait(timeout=240)
        committed.extend(rows)

    def sync() -> None:
        asleep.set()
        disk.wait(timeout=240)

    writer = Writer(write, sync)
    for number in range(5000):
        writer.put(Row("row", f"{number:05d}", "{}"))
    writer.flush()
    assert asleep.wait(timeout=240) and [row.key for row in committed] == [
        f"{n:05d}" for n in range(5000)
    ]
    commit.clear()
    for number in range(UNCOMMITTED_ROWS):
        writer.put(Row("row", f"more {number}", "{}"))
    last = threading.Thread(target=writer.put, args=[Row("row", "last", "{}")])
    last.start()
    assert len(committed) == 5000 and len(writer.waiting("row", ["last", "more 0"])) == 1
    commit.set()
    last.join(timeout=240)
    writer.flush()
    assert len(committed) == 5000 + UNCOMMITTED_ROWS + 1 and not writer.waiting("row", ["last"])
    disk.set()
    writer.close()


def test_an_error_of_the_writer_is_raised_once_and_its_rows_are_tried_again() -> None:
    committed: list[Row] = []
    full = [True]

    def write(rows: Sequence[Row]) -> None:
        if full[0]:
            raise UserError("the disk is full")
        committed.extend(rows)

    writer = Writer(write, lambda: None)
    writer.put(Row("row", "a", "1"))
    with pytest.raises(UserError, match="the disk is full"):
        writer.flush()
    assert writer.waiting("row", ["a"]) == {"a": "1"}
    full[0] = False
    writer.put(Row("row", "a", "2"))
    writer.flush()
    assert committed == [Row("row", "a", "2")]
    writer.close()


@both_kinds
def test_many_threads_may_write_and_read_at_once(tmp_path: Path, kind) -> None:
    wrong = []

    def work(store: RunStore, name: int) -> None:
        for number in range(300):
            store.put("row", f"{name}-{number}", {"n": number})
            if store.get("row", [f"{name}-{number}", f"{name}-{number // 2}"]) != {
                f"{name}-{n}": {"n": n} for n in (number, number // 2)
            }:
                wrong.append((name, number))

    with RunStore(tmp_path, kind=kind) as store:
        threads = [threading.Thread(target=work, args=(store, name)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == [] and len(dict(store.rows("row"))) == 1200


def test_a_torn_line_and_a_changed_one_are_left_out_counted_and_the_newest_row_wins(
    tmp_path: Path, capsys
) -> None:
    with RunStore(tmp_path, kind="segments") as store:
        for number in range(5):
            store.put("row", str(number), {"n": number, "text": "é\n"})
    assert "gets no SQLite store" in capsys.readouterr().err
    with RunStore(tmp_path, kind="segments") as store:
        store.put("row", "1", {"n": "new"})
        store.flush()
        store.put("row", "2", {"n": "newer"})
        store.put("row", "2", {"n": "newest"})
    assert capsys.readouterr().err == "", "said once"
    first, second = sorted((tmp_path / "segments").iterdir())
    lines = first.read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    first.write_bytes(b"".join([*lines[:3], lines[3].replace(b'"n": 3', b'"n": 7'), lines[4][:-9]]))
    with RunStore(tmp_path, kind="segments") as store:
        assert dict(store.rows("row")) == {
            "0": {"n": 0, "text": "é\n"},
            "1": {"n": "new"},
            "2": {"n": "newest"},
        }
    assert "2 torn line(s)" in capsys.readouterr().err
    assert sorted((tmp_path / "segments").iterdir()) == [first, second], (
        "a process that wrote nothing leaves no file"
    )


def test_a_run_moves_from_a_local_disk_to_a_network_one_and_back(tmp_path: Path) -> None:
    with RunStore(tmp_path, kind="sqlite") as store:
        store.put("row", "a", {"n": 1})
        store.put("row", "b", {"n": 1})
        store.finish("generate", fingerprint="f", seconds=1.0, summary={})
    with RunStore(tmp_path, kind="segments") as store:
        assert store.finished("generate") == {"fingerprint": "f", "seconds": 1.0, "summary": {}}
        store.put("row", "b", {"n": 2})
        store.put("row", "c", {"n": 2})
        store.finish("judge", fingerprint="g", seconds=2.0, summary={"x": 1})
    with RunStore(tmp_path) as store:
        assert dict(store.rows("row")) == {"a": {"n": 1}, "b": {"n": 2}, "c": {"n": 2}}
        assert store.finished("judge") == {"fingerprint": "g", "seconds": 2.0, "summary": {"x": 1}}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store.sqlite"]


def test_a_long_log_of_sqlite_is_emptied_when_rows_are_made_durable(tmp_path: Path) -> None:
    database, log = Database(tmp_path / "store.sqlite"), tmp_path / "store.sqlite-wal"
    database.commit([Row("row", "first", "x")])
    database.make_durable()
    assert log.stat().st_size > 0, "a short one is written over from its start"
    for number in range(100):
        database.commit([Row("row", row_key(n=number, m=m), "x" * 8000) for m in range(100)])
    assert log.stat().st_size > 64 * 2**20
    database.make_durable()
    assert log.stat().st_size == 0
    assert len(list(database.rows("row"))) == 10_001
    database.close()
