"""What a user sees: lines, a progress bar for every stage, a spinner while weights load.

Everything is shown from here, so that no control character of a server's reply, a file name or a
recipe reaches the terminal.
"""

import io
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Protocol, Self, TextIO, cast

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.file_proxy import FileProxy
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Column

from dpo_video.core.text import printable

PLAIN_SECONDS = 30.0
"""How often a line tells how far a stage is where there is no terminal."""
TICK_SECONDS = 1.0
"""How often watchers are told."""


class _Printable:
    """Something to print, its control characters spelt out; colours are no characters to rich."""

    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._renderable, options):
            yield (segment if segment.control else Segment(printable(segment.text), segment.style))


class _PrintableHook(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Printable(renderable) for renderable in renderables]


class _Stderr(io.TextIOBase):
    """stderr as it is at the time; what cannot be shown there, such as on a full disk or to a
    reader that is gone, is lost, and the work goes on.
    """

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream().encoding

    def isatty(self) -> bool:
        return self._stream().isatty()

    def fileno(self) -> int:
        return self._stream().fileno()

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream().flush()

    def close(self) -> None:
        """Do nothing: stderr is not its own, and where Python 3.13 ends its names are gone."""

    @staticmethod
    def _stream() -> TextIO:
        stream = sys.stderr
        return stream.rich_proxied_file if isinstance(stream, FileProxy) else stream  # type: ignore[return-value]


def open_terminal(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console whose texts cannot steer the terminal, nor are read as rich's markup.

    Args:
        stderr: print there instead of on stdout.
        width: columns where it is no terminal, so that files look the same everywhere.
    """
    file = cast(IO[str], _Stderr()) if stderr else None
    terminal = Console(file=file, highlight=False, markup=False)
    if width is not None and not terminal.is_terminal:
        terminal = Console(file=file, highlight=False, markup=False, width=width)
    terminal.push_render_hook(_PrintableHook())
    return terminal


CONSOLE = open_terminal(stderr=True)


def print_line(text: str, *, end: str = "\n") -> None:
    """Print a result on stdout."""
    print(printable(text), end=end)  # noqa: T201 - the one place


def print_error(text: str) -> None:
    """Print an error on stderr, above a bar that is shown."""
    CONSOLE.print(printable(text), soft_wrap=True)


class _Lines(logging.Handler):
    """Prints each record as one line on stderr, above a bar that is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        CONSOLE.print(printable(self.format(record)), soft_wrap=True)


log = logging.getLogger("dpo_video")
"""Where all notes go."""
log.setLevel(logging.INFO)
log.addHandler(_Lines())


class Advance(Protocol):
    """Move the bar on by `step`; keyword counts (failed=2) are shown behind it, and then the
    note.
    """

    def __call__(self, step: int = 1, *, note: str = "", **counts: int | float | str) -> None: ...


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Show one spinner while a model loads, instead of a bar per file from transformers."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with CONSOLE.status(escape(printable(f"loading {name}"))):
            yield
    finally:
        if bars:
            logging.enable_progress_bar()


@contextmanager
def progress(title: str, *, total: int, done: int = 0) -> Iterator[Advance]:
    """Show how far the block is, if there is anything to do; yields what advances it.

    A terminal gets a bar on stderr; what is none gets a line every 30 s and one at the end. Those
    that `watch_progress` gets the state from are told about once a second.

    Args:
        total: how many steps there are.
        done: how many of them were done before.
    """
    ticker = _Ticker(title, total=total, done=done)
    with _bar(title, total=total, done=done) as bar, ticker:

        def advance(step: int = 1, *, note: str = "", **counts: int | float | str) -> None:
            words = [f"{name} {value}" for name, value in counts.items()] + [note] * bool(note)
            ticker.advance(step, "  ".join(words))
            bar(step, "  ".join(words))

        yield advance


@contextmanager
def _bar(title: str, *, total: int, done: int) -> Iterator[Callable[[int, str], None]]:
    """Show a bar where stderr is a terminal; yields what moves it on and shows counts behind it."""
    wide = Column(min_width=7, no_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(table_column=wide),
        TimeElapsedColumn(table_column=wide),
        TimeRemainingColumn(table_column=wide),
        TextColumn("{task.fields[counts]}"),
    )
    is_shown = total > 0 and CONSOLE.is_terminal
    with Progress(*columns, console=CONSOLE, disable=not is_shown) as bars:
        task = bars.add_task(escape(printable(title)), total=total, completed=done, counts="")

        def move(step: int, words: str) -> None:
            fields = {"counts": escape(printable(words))} if words else {}
            bars.update(task, advance=step, **fields)  # type: ignore[arg-type]

        yield move


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressState:
    """How far a block of `progress` is."""

    title: str
    done: int
    total: int
    rate: float | None
    """Steps a second since the block began; None before its first step."""
    seconds: float
    """Since the block began."""
    counts: str
    """What else is shown behind the bar."""
    is_over: bool = False

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the rest takes at this rate."""
        return (self.total - self.done) / self.rate if self.rate else None


def progress_text(state: ProgressState) -> str:
    """Return a state as a line: `generate: 120 of 480, 4.1/s, 1 min 28 s left; bad clips 1`."""
    text = f"{state.title}: {state.done} of {state.total}"
    if state.rate:
        text += f", {rate_text(state.rate)}"
    if state.is_over:
        text += f", done in {duration_text(state.seconds)}"
    elif state.seconds_left is not None:
        text += f", {duration_text(state.seconds_left)} left"
    return f"{text}; {state.counts.replace('_', ' ')}" if state.counts else text


def rate_text(rate: float) -> str:
    """Return steps a second as `4.1/s`, or `3.2 s each` where they are slow."""
    return f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"


def duration_text(seconds: float) -> str:
    """Return a duration as `12 s`, `3 min 5 s` or `2 h 14 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


Watcher = Callable[[ProgressState], None]
_WATCHERS: list[Watcher] = []


@contextmanager
def watch_progress(watcher: Watcher) -> Iterator[None]:
    """Tell `watcher` about every progress of the block, at most once a second and at its end; it is
    called from another thread.
    """
    _WATCHERS.append(watcher)
    try:
        yield
    finally:
        _WATCHERS.remove(watcher)


class _Ticker:
    """Tells watchers of a block's state each second, and prints it where no bar can be shown."""

    def __init__(self, title: str, *, total: int, done: int) -> None:
        self._title, self._total = title, total
        self._done = self._before = done
        self._counts = ""
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self._total:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        if not self._total:
            return
        self._thread.join()
        state = self._state(is_over=kind is None)
        self._tell(state)
        if kind is None and not CONSOLE.is_terminal:
            print_error(progress_text(state))

    def advance(self, step: int, counts: str) -> None:
        """Count steps; the caller's thread does nothing else."""
        self._done += step
        self._counts = counts or self._counts

    def _tick(self) -> None:
        next_line = PLAIN_SECONDS
        while not self._over.wait(TICK_SECONDS):
            state = self._state()
            self._tell(state)
            if state.seconds >= next_line and not CONSOLE.is_terminal:
                next_line = state.seconds + PLAIN_SECONDS
                print_error(progress_text(state))

    def _state(self, *, is_over: bool = False) -> ProgressState:
        seconds = time.monotonic() - self._began
        steps = self._done - self._before
        return ProgressState(
            title=self._title,
            done=self._done,
            total=self._total,
            rate=steps / seconds if steps and seconds else None,
            seconds=seconds,
            counts=self._counts,
            is_over=is_over,
        )

    @staticmethod
    def _tell(state: ProgressState) -> None:
        for watcher in tuple(_WATCHERS):
            watcher(state)
