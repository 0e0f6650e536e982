"""The lock of a run folder and the choice of where rows go: real second processes, real mounts in
words.
"""

import errno
import multiprocessing
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from processes import python

from dpo_video.core.errors import UserError
from dpo_video.store import RunStore
from dpo_video.store import lock as lock_module
from dpo_video.store.file_system import choose_kind, file_system_type
from dpo_video.store.lock import (
    HALF_MADE_SECONDS,
    SILENT_SECONDS,
    _claim,
    give_up_lock,
    show_life,
    take_lock,
    this_process,
)


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    holder = python(
        """
        import sys
        from pathlib import Path
        from dpo_video.store import RunStore
        with RunStore(Path(sys.argv[1])):
            print("held", flush=True)
            sys.stdin.read()
        """,
        tmp_path,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid}"):
            RunStore(tmp_path)
    finally:
        holder.kill()
        holder.communicate()


MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 / {top}/data rw,relatime shared:1 - nfs4 server:/export rw,vers=4.2
31 30 8:2 / {top}/data/local\\040disk rw - xfs /dev/sdb1 rw
32 22 0:41 / {top}/ann/remote rw - fuse.sshfs ann@host: rw
33 22 0:42 / {top}/twice rw - ext4 /dev/sdc rw
34 22 0:43 / {top}/twice rw - lustre mgs:/fs rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("run", "ext4"),
        ("data/run", "nfs4"),
        ("data/local disk/run", "xfs"),
        ("database", "ext4"),
        ("ann/remote", "fuse.sshfs"),
        ("twice/run", "lustre"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(
    tmp_path: Path, folder: str, kind: str
) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS.format(top=tmp_path))
    assert file_system_type(tmp_path / folder, tmp_path / "mountinfo") == kind
    assert file_system_type(tmp_path / folder, tmp_path / "missing") == ""


def test_this_disk_has_working_locks_and_the_trial_leaves_nothing(tmp_path: Path) -> None:
    assert choose_kind(tmp_path) == ("sqlite", "")
    assert list(tmp_path.iterdir()) == []


def test_an_owner_on_another_machine_holds_the_folder_until_it_is_silent(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("1 another-machine some-boot/1 100")
    with pytest.raises(
        UserError,
        match=r"in use by process 1 on another-machine, which gave a sign of life \d+ s ago",
    ):
        RunStore(tmp_path)
    silent = time.time() - SILENT_SECONDS - 60
    os.utime(lock, (silent, silent))
    with RunStore(tmp_path) as store:
        assert lock.read_text().startswith(f"{os.getpid()} ")
        store.put("row", "a", {})
    assert not lock.exists()


def lock_texts() -> dict[str, bytes]:
    here = this_process()
    dead = here._replace(pid=(1 << 22) + 5, started="77")  # above the largest number of a process
    return {
        "none": b"",
        "killed": " ".join(map(str, dead)).encode() + b" " + b"0" * 32,
        "of an earlier version": " ".join(map(str, dead)).encode(),
        "pid 0": " ".join(map(str, here._replace(pid=0))).encode(),
        "no start": f"{os.getpid()} {here.host} {here.machine} ".encode(),
        "huge pid": f"{'9' * 400} {here.host} {here.machine} 5".encode(),
        "pid above the kernel's": f"{1 << 31} {here.host} {here.machine} 5".encode(),
        "binary": bytes(range(256)) * 50,
        "words": b"please keep out",
    }


@pytest.mark.parametrize("name", lock_texts())
def test_a_lock_that_no_living_process_wrote_is_taken_at_once(tmp_path: Path, name: str) -> None:
    lock = tmp_path / "lock"
    lock.write_bytes(lock_texts()[name])
    old = time.time() - 2 * HALF_MADE_SECONDS
    os.utime(lock, (old, old))
    ours = take_lock(tmp_path)
    assert lock.read_bytes() == ours.text
    show_life(ours)
    give_up_lock(ours)
    assert list(tmp_path.iterdir()) == []


def race(folder: Path, num_racers: int) -> list[bytes]:
    """Let processes take one folder at the same moment; return the texts of those that own it.

    All hold on until all have tried, as killed ones would: none gives the lock up before.
    """
    context = multiprocessing.get_context("fork")
    begin, end, owners = context.Barrier(num_racers), context.Barrier(num_racers), context.Queue()

    def racer() -> None:
        begin.wait()
        try:
            owners.put(take_lock(folder).text)
        except UserError:
            owners.put(b"")
        end.wait()

    racers = [context.Process(target=racer) for _ in range(num_racers)]
    for process in racers:
        process.start()
    texts = [owners.get(timeout=60) for _ in racers]
    for process in racers:
        process.join()
    return [text for text in texts if text]


@pytest.mark.parametrize("name", ["", "killed", "none", "binary", "claim of a killed one"])
def test_of_six_processes_that_race_for_a_folder_one_owns_it(tmp_path: Path, name: str) -> None:
    for turn in range(12):
        folder = tmp_path / str(turn)
        folder.mkdir()
        if name:
            dead = lock_texts()["killed"]
            content = lock_texts().get(name, dead)
            lock = folder / "lock"
            lock.write_bytes(content)
            os.utime(lock, (0, 0))
            if name.startswith("claim"):
                _claim(lock, content).path.write_bytes(dead)
        (owner,) = race(folder, 6)
        assert (folder / "lock").read_bytes() == owner
        assert [path.name for path in folder.iterdir()] == ["lock"]


@pytest.mark.parametrize("gives_up", [False, True])
def test_a_process_that_slept_before_it_took_over_finds_another_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gives_up: bool
) -> None:
    """Both see a killed owner; the other takes over, or takes over, gives up and is followed by a
    third, before the first one goes on.
    """
    (tmp_path / "lock").write_bytes(lock_texts()["killed"])
    owners = []
    look = lock_module._refuse_while_owned

    def slow(path: Path, content: bytes) -> None:
        look(path, content)
        monkeypatch.setattr(lock_module, "_refuse_while_owned", look)
        owners.append(take_lock(tmp_path))
        if gives_up:
            give_up_lock(owners.pop())
            owners.append(take_lock(tmp_path))

    monkeypatch.setattr(lock_module, "_refuse_while_owned", slow)
    with pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        take_lock(tmp_path)
    show_life(owners[0])


