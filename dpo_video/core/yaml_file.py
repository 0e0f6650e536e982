"""YAML files as pydantic models: every error names file, line, key, and what is allowed there.

    prices.yaml:2: unknown key `m.cashed`. Did you mean 'cached'? Known keys: input, output, cached

`load` does it in one call. Recipes, which take overrides on top, use `read`, `read_value` and
`validate`.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from dpo_video.core.errors import UserError
from dpo_video.core.strict_json import without_advice
from dpo_video.core.text import shortened
from dpo_video.core.validation_errors import (
    Location,
    error_location,
    explain_error,
    explain_unknown_key,
)

T = TypeVar("T")
MAX_DEPTH = 50
"""Levels of maps and lists in a file; no setting needs ten."""
MAX_VALUES = 100_000
"""Values in a file once its aliases are written out: a page of aliases of aliases stands for
billions.
"""


class Loader(yaml.SafeLoader):
    """YAML with numbers as YAML 1.2 reads them: `5e-7` is a float (PyYAML's 1.1 rules make it a
    string).
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node; RecursionError at a depth where PyYAML would take its square."""
        self.depth += 1
        if self.depth > MAX_DEPTH + 1:
            raise RecursionError
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return a node's value; one that Python cannot hold, such as the date 2026-13-45, is an
        error with its line.
        """
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            raise yaml.constructor.ConstructorError(
                None, None, without_advice(error), node.start_mark
            ) from error


Loader.yaml_implicit_resolvers = {}
for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items():
    Loader.yaml_implicit_resolvers[letter] = [
        (tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"
    ]
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|nan))$"
    ),
    list("-+.0123456789"),
)


@dataclass(frozen=True)
class Yaml:
    """The mapping of a file, and where each of its keys stands."""

    values: dict[str, Any]
    path: str
    origins: dict[Location, str] = field(default_factory=dict)
    """`file:line` of each key, or the override that gave it."""

    def origin(self, location: Location) -> str:
        """Return where a key stands: its own line, that of the nearest key above it, or the
        file.
        """
        for depth in range(len(location), 0, -1):
            if location[:depth] in self.origins:
                return self.origins[location[:depth]]
        return self.path


def load(path: Path, kind: type[T], *, expected: str, strict: bool = True) -> T:
    """Return what a file holds as `kind`, a pydantic model or a mapping of them.

    Args:
        expected: what such a file is, for a file that is no mapping: "a recipe is a mapping of ..".
        strict: refuse "3" where a number is wanted, and lists where tuples are.

    Raises:
        UserError: all problems together, a line each.
    """
    return validate(kind, read_yaml(path, expected=expected), strict=strict)


def read_yaml(path: Path, *, expected: str) -> Yaml:
    """Return the mapping in a file; UserError with file and line for one that is no YAML, holds a
    key twice, or is too deep or too large to be a file of settings.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from error
    node, values = _parse(text, str(path))
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:1: {expected}")
    settings = Yaml(values, str(path))
    _remember(node, (), settings)
    return settings


def read_value(text: str, where: str) -> Any:
    """Return the value that a piece of YAML stands for; `where` opens an error's message."""
    return _parse(text, where, lines=False)[1]


def _parse(text: str, path: str, *, lines: bool = True) -> tuple[yaml.Node | None, Any]:
    """Return the node and the value of a document."""

    def where(line: int) -> str:
        return f"{path}:{line}" if lines else path

    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, None
        _count_values(node, {}, where)
        return node, loader.construct_document(node)
    except RecursionError:
        raise UserError(
            f"{where(1)}: its maps and lists are nested deeper than {MAX_DEPTH} levels: no setting "
            "is"
        ) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{where(line)}: not YAML: {shortened(str(error.problem))}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{where(line)}: not YAML: the character U+{ord(text[error.position]):04X} may not "
            f"stand in it. Remove it"
        ) from error


