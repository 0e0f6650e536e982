"""The table that a run of several rounds ends with: a column a round."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpo_video.core.progress import open_terminal
from dpo_video.core.report import Estimate, estimate_text
from dpo_video.evaluate.report import Metrics, read_metrics
from dpo_video.evaluate.summary import ROWS, WIDTH

MOST_IN_A_LINE = 3
"""Of more rounds each interval stands below its change: there is no room beside it."""


def print_rounds(folders: Sequence[Path], output: Console | None = None) -> None:
    """Print the numbers of the rounds in some run folders side by side, and where they lie."""
    rounds = [read_metrics(folder / "metrics.json") for folder in folders]
    output = output or open_terminal(width=WIDTH)
    output.print(rounds_table(rounds))
    seconds = sum(sum(metrics.seconds.values()) for metrics in rounds)
    names = ", ".join(folder.name for folder in folders)
    output.print(
        Text(f"seconds: {seconds:.0f}; rounds {names} in {folders[-1].parent}"), soft_wrap=True
    )


def rounds_table(rounds: Sequence[Metrics]) -> Table:
    """Return what the policy was before the first round and after each; below each number its
    change over the round before.
    """
    table = Table(
        box=box.SIMPLE,
        title="Held-out clips; changes over the round before, with 95 % intervals",
        title_justify="left",
    )
    table.add_column("", no_wrap=True)
    for heading in ("before", *(f"round {number}" for number in range(1, len(rounds) + 1))):
        table.add_column(heading, justify="right")
    for title, name, share in ROWS:
        hidden = name == "exact_match" and any(metrics.exact_match_hidden for metrics in rounds)
        if hidden or any(getattr(metrics.change, name) is None for metrics in rounds):
            continue
        columns = [rounds[0].before, *(metrics.after for metrics in rounds)]
        table.add_row(title, *(_value(getattr(column, name), share=share) for column in columns))
        changes = [
            estimate_text(getattr(metrics.change, name), share=share, signed=True)
            for metrics in rounds
        ]
        if len(rounds) > MOST_IN_A_LINE:
            changes = [change.replace(" [", "\n[", 1) for change in changes]
        table.add_row("", "", *changes)
    return table


def _value(estimate: Estimate, *, share: bool) -> str:
    """Return an estimate without its interval: those of the changes tell more, and there is no room
    for both.
    """
    return estimate_text(replace(estimate, interval=None, bounds=None), share=share)
