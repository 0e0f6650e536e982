"""Commands about recipes: show one, begin one, list what there is."""

from pathlib import Path
from typing import Annotated

import typer

from dpo_video.cli.arguments import Overrides, RecipeName
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_atomic
from dpo_video.core.progress import print_line
from dpo_video.recipe.file import dump_recipe, load_recipe


def show(
    recipe: RecipeName,
    overrides: Overrides = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="With what each setting means above it.")
    ] = False,
) -> None:
    """Print all settings of a recipe, defaults included."""
    settings = load_recipe(recipe, overrides or [])
    if explain:
        from dpo_video.recipe.explain import explained

        print_line(explained(settings), end="")
    else:
        print_line(dump_recipe(settings), end="")


def init(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The recipe to write, ending in .yaml.")
    ],
    source: Annotated[
        str, typer.Option("--from", help="The recipe that it begins as; see `dpo-video list`.")
    ] = "qwen2_5_vl_7b",
) -> None:
    """Begin a recipe of your own: a shipped one's settings, with what each means above it."""
    from dpo_video.recipe.explain import explained

    path = Path(file).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"{file!r}: name a file that ends in .yaml")
    if path.exists():
        raise UserError(f"{file!r} exists: name another file, or remove it first")
    settings = load_recipe(source, [f"name={path.stem}"])
    header = (
        f"# Begun from the recipe {source}. What is not here has its default:\n"
        f"# dpo-video show {file} --explain\n"
    )
    write_atomic(path, header + explained(settings, only_set=True))
    print_line(f"recipe: {path}; set its data, then: dpo-video check {path}")


def list_(
    kind: Annotated[str, typer.Argument(help="What to list; everything when left out.")] = "",
) -> None:
    """List recipes, scorers, model families, frame presets, formats and losses."""
    from dpo_video.cli.lists import LISTS
    from dpo_video.core.names import choose

    for name in [kind] if kind else LISTS:
        rows = choose(LISTS, name, "list")()
        print_line(f"{name}:")
        for row, meaning in rows:
            print_line(f"  {row:28} {meaning}")