def test_who_gives_up_a_lock_that_is_being_taken_over_leaves_it(tmp_path: Path) -> None:
    mine = take_lock(tmp_path)
    claim = _claim(mine.path, mine.text)
    claim.path.write_bytes(claim.text)
    give_up_lock(mine)
    assert mine.path.read_bytes() == mine.text and claim.path.read_bytes() == claim.text


def test_a_full_disk_leaves_no_lock_and_no_part_of_one(tmp_path: Path) -> None:
    writer = python(
        """
        import resource, signal, sys
        from pathlib import Path
        from dpo_video.core.errors import UserError
        from dpo_video.store.lock import take_lock
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        try:
            take_lock(Path(sys.argv[1]))
        except UserError as error:
            sys.exit(str(error))
        """,
        tmp_path,
    )
    _, said = writer.communicate(timeout=60)
    assert "cannot write the lock of the run folder" in said and "Make room there" in said
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_hard_links_has_one_owner_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*names: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for turn in range(6):
        folder = tmp_path / str(turn)
        folder.mkdir()
        if turn % 2:
            (folder / "lock").write_bytes(lock_texts()["killed"])
        (owner,) = race(folder, 6)
        assert (folder / "lock").read_bytes() == owner


@pytest.mark.parametrize("kind", ["folder", "link", "link to nothing"])
def test_a_lock_that_is_no_file_is_named(tmp_path: Path, kind: str) -> None:
    lock = tmp_path / "lock"
    if kind == "folder":
        lock.mkdir()
    else:
        (tmp_path / "other").touch()
        lock.symlink_to(tmp_path / ("other" if kind == "link" else "nothing"))
    with pytest.raises(UserError, match=rf"cannot read the lock '{lock}': it is a (folder|link)"):
        RunStore(tmp_path)


@pytest.mark.parametrize("lives", [True, False])
def test_a_lock_from_the_future_is_watched_for_a_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    """The clock was set back: the owner's next sign of life has the new time."""
    monkeypatch.setattr(lock_module, "WATCH_SECONDS", 1.5)
    lock = tmp_path / "lock"
    lock.write_text("1 another-machine some-boot/1 100")
    future = time.time() + 86_400
    os.utime(lock, (future, future))
    if lives:
        touch = threading.Timer(0.2, os.utime, [lock])
        touch.start()
        with pytest.raises(UserError, match="gave a sign of life 0 s ago"):
            RunStore(tmp_path)
        touch.join()
    else:
        RunStore(tmp_path).__exit__(None, None, None)


def test_a_number_that_another_process_has_by_now_holds_nothing(tmp_path: Path) -> None:
    """A restarted container, or a rebooted machine, gives the same number again, also to the
    process that asks.
    """
    here, lock = this_process(), tmp_path / "lock"
    lock.write_text(" ".join(map(str, here._replace(started="1"))))
    RunStore(tmp_path).__exit__(None, None, None)
    lock.write_text(" ".join(map(str, here._replace(machine="an-earlier-boot/1"))))
    with pytest.raises(UserError, match="gave a sign of life"):
        RunStore(tmp_path)
    sleeper = subprocess.Popen(["sleep", "60"])
    started = Path(f"/proc/{sleeper.pid}/stat").read_text().split()[21]
    lock.write_text(" ".join(map(str, here._replace(pid=sleeper.pid, started=started))))
    with pytest.raises(UserError, match=f"in use by process {sleeper.pid}\\."):
        RunStore(tmp_path)
    sleeper.kill()
    os.waitid(
        os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT
    )  # a zombie: ended, and its parent has not asked
    RunStore(tmp_path).__exit__(None, None, None)
    sleeper.wait()
    RunStore(tmp_path).__exit__(None, None, None)


def test_an_owner_that_slept_while_another_took_over_stops_and_leaves_the_lock_to_it(
    tmp_path: Path,
) -> None:
    store, lock = RunStore(tmp_path), tmp_path / "lock"
    theirs = "1 another-machine some-boot/1 100"
    lock.write_text(theirs)
    with pytest.raises(UserError, match="another process took the run folder"):
        show_life(store._lock)
    store.__exit__(None, None, None)
    assert lock.read_text() == theirs
