"""The lock of a run folder and the choice of where rows go: real second processes, real mounts in
words.
"""

import os
import subprocess
import time
from pathlib import Path

import pytest
from processes import python

from dpo_video.core.errors import UserError
from dpo_video.store import RunStore
from dpo_video.store.file_system import choose_kind, file_system_type
from dpo_video.store.lock import SILENT_SECONDS, show_life, this_process


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
        show_life(lock)
    store.__exit__(None, None, None)
    assert lock.read_text() == theirs
