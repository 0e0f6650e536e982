"""The command about a model family of the user's own."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from dpo_video.core.errors import UserError
from dpo_video.core.imports import large_imports
from dpo_video.core.progress import open_terminal, print_error, print_line


def family(
    action: Annotated[str, typer.Argument(metavar="test", help="What to do: test.")],
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A Python file that holds a row, FAMILY.")
    ],
    model: Annotated[
        str, typer.Option(help="Checkpoint that the row is for: a folder or a hub id.")
    ],
    revision: Annotated[str, typer.Option(help="Commit of a hub id, whose own code may run.")] = "",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the file, which you have read.")
    ] = False,
) -> None:
    """Run the checks that every shipped family passes on one of your own, and print the table; the
    exit code is 1 where one fails.
    """
    if action != "test":
        raise UserError(f"dpo-video family {action}: there is only `dpo-video family test FILE`")
    with large_imports():
        from dpo_video.family.command import test_family
        from dpo_video.family.run import outcomes_table

    outcomes = test_family(
        Path(file).expanduser(),
        model=model,
        revision=revision or None,
        trust_remote_code=trust_remote_code,
        tell=lambda outcome: None,
    )
    open_terminal(width=110).print(outcomes_table(outcomes))
    failed = [outcome for outcome in outcomes if outcome.reason is not None]
    print_line(f"{len(outcomes) - len(failed)} of {len(outcomes)} checks passed")
    if failed:
        print_error(f"dpo-video: {failed[0].check}: {failed[0].reason}")
        sys.exit(1)
