"""Commands that look at run folders from outside."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from dpo_video.cli.arguments import AsJson, RunFolder, run_path
from dpo_video.cli.output import print_json
from dpo_video.core import strict_json
from dpo_video.core.progress import open_terminal, print_line

WATCH_SECONDS = 2.0
TABLE_WIDTH = 110
"""Columns of a table where the output is not a terminal."""


def status(
    run_folder: RunFolder,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it anew every 2 s, until the run is over.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a run is at, from another shell: stage, done of total, time left, last error."""
    from dpo_video.runs.status import read_run, status_row, status_text

    folder = run_path(run_folder)
    terminal, shown = open_terminal(), ""
    while True:
        view = read_run(folder)
        text = strict_json.dumps(status_row(view)) if as_json else status_text(view)
        if watch and terminal.is_terminal and not as_json:
            terminal.clear()
        if text != shown:
            print_line(text)
        shown = text if not terminal.is_terminal else ""
        if not watch or not view.is_running:
            return
        time.sleep(WATCH_SECONDS)


def runs(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder of runs.")] = "runs",
    as_json: AsJson = False,
) -> None:
    """List runs, newest first: when they changed, model, last stage, pairs, verdict."""
    from dpo_video.runs.listing import date_text, list_runs

    listed = list_runs(Path(folder).expanduser())
    if as_json:
        print_json([asdict(run) for run in listed])
        return
    table = Table(box=box.SIMPLE)
    for heading in ("run", "changed", "model", "stage", "pairs", "verdict"):
        table.add_column(heading, justify="right" if heading == "pairs" else "left")
    for run in listed:
        pairs = "-" if run.pairs is None else str(run.pairs)
        changed = date_text(run.changed)
        table.add_row(run.name, changed, run.model, run.stage, pairs, run.verdict or "-")
    open_terminal(width=TABLE_WIDTH).print(table)


def compare(
    first: RunFolder,
    second: RunFolder,
    as_json: AsJson = False,
) -> None:
    """Compare two runs: the settings that differ, and the paired change from the first's tuned
    model to the second's.
    """
    from dpo_video.evaluate.set_verdict import verdict_row
    from dpo_video.runs.compare import compare_runs

    compared = compare_runs(run_path(first), run_path(second))
    if as_json:
        row = {
            "settings": compared.settings,
            "verdicts": [verdict_row(verdict) for verdict in compared.verdicts],
            "only_one": compared.only_one,
        }
        print_json(row)
        return
    table = Table(box=box.SIMPLE, title="Settings that differ", title_justify="left")
    for heading in ("setting", first, second):
        table.add_column(heading, overflow="fold")
    for key, (old, new) in compared.settings.items():
        table.add_row(key, str(old), str(new))
    terminal = open_terminal(width=TABLE_WIDTH)
    terminal.print(table if compared.settings else "no setting differs")
    terminal.print(f"From {first} to {second}, the tuned models' answers to the same questions:")
    for verdict in compared.verdicts:
        terminal.print(verdict.sentence)
    if compared.only_one:
        terminal.print(f"left out: {compared.only_one} questions that one run alone has answered")


def clean(
    run_folder: RunFolder,
    without_asking: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """Remove a run's checkpoints, caches and stale reports, with their sizes; asks first."""
    from dpo_video.runs.clean import removable_folders, remove_folders, size_text

    folder = run_path(run_folder)
    folders = removable_folders(folder)
    if not folders:
        print_line(f"nothing to remove in {folder}")
        return
    for removable in folders:
        size = size_text(removable.num_bytes)
        print_line(f"{size:>9}  {removable.path}  ({removable.meaning})")
    total = size_text(sum(removable.num_bytes for removable in folders))
    if without_asking or typer.confirm(f"Remove {total}?", default=False):
        remove_folders(folder, folders)
        print_line(f"removed {total}; adapter, pairs, metrics and all stored rows are kept")
    else:
        print_line("nothing removed")
