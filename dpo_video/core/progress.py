"""One progress bar for every stage, and a spinner while weights load."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

CONSOLE = Console(stderr=True)


class Advance(Protocol):
    """Move the bar on by `step`; keyword counts (failed=2) are shown behind it, and then the
    note.
    """

    def __call__(self, step: int = 1, *, note: str = "", **counts: int | float | str) -> None: ...


def say(line: str) -> None:
    """Print one line on stderr, above a bar that is shown."""
    CONSOLE.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Show one spinner while a model loads, instead of a bar per file from transformers."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with CONSOLE.status(f"loading {name}"):
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
        task = bars.add_task(title, total=total, counts="")

        def advance(step: int = 1, *, note: str = "", **counts: int | float | str) -> None:
            words = [f"{name} {value}" for name, value in counts.items()] + [note] * bool(note)
            shown = {"counts": "  ".join(words)} if words else {}
            bars.update(task, advance=step, **shown)  # type: ignore[arg-type]

        yield advance
