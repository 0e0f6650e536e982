"""Arguments that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

from dpo_video.core.errors import UserError

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Settings that replace the recipe's, e.g. train.learning_rate=1e-5.",
    ),
]
RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A shipped recipe, a path ending in .yaml, or NAME for NAME.yaml."
    ),
]
RunFolder = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run folder, e.g. runs/quickstart, or its name below runs/."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def run_path(name: str, runs: Path = Path("runs")) -> Path:
    """Return the folder of a run that is given by its path, or by its name below `runs`; a run goes
    before another folder of its name.
    """
    folder = Path(name).expanduser()
    if not (folder / "manifest.json").is_file() and (runs / folder).is_dir():
        return runs / folder
    if not folder.is_dir():
        raise UserError(
            f"no run folder {name!r}: give its path, e.g. runs/quickstart. `dpo-video runs` "
            "lists them"
        )
    return folder
