"""Read a recipe: YAML and overrides into settings; every error names file, line, key and what is
allowed.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dpo_video.core.errors import UserError
from dpo_video.core.names import did_you_mean, find_yaml
from dpo_video.recipe import Recipe, VideoSettings
from dpo_video.recipe.presets import PRESETS

Location = tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """YAML with numbers as YAML 1.2 reads them: `5e-7` is a float (PyYAML's 1.1 rules make it a
    string).
    """


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|nan))$"
    ),
    list("-+.0123456789"),
)


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the settings of a shipped recipe or a .yaml path, with `section.key=value` overrides
    on top.

    All problems of a recipe are reported together, one line each, in one UserError.
    """
    path = find_yaml("recipes", name)
    places: dict[Location, str] = {}
    return _with_overrides(_read(path, places), overrides, places, str(path))


def change_recipe(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return a recipe with `section.key=value` overrides on top."""
    return _with_overrides(recipe.model_dump(), overrides, {}, recipe.name)


def _with_overrides(
    values: dict[str, Any], overrides: Sequence[str], places: dict[Location, str], path: str
) -> Recipe:
    for text in _preset_first(overrides):
        _override(values, text, places)
    try:
        return Recipe.model_validate(values, strict=True)
    except ValidationError as error:
        raise UserError(_explain_all(error.errors(), places, path)) from None


def load_video_settings(overrides: Sequence[str]) -> VideoSettings:
    """Return the `video` section that overrides alone make, its defaults elsewhere."""
    values: dict[str, Any] = {"video": {}}
    places: dict[Location, str] = {}
    for text in _preset_first(overrides):
        _override(values, text, places)
    others = [key for key in values if key != "video"]
    if others:
        raise UserError(
            f"override of `{others[0]}`: without a recipe only `video.` settings can be given"
        )
    try:
        return VideoSettings.model_validate(values["video"], strict=True)
    except ValidationError as error:
        details = [{**detail, "loc": ("video", *detail["loc"])} for detail in error.errors()]
        raise UserError(_explain_all(details, places, "command line")) from None  # type: ignore[arg-type]


def _preset_first(overrides: Sequence[str]) -> list[str]:
    """Return overrides with a frame preset before the single settings that go on top of it."""
    return sorted(overrides, key=lambda text: not text.startswith("video.preset="))


def dump_recipe(recipe: Recipe) -> str:
    """Return all settings as YAML, in declared order."""
    return yaml.safe_dump(recipe.model_dump(), sort_keys=False, width=100)


def _read(path: Path, places: dict[Location, str]) -> dict[str, Any]:
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise UserError(
                f"{path}:1: a recipe is a mapping of sections; see the shipped ones with "
                f"`dpo-video list`"
            )
        _remember(node, (), places, str(path))
        return dict(loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: not YAML: {error.problem}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def _remember(node: yaml.Node, location: Location, places: dict[Location, str], path: str) -> None:
    """Note file:line of every key, and refuse a key that stands twice (YAML would keep the
    last).
    """
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*location, str(key.value))
            place = f"{path}:{key.start_mark.line + 1}"
            if here in places:
                raise UserError(
                    f"{place}: `{'.'.join(here)}` stands twice, first at {places[here]}"
                )
            places[here] = place
            _remember(value, here, places, path)


def _override(values: dict[str, Any], text: str, places: dict[Location, str]) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key or key.startswith("-"):
        raise UserError(
            f"override {text!r}: write it as section.key=value, e.g. train.learning_rate=1e-5"
        )
    *sections, last = location = tuple(key.split("."))
    target = values
    for depth, section in enumerate(sections, start=1):
        if section not in target:
            places[location[:depth]] = f"override {text!r}"
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise UserError(f"override {text!r}: `{'.'.join(location[:depth])}` is not a section")
    try:
        target[last] = yaml.load(value, Loader=_Loader)
        if (
            location == ("video", "preset") and target[last] in PRESETS
        ):  # it beats what the recipe file says
            for replaced in PRESETS[target[last]].video:
                target.pop(replaced, None)
    except yaml.YAMLError as error:
        raise UserError(f"override {text!r}: the value is not YAML") from error
    places[location] = f"override {text!r}"


def _explain_all(details: Sequence[ErrorDetails], places: dict[Location, str], path: str) -> str:
    """Return a line for each wrong key; where a key takes several kinds of value, what each of them
    wants is joined.
    """
    lines: dict[str, list[str]] = {}
    for detail in details:
        key = ".".join(_location(detail))
        start, separator, rest = _explain(detail, places, path).partition(f"`{key}` ")
        lines.setdefault(start + separator, []).append(rest)
    return "\n".join(start + "; or ".join(dict.fromkeys(rests)) for start, rests in lines.items())


def _location(detail: ErrorDetails) -> Location:
    """Return the path of keys to a value, without the names that pydantic gives to the kinds a key
    may take.
    """
    parts = tuple(str(part) for part in detail["loc"])
    for depth, part in enumerate(parts):
        model = _section(parts[:depth])
        if model is None and not part.isdigit() and "dict" not in detail["type"]:
            return parts[:depth]
    return parts


def _explain(detail: ErrorDetails, places: dict[Location, str], path: str) -> str:
    location = _location(detail)
    known_at = [depth for depth in range(len(location), 0, -1) if location[:depth] in places]
    where = places[location[: known_at[0]]] if known_at else path
    key = ".".join(location)
    if detail["type"] == "extra_forbidden":
        known = _fields(location[:-1])
        return (
            f"{where}: unknown key `{key}`.{did_you_mean(location[-1], known)} Known keys: "
            f"{', '.join(known)}"
        )
    if detail["type"] == "missing":
        return f"{where}: missing `{key}`. {_meaning(location)}"
    if detail["type"] == "literal_error":
        allowed = detail["ctx"]["expected"]
        near = did_you_mean(str(detail["input"]), re.findall(r"'([^']+)'", allowed))
        return f"{where}: `{key}` must be one of {allowed}, got {detail['input']!r}.{near}"
    return f"{where}: `{key}` {_wanted(detail)}"


def _wanted(detail: ErrorDetails) -> str:
    """Return what a value must be and what was given instead, and how to write it."""
    given = "nothing" if detail["input"] is None else repr(detail["input"])
    match detail["type"]:
        case "model_type" | "model_attributes_type" | "dict_type":
            remedy = (
                "Put keys under it, or leave it out"
                if detail["input"] is None
                else "Write its keys under it"
            )
            return f"must be a section of keys, got {given}. {remedy}"
        case "list_type" if isinstance(detail["input"], str):
            return f"must be a list, got {given}. Write it in brackets: [{detail['input']}]"
        case "too_short":
            return f"must have at least {detail['ctx']['min_length']} item(s), got {given}"
        case "int_type":
            return f"must be an integer, got {given}"
        case "value_error":
            said = detail["msg"].removeprefix("Value error, ")
            return (
                f"is wrong: {said}" if isinstance(detail["input"], dict) else f"{said}, got {given}"
            )
    wanted = (
        detail["msg"]
        .replace("Input should be a valid ", "must be a ")
        .replace("Input should be", "must be")
    )
    return f"{wanted[0].lower() + wanted[1:]}, got {given}"


def _section(location: Location) -> type[BaseModel] | None:
    model: type[BaseModel] = Recipe
    for part in location:
        if part.isdigit():  # a place in a list of sections
            continue
        field = model.model_fields.get(part)
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return None
        model = inner[0]
    return model


def _fields(location: Location) -> list[str]:
    model = _section(location)
    return [] if model is None else list(model.model_fields)


def _meaning(location: Location) -> str:
    inner = _section(location)
    if inner is not None:
        needed = [key for key, field in inner.model_fields.items() if field.is_required()]
        return f"It is a section; put {', '.join(f'`{key}`' for key in needed)} under it"
    model = _section(location[:-1])
    field = None if model is None else model.model_fields.get(location[-1])
    return (field.description or "").replace("\n", " ") if field else ""
