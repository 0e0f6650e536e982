"""Recipes: strict loading with errors that name file, line, key and what is allowed."""

from pathlib import Path

import pytest
import yaml

from dpo_video.errors import UserError
from dpo_video.names import shipped_folder, shipped_names
from dpo_video.recipe import Recipe
from dpo_video.recipe_file import dump_recipe, load_recipe

SMALL = """name: small
model: {name: some/model}
data:
  samples: train.jsonl
judge:
  model: judge
"""


def write(folder: Path, text: str) -> str:
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", shipped_names("recipes"))
def test_every_shipped_recipe_loads_and_is_short(name: str) -> None:
    recipe = load_recipe(name)
    text = (shipped_folder("recipes") / f"{name}.yaml").read_text(encoding="utf-8")
    assert recipe.name == name
    assert len(text.splitlines()) <= 40
    assert f"dpo-video run {name}" in text, "the header shows the command"


def test_defaults_fill_what_a_recipe_leaves_out(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SMALL))
    assert recipe.train.beta == 0.1
    assert recipe.run_folder == Path("runs/small")


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SMALL), ["train.learning_rate=5e-7", "train.loss=[sigmoid, sft]", "seed=3"])
    assert (recipe.train.learning_rate, recipe.train.loss, recipe.seed) == (5e-7, ["sigmoid", "sft"], 3)


@pytest.mark.parametrize("text", ["5e-7", "1e3", "-2.5", "1.", ".5", "+3E+2"])
def test_numbers_read_as_yaml_1_2_floats(tmp_path: Path, text: str) -> None:
    recipe = load_recipe(write(tmp_path, SMALL), [f"train.trl.x={text}"])
    assert recipe.train.trl["x"] == float(text)
    assert isinstance(recipe.train.trl["x"], float)


@pytest.mark.parametrize(("extra", "message"), [
    ("trian:\n  beta: 1\n", "r.yaml:7: unknown key `trian`. Did you mean 'train'? Known keys: name, description, seed"),
    ("train:\n  lora:\n    rnak: 3\n", "r.yaml:9: unknown key `train.lora.rnak`. Did you mean 'rank'?"),
    ("pair: {rule: hond}\n", "r.yaml:7: `pair.rule` must be one of 'hound', 'best_worst', 'best_vs_sigma' or "
                             "'all_pairs', got 'hond'. Did you mean 'hound'?"),
    ("train:\n  epochs: two\n", "r.yaml:8: `train.epochs` must be a number, got 'two'"),
    ("train:\n  batch_size: '8'\n", "r.yaml:8: `train.batch_size` must be a integer, got '8'"),
    ("generate: {temperature: -1}\n", "r.yaml:7: `generate.temperature` must be greater than or equal to 0, got -1"),
    ("seed: 1\nseed: 2\n", "r.yaml:8: `seed` stands twice, first at"),
    ("pair: [\n", "not YAML"),
])
def test_a_wrong_recipe_names_file_line_and_remedy(tmp_path: Path, extra: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(write(tmp_path, SMALL + extra))
    assert message in str(error.value)


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(write(tmp_path, SMALL + "seeds: 1\npair: {rules: x}\n"), ["train.beta=-1"])
    assert len(str(error.value).splitlines()) == 3
    assert "override 'train.beta=-1': `train.beta` must be greater than 0, got -1" in str(error.value)


def test_a_missing_key_says_what_it_means(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing `judge.model`. Hub id, folder or `toy:judge` for `local`"):
        load_recipe(write(tmp_path, SMALL.replace("  model: judge\n", "  scorer: hound_quality\n")))


@pytest.mark.parametrize(("override", "message"), [
    ("--train.beta=1", "write it as section.key=value"),
    ("train.beta", "write it as section.key=value"),
    ("name.x=1", "`name` is not a section"),
])
def test_a_wrong_override_is_explained(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(write(tmp_path, SMALL), [override])
    assert message in str(error.value)


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown recipe 'quikstart'\. Did you mean 'quickstart'\?"):
        load_recipe("quikstart")
    with pytest.raises(UserError, match=r"no recipe file at 'gone.yaml'"):
        load_recipe("gone.yaml")


def test_a_dumped_recipe_loads_to_the_same_settings(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart")
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


def test_every_setting_says_what_it_means() -> None:
    undocumented = []

    def walk(model: type, prefix: str) -> None:
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            if hasattr(field.annotation, "model_fields"):
                walk(field.annotation, f"{prefix}{name}.")
            elif not field.description:
                undocumented.append(prefix + name)

    walk(Recipe, "")
    assert undocumented == []


def test_shipped_recipes_are_plain_data() -> None:
    for name in shipped_names("recipes"):
        yaml.safe_load((shipped_folder("recipes") / f"{name}.yaml").read_text(encoding="utf-8"))
