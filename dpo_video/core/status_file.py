"""status.json of a run folder: what the process that works there is at, for `dpo-video status`."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import from_dict, read_object
from dpo_video.core.progress import ProgressState, log, watch_progress
from dpo_video.core.text import printable, shortened

STATUS = "status.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """What a process that works in a run folder is at."""

    pid: int
    host: str
    began: float
    """Seconds since 1970, as `updated`."""
    updated: float
    stage: str = ""
    """The stage that is being done; empty before the first and in other commands."""
    title: str = ""
    """What is counted, e.g. `judge (caption_score)`."""
    done: int = 0
    total: int = 0
    rate: float | None = None
    """Steps a second."""
    seconds_left: float | None = None
    counts: str = ""
    last_error: str | None = None
    """Why the process stopped, where it did before it was done."""
    is_over: bool = False
    """The process has left the run folder."""

    @property
    def is_running(self) -> bool:
        """Whether the process works on, as far as can be seen from here: on another machine it is
        believed.
        """
        if self.is_over:
            return False
        return self.host != socket.gethostname() or _is_alive(self.pid)


def read_status(folder: Path) -> RunStatus | None:
    """Return the status of a run folder; None where no process has written one."""
    path = folder / STATUS
    if not path.is_file():
        return None
    return from_dict(RunStatus, read_object(path), str(path))


class StatusWriter:
    """Writes the status of this process; a disk that does not take it costs the status only."""

    def __init__(self, folder: Path) -> None:
        now = time.time()
        self._path = folder / STATUS
        self._status = RunStatus(pid=os.getpid(), host=socket.gethostname(), began=now, updated=now)
        self._is_begun = self._is_told = False

    def begin_stage(self, name: str) -> None:
        """Note that a stage begins."""
        self._write(
            replace(
                self._status,
                stage=name,
                title="",
                done=0,
                total=0,
                rate=None,
                seconds_left=None,
                counts="",
            )
        )

    def show(self, state: ProgressState) -> None:
        """Note how far it is."""
        self._write(
            replace(
                self._status,
                title=state.title,
                done=state.done,
                total=state.total,
                rate=state.rate,
                seconds_left=state.seconds_left,
                counts=state.counts,
            )
        )

    def end(self, error: BaseException | None) -> None:
        """Note that the process leaves the folder, and why where it did not get to its end; one
        that had nothing to do leaves the file as it is.
        """
        reason = None
        if error is None and not self._is_begun:
            return
        if isinstance(error, KeyboardInterrupt):
            reason = "stopped by the user"
        elif error is not None:
            name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            reason = shortened(printable(f"{name}{error}"))
        self._write(replace(self._status, last_error=reason, is_over=True))

    def _write(self, status: RunStatus) -> None:
        self._is_begun = True
        self._status = replace(status, updated=time.time())
        draft = self._path.with_name(f".{STATUS}.{os.getpid()}")
        try:
            draft.write_text(strict_json.dumps(asdict(self._status)) + "\n", encoding="utf-8")
            draft.replace(self._path)
        except OSError as error:
            if not self._is_told:
                self._is_told = True
                log.info(f"note: {STATUS} cannot be written: {error.strerror}")


@contextmanager
def shown_status(folder: Path) -> Iterator[StatusWriter]:
    """Keep status.json of a run folder while the block runs."""
    writer = StatusWriter(folder)
    try:
        with watch_progress(writer.show):
            yield writer
    except BaseException as error:
        writer.end(error)
        raise
    writer.end(None)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
