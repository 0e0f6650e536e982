"""What a user sees: lines, a progress bar for every stage, a spinner while weights load.

Everything is shown from here, so that no control character of a server's reply, a file name or a
recipe reaches the terminal.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
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


def open_terminal(*, stderr: bool = False, width: int | None = None) -> Console:
    """Return a console whose texts cannot steer the terminal, nor are read as rich's markup.

    Args:
        stderr: print there instead of on stdout.
        width: columns where it is no terminal, so that files look the same everywhere.
    """
    terminal = Console(stderr=stderr, highlight=False, markup=False)
    if width is not None and not terminal.is_terminal:
        terminal = Console(stderr=stderr, highlight=False, markup=False, width=width)
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
def progress(title: str, *, total: int) -> Iterator[Advance]:
    """Show a bar on stderr while the block runs, if there is anything to do; yields what advances
    it.
    """
    wide = Column(min_width=7, no_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(table_column=wide),
        TimeElapsedColumn(table_column=wide),
        TimeRemainingColumn(table_column=wide),
        TextColumn("{task.fields[counts]}"),
    )
    with Progress(*columns, console=CONSOLE, disable=total == 0) as bars:
        task = bars.add_task(escape(printable(title)), total=total, counts="")

        def advance(step: int = 1, *, note: str = "", **counts: int | float | str) -> None:
            words = [f"{name} {value}" for name, value in counts.items()] + [note] * bool(note)
            fields = {"counts": escape(printable("  ".join(words)))} if words else {}
            bars.update(task, advance=step, **fields)  # type: ignore[arg-type]

        yield advance
