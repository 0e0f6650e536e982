"""Read a recipe: YAML and overrides into settings; every error names file, line, key and what is
allowed.
"""

from collections.abc import Sequence
from typing import Any

import yaml

from dpo_video.core.errors import UserError
from dpo_video.core.names import find_yaml
from dpo_video.core.text import shortened, without_secrets
from dpo_video.core.validation_errors import Location
from dpo_video.core.yaml_file import Yaml, read_value, read_yaml, validate
from dpo_video.recipe import JudgeSettings, Recipe, VideoSettings
from dpo_video.recipe.presets import PRESETS

MAPPING = "a recipe is a mapping of sections; see the shipped ones with `dpo-video list`"


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the settings of a shipped recipe or a .yaml path, with `section.key=value` overrides
    on top.

    All problems of a recipe are reported together, one line each, in one UserError.
    """
    return _with_overrides(read_yaml(find_yaml("recipes", name), expected=MAPPING), overrides)


def change_recipe(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return a recipe with `section.key=value` overrides on top."""
    return _with_overrides(Yaml(recipe.model_dump(), recipe.name), overrides)


def settings_of_round(recipe: Recipe, number: int) -> Recipe:
    """Return a recipe with what `rounds.each` says of a round, counted from 1, on top."""
    if recipe.rounds is None or not recipe.rounds.each:
        return recipe
    settings = Yaml(recipe.model_dump(), f"`rounds.each` of round {number}")
    for key, value in recipe.rounds.each[number - 1].items():
        _put(settings, key, value, settings.path)
    return validate(Recipe, settings)


def _with_overrides(settings: Yaml, overrides: Sequence[str]) -> Recipe:
    for text in _preset_first(overrides):
        _override(settings, text)
    recipe = validate(Recipe, settings)
    num_rounds = 0 if recipe.rounds is None else len(recipe.rounds.each)
    for number in range(1, num_rounds + 1):
        settings_of_round(
            recipe, number
        )  # wrong settings of a later round are told before the first
    return recipe


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
    _put(settings, key, read_value(value, origin), origin)


def _put(settings: Yaml, key: str, value: Any, origin: str) -> None:
    location: Location = tuple(key.split("."))
    section = _section(settings, location, origin)
    section[location[-1]] = value
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
