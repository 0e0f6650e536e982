"""Commands about serving a run: the merged model, and whether a server answers as the run does."""

from pathlib import Path
from typing import Annotated

import typer

from dpo_video.cli.arguments import AsJson, Overrides, RunFolder, run_path
from dpo_video.cli.output import fail, only_json, print_json_file
from dpo_video.core.errors import UserError
from dpo_video.core.imports import large_imports
from dpo_video.core.progress import open_terminal, print_line


def merge(
    run_folder: RunFolder,
    out_folder: Annotated[
        str, typer.Option("--out", help="Folder for the merged model; RUN/merged when left out.")
    ] = "",
) -> None:
    """Write base + adapter as one full model, check that its logits equal the adapter's, and print
    the commands that serve and measure it.
    """
    from dpo_video.run import open_run, recipe_of

    folder = run_path(run_folder)
    settings = recipe_of(folder)
    merged = Path(out_folder) if out_folder else folder / "merged"
    with large_imports():
        from dpo_video.parity.serving_commands import serving_text
        from dpo_video.train.merge import merge as merge_adapter

    with open_run(settings) as opened:
        summary = merge_adapter(opened, merged)
    print_line(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in summary.items()))
    print_line(f"\n{serving_text(settings, merged)}")


def parity(  # noqa: PLR0913 - options of a command
    run_folder: RunFolder,
    base_url: Annotated[
        str, typer.Option(help="The server's address, e.g. http://localhost:8000/v1.")
    ],
    overrides: Overrides = None,
    model: Annotated[
        str, typer.Option(help="The model's name there; needed where it serves several.")
    ] = "",
    shown_as: Annotated[
        str,
        typer.Option(
            help="How the server gets our frames: film (a clip of exactly these), images, or auto."
        ),
    ] = "auto",
    limit: Annotated[int, typer.Option(min=0, help="Held-out questions to ask; 0 asks all.")] = 0,
    min_equal: Annotated[
        float, typer.Option(min=0, max=1, help="Share of answers that must be equal.")
    ] = 0.9,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds per request.")] = 300.0,
    as_json: AsJson = False,
) -> None:
    """Ask a server the held-out questions and compare its answers with those of the tuned model
    here; the exit code is 1 where they are another model's.
    """
    from dpo_video.recipe.file import change_recipe
    from dpo_video.run import open_run, recipe_of

    if shown_as not in ("auto", "film", "images"):
        raise UserError(f"--shown-as is {shown_as!r}: auto, film or images")
    folder = run_path(run_folder)
    settings = change_recipe(recipe_of(folder), [*(overrides or []), "tracking.to=none"])
    with large_imports():
        from dpo_video.parity.command import ParityOptions
        from dpo_video.parity.command import parity as compare_with_server
        from dpo_video.parity.summary import parity_summary

    options = ParityOptions(
        base_url=base_url,
        model=model,
        shown_as=shown_as,  # type: ignore[arg-type]
        limit=limit,
        min_equal=min_equal,
        timeout=timeout,
    )
    with only_json(as_json), open_run(settings) as opened:
        report = compare_with_server(opened, options)
    if as_json:
        print_json_file(folder / "parity.json")
    else:
        open_terminal(width=110).print(parity_summary(report, str(folder), settings))
    if not report.holds:
        fail("the server does not answer as the tuned model does", 1)
