"""The run store: real SQLite, real kill -9, a real file-size limit, a real second process."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dpo_video.errors import UserError
from dpo_video.store import RunStore, row_key


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_same_parts_give_the_same_key_in_any_order() -> None:
    assert row_key(a=1, b={"x": 1, "y": 2}) == row_key(b={"y": 2, "x": 1}, a=1)
    assert row_key(a=1) != row_key(a=2)
    assert row_key(a="1") != row_key(a=1)


def test_rows_outlive_the_process(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        for number in range(1200):
            store.put("candidate", f"k{number}", {"n": number})
        store.put("judgment", "k1", {"n": -1})
        store.finish("generate", fingerprint="f", seconds=1.5, summary={"out": 1200})
    with RunStore(tmp_path) as store:
        assert store.get("candidate", [f"k{n}" for n in range(1300)]) == {f"k{n}": {"n": n} for n in range(1200)}
        assert store.get("judgment", ["k1"]) == {"k1": {"n": -1}}
        assert store.finished("generate") == {"fingerprint": "f", "seconds": 1.5, "summary": {"out": 1200}}
        assert store.finished("judge") is None


def test_a_killed_writer_loses_at_most_one_commit_and_its_lock_is_taken_over(tmp_path: Path) -> None:
    writer = python("""
        import sys
        from pathlib import Path
        from dpo_video.store import RunStore
        with RunStore(Path(sys.argv[1])) as store:
            for number in range(10**9):
                store.put("row", str(number), {"n": number})
                if number % 1000 == 999:
                    print(number, flush=True)
        """, tmp_path)
    assert writer.stdout is not None
    reached = [int(writer.stdout.readline()) for _ in range(3)][-1]
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    with RunStore(tmp_path) as store:
        stored = store.get("row", map(str, range(reached + 1)))
        assert len(stored) >= reached + 1 - 100
        assert all(stored[key] == {"n": int(key)} for key in stored)


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    holder = python("""
        import sys
        from pathlib import Path
        from dpo_video.store import RunStore
        with RunStore(Path(sys.argv[1])):
            print("held", flush=True)
            sys.stdin.read()
        """, tmp_path)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid}"):
            RunStore(tmp_path)
    finally:
        holder.kill()
        holder.communicate()


def test_a_full_disk_is_one_line_and_keeps_what_was_stored(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.put("row", "kept", {"n": 1})
    writer = python("""
        import resource, signal, sys
        from pathlib import Path
        from dpo_video.errors import UserError
        from dpo_video.store import RunStore
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        try:
            with RunStore(Path(sys.argv[1])) as store:
                for number in range(100_000):
                    store.put("row", str(number), {"text": "x" * 100})
        except UserError as error:
            print(error)
        """, tmp_path)
    out, errors = writer.communicate(timeout=60)
    assert "cannot write to" in out and "What was stored before is safe" in out, errors
    with RunStore(tmp_path) as store:
        assert store.get("row", ["kept"]) == {"kept": {"n": 1}}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the run folder"):
        RunStore(tmp_path / "file" / "run")
