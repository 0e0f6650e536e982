"""One progress bar for every stage, and a spinner while weights load."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Advance(Protocol):
    """Move the bar on by `step`; keyword counts (failed=2) are shown behind it."""

    def __call__(self, step: int = 1, **counts: int | float | str) -> None: ...


def note(text: str) -> None:
    """Say something on stderr that the user should know and need not act on."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(f"note: {text}")


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Show one spinner while a model loads, instead of a bar per file from transformers."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with Console(stderr=True).status(f"loading {name}"):
            yield
    finally:
        if bars:
            logging.enable_progress_bar()


@contextmanager
def progress(title: str, *, total: int) -> Iterator[Advance]:
    """Show a bar on stderr while the block runs; yields the function that advances it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn(), TextColumn("{task.fields[counts]}"))
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(title, total=total, counts="")

        def advance(step: int = 1, **counts: int | float | str) -> None:
            shown = {"counts": "  ".join(f"{name} {value}" for name, value in counts.items())} if counts else {}
            bars.update(task, advance=step, **shown)  # type: ignore[arg-type]

        yield advance
