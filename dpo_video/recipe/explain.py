"""Settings in words, read off the fields and their docstrings: docs/settings.md, `show --explain`
and the file that `init` begins with.
"""

import textwrap
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dpo_video.core.field_docs import field_meaning
from dpo_video.recipe import Recipe
from dpo_video.recipe.affects import Affects
from dpo_video.recipe.section import Section

WIDTH = 100
PAGE = """\
# Settings

Every setting of a recipe, its default, and what a change of it redoes first. Made from the
docstrings of `dpo_video/recipe/` (a test holds it to them); `dpo-video show RECIPE --explain`
prints the same beside a recipe's own values. On the command line a setting is
`section.key=value`.
"""


class SettingRow(NamedTuple):
    """One setting, in words."""

    key: str
    kind: str
    default: str
    meaning: str
    affects: str


def setting_rows(section: type[Section] = Recipe, prefix: str = "") -> Iterator[SettingRow]:
    """Yield every setting of a section and of those inside it, in declared order."""
    for name, field in section.model_fields.items():
        inner = _inner_section(field)
        if inner is not None:
            yield from setting_rows(inner, f"{prefix}{name}.")
        else:
            yield SettingRow(
                key=f"{prefix}{name}",
                kind=_kind(field.annotation),
                default=_default(field),
                meaning=field_meaning(section, name),
                affects=_affects(field),
            )


def settings_page() -> str:
    """Return docs/settings.md."""
    sections: dict[str, list[SettingRow]] = {}
    for row in setting_rows():
        section, dot, _ = row.key.partition(".")
        sections.setdefault(section if dot else "", []).append(row)
    lines = [PAGE]
    for section, rows in sections.items():
        meaning = _section_meaning(section)
        lines += [f"## `{section}`" if section else "## The run", "", meaning, ""]
        lines += ["| setting | value | default | meaning | affects |", "|---|---|---|---|---|"]
        lines += [_table_row(row) for row in rows]
        lines.append("")
    return "\n".join(lines)


def explained(recipe: Recipe, *, only_set: bool = False) -> str:
    """Return a recipe as YAML with a comment above every setting.

    Args:
        only_set: leave out what has its default because the recipe does not say it.
    """
    values = recipe.model_dump(exclude_unset=only_set)
    return "\n".join(_explained_lines(recipe, values, "")) + "\n"


def _explained_lines(section: Section, values: dict[str, Any], indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        if name not in values:
            continue
        value = getattr(section, name)
        if isinstance(value, Section):
            yield f"{indent}{name}:"
            yield from _explained_lines(value, values[name], f"{indent}  ")
            continue
        comment = field_meaning(type(section), name) or _kind(field.annotation)
        yield from textwrap.wrap(
            comment, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
        )
        text = yaml.safe_dump({name: values[name]}, sort_keys=False, width=WIDTH)
        yield from (f"{indent}{line}" for line in text.splitlines())


def _table_row(row: SettingRow) -> str:
    cells = (f"`{row.key}`", row.kind, row.default, row.meaning, row.affects)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _section_meaning(name: str) -> str:
    inner = _inner_section(Recipe.model_fields[name]) if name else Recipe
    words = " ".join(((inner or Recipe).__doc__ or "").split())
    return "\n".join(textwrap.wrap(words, WIDTH))


def _inner_section(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _affects(field: FieldInfo) -> str:
    """Return what a setting affects; a list of sections affects what their settings do."""
    marks = [mark for mark in field.metadata if isinstance(mark, Affects)]
    for kind in get_args(field.annotation):
        if isinstance(kind, type) and issubclass(kind, Section):
            inner = kind.model_fields.values()
            marks += [mark for row in inner for mark in row.metadata if isinstance(mark, Affects)]
    names = [flag.name.lower() for mark in marks for flag in mark if flag.name]
    return ", ".join(dict.fromkeys(names))


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, str):
        return f"`{value}`" if value else "empty"
    return f"`{yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}`"


def _kind(annotation: Any) -> str:
    """Return a type in words: `integer`, `uniform or fps`, `list of text`, `number or null`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(kind) for kind in inner)
    if origin is list:
        return f"list of {_kind(inner[0])}"
    if origin is dict or annotation is dict:
        return "mapping"
    words = {str: "text", int: "integer", float: "number", bool: "true or false"}
    words |= {types.NoneType: "null"}
    if annotation in words:
        return words[annotation]
    return "mapping" if isinstance(annotation, type) and issubclass(annotation, Section) else "any"
