"""What pydantic finds wrong with settings, in words: the key, what may stand there, what does.

unknown key `m.cashed`. Did you mean 'cached'? Known keys: input, output, cached
"""

import re
from collections.abc import Collection
from itertools import chain
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from dpo_video.core.field_docs import field_meaning
from dpo_video.core.names import did_you_mean
from dpo_video.core.text import shortened, without_secrets

Location = tuple[str, ...]
"""The keys from the top of a file to a value."""


def error_location(detail: ErrorDetails, kind: Any) -> Location:
    """Return the path of keys to a value, without the names that pydantic gives to the kinds a key
    may take.
    """
    parts = tuple(str(step) for step in detail["loc"])
    for depth, step in enumerate(parts):
        is_last = depth == len(parts) - 1
        if is_last and detail["type"] in ("missing", "extra_forbidden"):
            break
        if parts[depth + 1 :] == ("[key]",):  # the key itself is wrong
            return parts[:depth]
        kind = _inside(kind, step)
        if kind is None:
            return parts[:depth]
    return parts


def _alternatives(kind: Any) -> list[Any]:
    """Return the types that a value may have."""
    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [*chain.from_iterable(map(_alternatives, get_args(kind)))]
    return [kind]


def _inside(kind: Any, step: str) -> Any:
    """Return the type of what stands under a key or an index; None where nothing can."""
    for alternative in _alternatives(kind):
        arguments = get_args(alternative)
        if _is_model(alternative) and step in alternative.model_fields:
            return alternative.model_fields[step].annotation
        if get_origin(alternative) is dict:
            return arguments[1]
        if get_origin(alternative) in (list, tuple) and step.isdigit():
            return arguments[0]
    return None


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _model_at(kind: Any, location: Location) -> type[BaseModel] | None:
    for step in location:
        kind = _inside(kind, step)
    return next((inner for inner in _alternatives(kind) if _is_model(inner)), None)


def explain_error(
    detail: ErrorDetails, kind: Any, location: Location, key: str, hidden: Collection[str]
) -> str:
    """Return what is wrong under a key: it is unknown or missing, or what its value must be."""
    if detail["type"] == "extra_forbidden":
        return explain_unknown_key(kind, location, key, hidden)
    if detail["type"] == "missing":
        return f"missing `{key}`. {_meaning(kind, location)}".rstrip()
    value = shortened(without_secrets(repr(detail["input"])))
    if detail["type"] == "literal_error":
        allowed = detail["ctx"]["expected"]
        near = did_you_mean(str(detail["input"]), re.findall(r"'([^']+)'", allowed))
        return f"`{key}` must be one of {allowed}, got {value}.{near}"
    return f"`{key}` {_wanted(detail, value)}"


def explain_unknown_key(kind: Any, location: Location, key: str, hidden: Collection[str]) -> str:
    """Return which keys there are in place of one that there is not, the nearest first."""
    model = _model_at(kind, location[:-1])
    names = [name for name in (model.model_fields if model else ()) if name not in hidden]
    nearest = did_you_mean(location[-1], names)
    return f"unknown key `{key}`.{nearest} Known keys: {', '.join(names)}"


def _wanted(detail: ErrorDetails, value: str) -> str:
    """Return what a value must be and what was given instead, and how to write it."""
    value = "nothing" if detail["input"] is None else value
    match detail["type"]:
        case "model_type" | "model_attributes_type" | "dict_type":
            remedy = (
                "Put keys under it, or leave it out"
                if detail["input"] is None
                else "Write its keys under it"
            )
            return f"must be a section of keys, got {value}. {remedy}"
        case "list_type" if isinstance(detail["input"], str):
            written = without_secrets(detail["input"])
            return f"must be a list, got {value}. Write it in brackets: [{written}]"
        case "too_short":
            return f"must have at least {detail['ctx']['min_length']} item(s), got {value}"
        case "int_type":
            return f"must be an integer, got {value}"
        case "string_type" if isinstance(detail["input"], bool):
            return (
                f"must be a string, got {value}. Quote it: YAML reads bare yes and no as true "
                "and false"
            )
        case "value_error":
            problem = detail["msg"].removeprefix("Value error, ")
            return (
                f"is wrong: {problem}"
                if isinstance(detail["input"], dict)
                else f"{problem}, got {value}"
            )
    message = (
        detail["msg"]
        .replace("Input should be a valid ", "must be a ")
        .replace("Input should be", "must be")
    )
    return f"{message[0].lower() + message[1:]}, got {value}"


def _meaning(kind: Any, location: Location) -> str:
    """Return what a key is for."""
    model = _model_at(kind, location)
    if model is not None:
        required = [key for key, field in model.model_fields.items() if field.is_required()]
        return f"It is a section; put {', '.join(f'`{key}`' for key in required)} under it"
    above = _model_at(kind, location[:-1])
    return "" if above is None else field_meaning(above, location[-1])
