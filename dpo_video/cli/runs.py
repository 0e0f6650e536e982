"""Commands that look at run folders from outside."""

import time
from typing import Annotated

import typer

from dpo_video.cli.arguments import RunFolder, run_path
from dpo_video.core import strict_json
from dpo_video.core.progress import open_terminal, print_line

WATCH_SECONDS = 2.0

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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
