"""Read a recipe: YAML and overrides into settings; every error names file, line, key and what is
allowed.
"""

from collections.abc import Sequence
from typing import Any

import yaml

from dpo_video.core.errors import UserError
from dpo_video.core.names import find_yaml
from dpo_video.core.text import shortened, without_secrets
from dpo_video.core.yaml_file import Location, Yaml, read, read_value, validate
from dpo_video.recipe import JudgeSettings, Recipe, VideoSettings
from dpo_video.recipe.presets import PRESETS

MAPPING = "a recipe is a mapping of sections; see the shipped ones with `dpo-video list`"


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the settings of a shipped recipe or a .yaml path, with `section.key=value` overrides
    on top.

    All problems of a recipe are reported together, one line each, in one UserError.
    """
    return _with_overrides(read(find_yaml("recipes", name), expected=MAPPING), overrides)


def change_recipe(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return a recipe with `section.key=value` overrides on top."""
    return _with_overrides(Yaml(recipe.model_dump(), recipe.name), overrides)


def _with_overrides(settings: Yaml, overrides: Sequence[str]) -> Recipe:
    for text in _preset_first(overrides):
        _override(settings, text)
    return validate(Recipe, settings)


def load_video_settings(overrides: Sequence[str]) -> VideoSettings:
    """Return the `video` section that overrides alone make, its defaults elsewhere."""
    return validate(VideoSettings, _section_alone("video", overrides), at=("video",))


def load_judge_settings(overrides: Sequence[str]) -> JudgeSettings:
    """Return the `judge` section that overrides alone make, its defaults elsewhere."""
    return validate(JudgeSettings, _section_alone("judge", overrides), at=("judge",))


def _section_alone(name: str, overrides: Sequence[str]) -> Yaml:
    settings = Yaml({name: {}}, "command line")
    for text in _preset_first(overrides):
        _override(settings, text)
    other_sections = [key for key in settings.values if key != name]
    if other_sections:
        raise UserError(
            f"override of `{other_sections[0]}`: without a recipe only `{name}.` settings can be "
            "given"
        )
    return Yaml(settings.values[name], settings.path, settings.origins)


def _preset_first(overrides: Sequence[str]) -> list[str]:
    """Return overrides with a frame preset before the single settings that go on top of it."""
    return sorted(overrides, key=lambda text: not text.startswith("video.preset="))


def dump_recipe(recipe: Recipe) -> str:
    """Return all settings as YAML, in declared order."""
    return yaml.safe_dump(recipe.model_dump(), sort_keys=False, width=100)


def _override(settings: Yaml, text: str) -> None:
    """Put the value of an override in its place among settings."""
    key, equals, value = text.partition("=")
    if not equals or not key or key.startswith("-"):
        raise UserError(
            f"override {shortened(repr(text))}: write it as section.key=value, e.g. "
            "train.learning_rate=1e-5"
        )
    origin = without_secrets(f"override {shortened(repr(text))}")
    location: Location = tuple(key.split("."))
    section = _section(settings, location, origin)
    section[location[-1]] = read_value(value, origin)
    if location == ("video", "preset") and section["preset"] in PRESETS:
        for replaced in PRESETS[section["preset"]].video:  # it beats what the recipe file says
            section.pop(replaced, None)
    settings.origins[location] = origin


def _section(settings: Yaml, location: Location, origin: str) -> dict[str, Any]:
    """Return the section that holds a key, made where the file does not have it."""
    section = settings.values
    for depth, name in enumerate(location[:-1], start=1):
        if name not in section:
            settings.origins[location[:depth]] = origin
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise UserError(f"{origin}: `{'.'.join(location[:depth])}` is not a section")
    return section
