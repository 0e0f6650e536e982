"""docs/commands.md, read off the commands themselves."""

import textwrap
from typing import Any, Literal, get_args, get_origin

import typer
from typer.main import get_command

from dpo_video.cli.examples import EXAMPLES

WIDTH = 100
HEAD = """\
# Commands

Every command, its arguments and options. Made from the commands by `python
scripts/commands_page.py` (a test holds it to them); `dpo-video COMMAND --help` prints the same.
Settings stand behind a recipe as `section.key=value` ([settings](settings.md)). The exit code is 0
where all was done, 1 where a condition does not hold, 2 where something asked for cannot be done,
130 after Ctrl-C.
"""


def commands_page(app: typer.Typer) -> str:
    """Return the page of all commands, in the order of the command line."""
    group: Any = get_command(app)
    sections = [_section(name, command) for name, command in group.commands.items()]
    return "\n".join([HEAD, *sections])


def _section(name: str, command: Any) -> str:
    """Return a command: what it does, its words, an example."""
    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    text = " ".join(command.help.split())
    lines = [f"## `{name}`", "", *textwrap.wrap(text, WIDTH), "", f"    {EXAMPLES[name]}", ""]
    if rows:
        lines += ["| argument or option | meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _row(parameter: Any) -> str:
    """Return a row: how it is written, what it means, its default."""
    meaning = " ".join((parameter.help or "").split())
    if parameter.param_type_name == "argument":
        written = parameter.metavar or parameter.name.upper()
    else:
        written = ", ".join([*parameter.opts, *parameter.secondary_opts])
        if not parameter.is_flag:
            written += f" {parameter.metavar or _kind(parameter.type_descriptor.annotation)}"
            shown = parameter.default not in (None, "", (), [])
            meaning += f" Default: {parameter.default}." if shown else ""
        meaning += " Needed." if parameter.required else ""
    return f"| `{_cell(written)}` | {_cell(meaning)} |"


def _kind(annotation: Any) -> str:
    """Return what stands for an option's value: its choices, or a word."""
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    (inner,) = get_args(annotation) or (annotation,)
    return {str: "TEXT", int: "N", float: "X"}[inner]


def _cell(text: str) -> str:
    return text.strip().replace("|", "\\|")
