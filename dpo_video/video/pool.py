"""Decode clips in worker processes, in order, each within a time limit; a hang or a second crash
costs one clip.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, Self, TypeVar

from dpo_video.core.errors import UserError
from dpo_video.recipe import VideoSettings
from dpo_video.video.frames import ClipRequest, Frames, SizeRule, SoundFormat, VideoError
from dpo_video.video.jobs import Job, SizeQuestion, SmallClip, SmallClipJob, SmallClipSettings

T = TypeVar("T")
START_SECONDS = 120.0
"""A process that takes longer to start is given up; it imports NumPy, PyAV and pydantic, about half
a second.
"""


class FramePool:
    """Worker processes that read clips: `with FramePool(settings) as pool: ... pool.map(requests)`.

    Memory: `look_ahead` clips of pixels wait here, besides the one in use.
    """

    def __init__(
        self,
        settings: VideoSettings,
        *,
        multiple_of: int = 1,
        look_ahead: int | None = None,
        size_rule: SizeRule | None = None,
        sound: SoundFormat | None = None,
    ) -> None:
        """Make a pool of `settings.workers` processes, started when first needed.

        Args:
            settings: the recipe's `video` section.
            multiple_of: see `read_frames`.
            look_ahead: clips decoded or being decoded before they are asked for; None is two per
                worker.
            size_rule: see `read_frames`; asked in threads of the pool.
            sound: see `read_frames`.
        """
        self.settings = settings
        self.multiple_of = multiple_of
        self.sound = sound
        self._size_rule = size_rule
        self.look_ahead = look_ahead or 2 * settings.workers
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._workers = [_Worker(settings.timeout) for _ in range(settings.workers)]
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(settings.workers, thread_name_prefix="frame-pool")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers at once, whatever they do."""
        for worker in self._workers:
            worker.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def map(
        self, requests: Iterable[ClipRequest]
    ) -> Iterator[tuple[ClipRequest, Frames | VideoError]]:
        """Yield each request with its frames or the reason why there are none, in the order of the
        requests.

        Equal requests that follow each other are decoded once and share their frames: sort them by
        clip.
        """
        return self.each(requests, self.read)

    def each(
        self, requests: Iterable[ClipRequest], work: Callable[[ClipRequest], T]
    ) -> Iterator[tuple[ClipRequest, T]]:
        """Yield each request with what `work` returns for it, as `map` does; `work` runs in the
        pool's threads.
        """
        source = iter(requests)
        waiting: deque[tuple[ClipRequest, Future[T]]] = deque()
        newest: tuple[ClipRequest, Future[T]] | None = None
        try:
            while True:
                for request in islice(source, self.look_ahead - len(waiting)):
                    if newest is None or newest[0] != request:
                        newest = request, self._threads.submit(work, request)
                    waiting.append(newest)
                if not waiting:
                    return
                request, future = waiting.popleft()
                yield request, future.result()
        finally:
            for _, future in waiting:
                future.cancel()

    def read(self, request: ClipRequest) -> Frames | VideoError:
        """Return one clip's frames, or the reason why there are none; waits until a process is
        free. A clip whose process died is tried a second time, in a fresh one.
        """
        assert request.corruption is None, "decoding gives the clip as it is"
        job = Job(
            request=request,
            settings=self.settings,
            multiple_of=self.multiple_of,
            sound=self.sound,
            asks_size=self._size_rule is not None,
        )
        reply: Frames | UserError = self._ask(job)
        if isinstance(reply, Frames | VideoError):
            return reply
        raise reply

    def make_small(
        self, request: ClipRequest, stem: Path, settings: SmallClipSettings
    ) -> SmallClip | VideoError:
        """Write a clip small for a page, as `write_small_clip` does; or the reason why not."""
        reply: SmallClip | UserError = self._ask(
            SmallClipJob(request=request, stem=stem, settings=settings)
        )
        if isinstance(reply, SmallClip | VideoError):
            return reply
        raise reply

    def _ask(self, job: Job | SmallClipJob) -> Any:
        """Return a free process's reply; a job that a process dies over is tried a second time."""
        worker = self._idle.get()
        try:
            reply = worker.ask(job, self._size_rule)
            if isinstance(reply, VideoError) and reply.code == "crashed":
                reply = worker.ask(job, self._size_rule)
        finally:
            self._idle.put(worker)
        return reply


