"""What each setting changes, as a mark on its field: keys and fingerprints are read off the marks.

A setting whose mark is wrong either redoes work for nothing or reuses a stale result, so the mark
stands beside the setting, and a field without one fails a test.

    class Example(Section):
        fps: Annotated[float, Affects.PIXELS] = 2.0
        workers: Annotated[int, Affects.SPEED] = 2

    names_that_affect(Example, Affects.PIXELS)  # ('fps',)
    key_settings(Example())  # {'fps': 2.0}
"""

from dataclasses import dataclass
from enum import Flag, auto
from typing import Any, Final, get_args

from pydantic.fields import FieldInfo

from dpo_video.recipe.section import Section


class Affects(Flag):
    """What a changed setting changes first; what is made from that changes with it."""

    SPEED = auto()
    """How fast, where or how safely a result comes; the result is the same."""
    DISPLAY = auto()
    """What people read: names, descriptions, tracking."""
    SAMPLES = auto()
    """Which questions and clips there are."""
    DECODER = auto()
    """Which program decodes a clip; the pixels are the same, but their cache keeps them apart."""
    PIXELS = auto()
    """Which frames of a clip are decoded."""
    SOUND = auto()
    """Whether a clip's sound is read beside its frames."""
    SIZE = auto()
    """How large decoded frames are shown, and how many of them stay."""
    ANSWERS = auto()
    """What the policy says."""
    SCORES = auto()
    """What the judge makes of an answer."""
    PAIRS = auto()
    """Which answers become chosen and rejected."""
    WEIGHTS = auto()
    """The weights after each step of training."""
    METRICS = auto()
    """What is measured, and how."""


NO_RESULT = Affects.SPEED | Affects.DISPLAY
"""A setting that affects these alone is in no key: changing it redoes nothing."""
DEFAULT_IN_KEYS: Final = "its default stands in keys"
"""A second mark on such a setting. Keys were made with its value before; with its default in its
place they stay what they were in runs that never set it.
"""
ABSENT_AT_DEFAULT: Final = "it stands in no key while it has its default"
"""A second mark on a setting that was added after keys were made: those of runs that leave it at
its default stay what they were.
"""

CONTENTS_IN_KEYS: Final = "what the files hold that it names stands in keys"
"""A second mark on a setting that names files: its own value stands in no key, and whoever makes
one adds their contents. The same files may then lie elsewhere.
"""


OVERRIDES: Final = "its keys are settings of the section that it stands in"
"""A second mark on a setting that changes its own section for one of several judges: of its keys,
too, those that affect no result are left out.
"""


@dataclass(frozen=True)
class ExceptKeys:
    """A second mark on a setting that is a mapping: its entries that affect no result."""

    names: frozenset[str]


def affects(field: FieldInfo) -> Affects:
    """Return what a field's mark says.

    A section inside a section needs none, as its own fields carry theirs: then it is empty.
    LookupError for any other field without a mark.
    """
    for mark in field.metadata:
        if isinstance(mark, Affects):
            return mark
    if _holds_section(field.annotation):
        return Affects(0)
    raise LookupError(f"a setting of type {field.annotation} without a mark of what it affects")


def names_that_affect(model: type[Section], changes: Affects) -> tuple[str, ...]:
    """Return the names of the fields that affect any of `changes`, in declared order, without those
    whose files stand in keys by their contents.
    """
    return tuple(
        name
        for name, field in model.model_fields.items()
        if affects(field) & changes and CONTENTS_IN_KEYS not in field.metadata
    )


def settings_that_affect(section: Section, changes: Affects) -> dict[str, Any]:
    """Return the values of the fields that affect any of `changes`, by name; without those that are
    absent at their default.
    """
    names = names_that_affect(type(section), changes)
    return {name: getattr(section, name) for name in names if not _is_absent(section, name)}


def key_settings(section: Section, *, defaults: bool = True) -> dict[str, Any]:
    """Return the settings that a result depends on, as plain values: what keys are made of.

    Args:
        defaults: put the default in the place of a setting marked DEFAULT_IN_KEYS, and leave out of
            OVERRIDES what affects no result; False keeps both, as keys were made once.
    """
    values = _dump(section)
    for name, field in type(section).model_fields.items():
        value, mark = getattr(section, name), affects(field)
        if name not in values:
            continue
        if DEFAULT_IN_KEYS in field.metadata:
            values[name] = field.get_default() if defaults else value
        elif mark and mark in NO_RESULT:
            del values[name]
        elif isinstance(value, Section):
            values[name] = key_settings(value, defaults=defaults)
        if OVERRIDES in field.metadata and defaults:
            values[name] = _overrides_that_matter(type(section), values[name])
        for exception in field.metadata:
            if isinstance(exception, ExceptKeys):
                values[name] = {key: value[key] for key in value.keys() - exception.names}
    return values


def _overrides_that_matter(model: type[Section], overrides: Any) -> Any:
    """Return overrides of a section, or a list of them, without the settings that touch no
    result.
    """
    if isinstance(overrides, list):
        return [_overrides_that_matter(model, row) for row in overrides]
    if overrides is None:
        return None
    fields = model.model_fields
    return {
        name: value
        for name, value in overrides.items()
        if name not in fields or not affects(fields[name]) or affects(fields[name]) not in NO_RESULT
    }


def _is_absent(section: Section, name: str) -> bool:
    """Return whether a setting stands in no key: it has the default that it was added with, or
    others put the contents of its files there.
    """
    field = type(section).model_fields[name]
    if CONTENTS_IN_KEYS in field.metadata:
        return True
    return ABSENT_AT_DEFAULT in field.metadata and getattr(section, name) == field.get_default()


def _dump(section: Section) -> dict[str, Any]:
    """Return all settings as plain values, at any depth without those that are absent at their
    default.
    """
    values = section.model_dump()
    for name in type(section).model_fields:
        value = getattr(section, name)
        if _is_absent(section, name):
            del values[name]
        elif isinstance(value, Section):
            values[name] = _dump(value)
        elif isinstance(value, list) and any(isinstance(entry, Section) for entry in value):
            values[name] = [_dump(entry) for entry in value]
    return values


def _holds_section(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return True
    return any(_holds_section(argument) for argument in get_args(annotation))
