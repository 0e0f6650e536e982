"""`dpo-video doctor`; `app.py` puts it beside the stages."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from dpo_video.cli.arguments import AsJson, Overrides
from dpo_video.cli.output import print_json
from dpo_video.core.errors import UserError
from dpo_video.core.imports import large_imports
from dpo_video.core.progress import open_terminal
from dpo_video.recipe.file import load_recipe


def doctor(
    recipe: Annotated[
        str, typer.Argument(metavar="[RECIPE]", help="Also look at what this recipe needs.")
    ] = "",
    overrides: Overrides = None,
    bench: Annotated[
        bool, typer.Option("--bench", help="Time random weights of the recipe's size.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say whether this machine computes right, each line right, wrong or not checked; the exit code
    is 1 where one is wrong.
    """
    if bench and not recipe:
        raise UserError("--bench needs a recipe, whose model and LoRA it times")
    settings = load_recipe(recipe, overrides or []) if recipe else None
    with large_imports():
        from dpo_video.doctor.bench import bench as time_steps
        from dpo_video.doctor.command import bench_line, counts_line, examine, findings_table

    findings = list(examine(settings))
    result = time_steps(settings) if bench and settings is not None else None
    if as_json:
        row = {
            "findings": [asdict(finding) for finding in findings],
            "bench": None if result is None else result._asdict(),
        }
        print_json(row)
    else:
        terminal = open_terminal(width=110)
        terminal.print(findings_table(findings))
        terminal.print(counts_line(findings))
        if result is not None:
            terminal.print(bench_line(result))
    if any(finding.verdict == "wrong" for finding in findings):
        sys.exit(1)