class _Worker:
    """One decoding process at a time; a new one takes the place of one that was stopped or died."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()

    def ask(self, job: Job | SmallClipJob, size_rule: SizeRule | None) -> Any:
        """Return the process's answer; VideoError `timeout` when it took too long, `crashed` when
        it died over it.
        """
        process = self._running()
        request = job.request
        path = request.video if isinstance(request.video, Path) else request.key
        with _Limit(process, self._timeout) as limit:
            try:
                return _exchange(process, job, size_rule)
            except BROKEN:
                code = _stop(process)
        if limit.reached:
            return VideoError(
                "timeout", path, f"not read within {self._timeout:g} seconds (video.timeout)"
            )
        return VideoError("crashed", path, f"its decoding process died ({_cause(code)})")

    def close(self) -> None:
        """End the process, and start no other."""
        with self._lock:
            self._closed = True
            process = self._process
        if process is not None:
            _stop(process)

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        try:
            return self._started()
        except _NotStarted as error:
            if not error.was_killed:
                raise
        return self._started()

    def _started(self) -> "subprocess.Popen[bytes]":
        """Return a new process that is ready for its first job."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the FramePool is closed")
            self._process = process = _start()
        with _Limit(process, START_SECONDS) as limit:
            try:
                pickle.load(_pipe(process.stdout))
            except BROKEN as error:
                code = _stop(process)
                raise _NotStarted(process, code, killed=code < 0 and not limit.reached) from error
        return process


class _NotStarted(UserError):
    """A decoding process ended before it was ready; `was_killed`: by a signal of somebody else."""

    def __init__(self, process: "subprocess.Popen[bytes]", code: int, *, killed: bool) -> None:
        command = " ".join(map(str, process.args))  # type: ignore[arg-type]
        super().__init__(f"a decoding process does not start ({_cause(code)}): {command}")
        self.was_killed = killed


class _Limit:
    """Kills a process when the block lasts longer than `seconds`; `reached` tells that it did."""

    def __init__(self, process: "subprocess.Popen[bytes]", seconds: float) -> None:
        self.reached = False
        self._process = process
        self._timer = threading.Timer(seconds, self._kill)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()
        self._timer.join()
        if (
            self.reached
        ):  # perhaps just after the answer: the dying process must not get the next clip
            _stop(self._process)

    def _kill(self) -> None:
        self.reached = True
        self._process.kill()


def _start() -> "subprocess.Popen[bytes]":
    # not a multiprocessing child: spawn runs the caller's script again, fork copies its threads'
    # locks
    command = [sys.executable, "-c", "from dpo_video.video.worker import main; main()"]
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    # a session of its own: Ctrl-C reaches this process only, which then stops its workers
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def _exchange(
    process: "subprocess.Popen[bytes]", job: Job | SmallClipJob, size_rule: SizeRule | None
) -> Any:
    """Return what a process makes of a job, its questions about sizes answered by the rule."""
    jobs, replies = _pipe(process.stdin), _pipe(process.stdout)
    pickle.dump(job, jobs)
    jobs.flush()
    while isinstance(reply := pickle.load(replies), SizeQuestion):
        assert size_rule is not None, "asked by no job without one"
        size = size_rule(reply.num_frames, reply.height, reply.width, reply.sound_samples)
        pickle.dump(size, jobs)
        jobs.flush()
    return reply


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _stop(process: "subprocess.Popen[bytes]") -> int:
    """Kill a process if it runs, and return its exit code."""
    process.kill()
    return process.wait()


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}; its own message is above"
    name = signal.Signals(-code).name
    return f"{name}: out of memory?" if name == "SIGKILL" else name


BROKEN = (OSError, EOFError, ValueError, pickle.UnpicklingError)
"""What an exchange with a dying process raises; ValueError: its pipe is closed."""