def _count_values(node: yaml.Node, sizes: dict[int, int], where: Any, depth: int = 0) -> int:
    """Return how many values a node stands for with its aliases written out.

    UserError where that is more than a file of settings holds: a map inside itself has no end.
    """
    line = node.start_mark.line + 1
    if depth > MAX_DEPTH:
        raise UserError(f"{where(line)}: nested deeper than {MAX_DEPTH} levels: no setting is")
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = (
            MAX_VALUES + 1
        )  # until it is counted: what meets it inside itself has no end
        total = 1
        for element in node.value:
            for step in element if isinstance(element, tuple) else (element,):
                total += _count_values(step, sizes, where, depth + 1)
        sizes[id(node)] = total
    if sizes[id(node)] > MAX_VALUES:
        raise UserError(
            f"{where(line)}: with its aliases (`*name`) written out this stands for more than "
            f"{MAX_VALUES:,} values, or it holds itself. Write the values themselves"
        )
    return sizes[id(node)]


def _remember(node: yaml.Node, location: Location, settings: Yaml) -> None:
    """Note file:line of every key, and refuse one that stands twice, which YAML would not."""
    if isinstance(node, yaml.SequenceNode):
        for index, element in enumerate(node.value):
            settings.origins[*location, str(index)] = (
                f"{settings.path}:{element.start_mark.line + 1}"
            )
            _remember(element, (*location, str(index)), settings)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*location, str(key.value))
            origin = f"{settings.path}:{key.start_mark.line + 1}"
            if here in settings.origins:
                raise UserError(
                    f"{origin}: `{'.'.join(here)}` stands twice, first at {settings.origins[here]}"
                )
            settings.origins[here] = origin
            _remember(value, here, settings)


def validate(
    kind: type[T],
    settings: Yaml,
    *,
    at: Location = (),
    computed: Mapping[str, Any] | None = None,
    strict: bool = True,
) -> T:
    """Return values as `kind`; UserError with a line for each wrong key.

    Args:
        at: where in the file these values stand, for the places and for the names of keys.
        computed: fields of `kind` that no file gives, with their values.
        strict: as for `load`.
    """
    hidden = computed or {}
    problems = [
        f"{settings.origin((key,))}: {explain_unknown_key(kind, (key,), key, hidden)}"
        for key in hidden
        if key in settings.values
    ]
    value: T | None = None
    try:
        value = TypeAdapter(kind).validate_python({**settings.values, **hidden}, strict=strict)
    except ValidationError as error:
        problems += _explain_all(error.errors(), kind, settings, at, hidden)
    problems = problems or [
        f"{settings.origin(location)}: `{'.'.join(location)}` must be a finite number, got {number}"
        for location, number in _not_finite(settings.values, at)
    ]
    if value is None or problems:
        raise UserError("\n".join(problems)) from None
    return value


def _not_finite(value: Any, location: Location) -> Iterable[tuple[Location, float]]:
    """Yield the numbers among values that are infinite or none, also where any value may stand."""
    if isinstance(value, float) and not math.isfinite(value):
        yield location, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _not_finite(inner, (*location, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _not_finite(inner, (*location, str(index)))


def _explain_all(
    details: Sequence[ErrorDetails],
    kind: Any,
    settings: Yaml,
    at: Location,
    hidden: Collection[str],
) -> list[str]:
    """Return a line for each wrong key; where a key takes several kinds of value, what each of them
    wants is joined.
    """
    lines: dict[str, list[str]] = {}
    # a key that is missing may stand there under a wrong name: say that first
    for detail in sorted(details, key=lambda detail: detail["type"] == "missing"):
        location = error_location(detail, kind)
        key = ".".join((*at, *location))
        problem = explain_error(detail, kind, location, key, hidden).removeprefix("`` is wrong: ")
        start, separator, problem_text = (
            f"{settings.origin((*at, *location))}: {problem}".partition(f"`{key}` ")
        )
        lines.setdefault(start + separator, []).append(problem_text)
    return [start + "; or ".join(dict.fromkeys(rests)) for start, rests in lines.items()]
