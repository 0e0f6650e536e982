"""Recipes: strict loading with errors that name file, line, key and what is allowed."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from dpo_video.core.errors import UserError
from dpo_video.core.field_docs import field_meaning
from dpo_video.core.names import shipped_folder, shipped_names
from dpo_video.recipe import Recipe
from dpo_video.recipe.file import change_recipe, dump_recipe, load_recipe

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
    recipe = load_recipe(
        write(tmp_path, SMALL), ["train.learning_rate=5e-7", "train.loss=[sigmoid, sft]", "seed=3"]
    )
    assert (recipe.train.learning_rate, recipe.train.loss, recipe.seed) == (
        5e-7,
        ["sigmoid", "sft"],
        3,
    )


@pytest.mark.parametrize("text", ["5e-7", "1e3", "-2.5", "1.", ".5", "+3E+2"])
def test_numbers_read_as_yaml_1_2_floats(tmp_path: Path, text: str) -> None:
    recipe = load_recipe(write(tmp_path, SMALL), [f"train.trl.x={text}"])
    assert recipe.train.trl["x"] == float(text)
    assert isinstance(recipe.train.trl["x"], float)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            "trian:\n  beta: 1\n",
            "r.yaml:7: unknown key `trian`. Did you mean 'train'? Known keys: name, description, "
            "seed",
        ),
        (
            "train:\n  lora:\n    rnak: 3\n",
            "r.yaml:9: unknown key `train.lora.rnak`. Did you mean 'rank'?",
        ),
        (
            "pair: {rule: hond}\n",
            "r.yaml:7: `pair.rule` must be one of 'hound', 'best_worst', 'best_vs_sigma', "
            "'all_pairs' or 'across', got 'hond'. Did you mean 'hound'?",
        ),
        ("train:\n  epochs: two\n", "r.yaml:8: `train.epochs` must be a number, got 'two'"),
        ("train:\n  batch_size: '8'\n", "r.yaml:8: `train.batch_size` must be an integer, got '8'"),
        (
            "generate: {temperature: -1}\n",
            "r.yaml:7: `generate.temperature` must be greater than or equal to 0, got -1",
        ),
        ("seed: 1\nseed: 2\n", "r.yaml:8: `seed` stands twice, first at"),
        ("pair: [\n", "not YAML"),
        (
            "train:\n",
            "r.yaml:7: `train` must be a section of keys, got nothing. Put keys under it, or leave "
            "it out",
        ),
        (
            "train: {lora: 8}\n",
            "r.yaml:7: `train.lora` must be a section of keys, got 8. Write its keys under it",
        ),
        (
            "train: {loss: ipo}\n",
            "r.yaml:7: `train.loss` must be a list, got 'ipo'. Write it in brackets: [ipo]",
        ),
        ("train: {loss: []}\n", "r.yaml:7: `train.loss` must have at least 1 item(s), got []"),
        ("train: {lr: 1}\n", "r.yaml:7: unknown key `train.lr`. Did you mean 'learning_rate'?"),
        (
            "train: {gradient_checkpointing: maybe}\n",
            "`train.gradient_checkpointing` must be a boolean, got 'maybe'; or "
            "must be one of 'auto', got 'maybe'.",
        ),
        (
            "generate:\n  mix: [{temprature: 1}]\n",
            "r.yaml:8: missing `generate.mix.0.num_candidates`. Answers per sample",
        ),
        (
            "generate:\n  mix: [{temprature: 1}]\n",
            "r.yaml:8: unknown key `generate.mix.0.temprature`. Did you mean 'temperature'?",
        ),
        (
            "generate: {base_url: 'http://x/v1'}\n",
            "r.yaml:7: `generate` is wrong: `base_url` names a server, but "
            "`engine` is local, which asks none",
        ),
        (
            "video: {policy: fps, min_frames: 9, max_frames: 3}\n",
            "r.yaml:7: `video` is wrong: `min_frames` is 9 and `max_frames` 3",
        ),
        ("seed: -1\n", "r.yaml:7: `seed` must be greater than or equal to 0, got -1"),
    ],
)
def test_a_wrong_recipe_names_file_line_and_remedy(
    tmp_path: Path, extra: str, message: str
) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(write(tmp_path, SMALL + extra))
    assert message in str(error.value)


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(write(tmp_path, SMALL + "seeds: 1\npair: {rules: x}\n"), ["train.beta=-1"])
    assert len(str(error.value).splitlines()) == 3
    assert "override 'train.beta=-1': `train.beta` must be greater than 0, got -1" in str(
        error.value
    )


def test_a_missing_key_says_what_it_means(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"missing `judge.model`. Hub id, folder or `toy:judge` for `local`"
    ):
        load_recipe(write(tmp_path, SMALL.replace("  model: judge\n", "  scorer: hound_quality\n")))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--train.beta=1", "write it as section.key=value"),
        ("train.beta", "write it as section.key=value"),
        ("name.x=1", "`name` is not a section"),
        ("foo.bar=1", "override 'foo.bar=1': unknown key `foo`."),
        ("name=..", "override 'name=..': `name` must be a folder inside `runs_folder`"),
        ("name=/x", "override 'name=/x': `name` must be a folder inside `runs_folder`"),
        ("judge.base_url=localhost:8000", "`judge.base_url` must begin with http:// or https://"),
        ("judge.base_url=[http://a, b]", "`judge.base_url` must begin with http:// or https://"),
        ("judge.base_url=3", "`judge.base_url` must be a string, got 3; or must be a list, got 3"),
        (
            "judge.jury=[{}, {modl: x}]",
            "`judge` is wrong: unknown key `jury[1].modl`. Did you mean 'model'?",
        ),
    ],
)
def test_a_wrong_override_is_explained(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(write(tmp_path, SMALL), [override])
    assert message in str(error.value)


def test_a_missing_section_says_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing `judge`\. It is a section; put `model` under it"):
        load_recipe(write(tmp_path, SMALL.replace("judge:\n  model: judge\n", "")))


def test_a_server_address_beside_a_local_judge_is_refused_and_not_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL + "  base_url: http://localhost:8000/v1\n")
    assert load_recipe(path).judge.backend == "openai"
    with pytest.raises(
        UserError, match=r"r\.yaml:5: `judge` is wrong: `base_url` names a server, but `backend` is"
    ):
        load_recipe(path, ["judge.backend=local"])
    first = load_recipe(path, ["judge.cascade={model: small, backend: local}"]).judge.first_judge()
    assert (first.backend, first.base_url) == ("local", None)


@pytest.mark.parametrize(
    "address",
    [
        "http://user:hunter2@host/v1",
        "http://user:hun/ter2@host/v1",
        "http://hunter2@host/v1",
        "https://host/v1?api_key=hunter2",
        "https://host/v1#hunter2",
    ],
)
@pytest.mark.parametrize("key", ["judge.base_url", "generate.base_url"])
def test_a_secret_in_a_server_address_is_refused_and_not_shown(
    tmp_path: Path, address: str, key: str
) -> None:
    path = write(tmp_path, SMALL)
    with pytest.raises(UserError, match="`api_key_env`") as caught:
        load_recipe(path, ["generate.engine=openai", f"{key}={address}"])
    assert "hun" not in str(caught.value) and "ter2" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        load_recipe(path, [f"{key}=[{address}, {address}]"])
    assert "hun" not in str(caught.value) and "ter2" not in str(caught.value)


def test_a_secret_in_the_address_of_one_judge_of_several_is_not_shown(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    with pytest.raises(UserError, match="`api_key_env`") as caught:
        load_recipe(path, ["judge.jury=[{}, {base_url: 'http://user:hunter2@host/v1'}]"])
    assert "hunter2" not in str(caught.value)


def test_a_home_folder_in_runs_folder_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (
        load_recipe(write(tmp_path, SMALL), ["runs_folder=~/runs"]).run_folder
        == tmp_path / "runs" / "small"
    )


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"unknown recipe 'quikstart'\. Did you mean 'quickstart'\?"
    ):
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
            elif not field_meaning(model, name):
                undocumented.append(prefix + name)

    walk(Recipe, "")
    assert undocumented == []


def test_shipped_recipes_are_plain_data() -> None:
    for name in shipped_names("recipes"):
        yaml.safe_load((shipped_folder("recipes") / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", shipped_names("recipes"))
def test_a_recipe_changed_afterwards_is_the_recipe_loaded_with_the_same_override(name: str) -> None:
    recipe = load_recipe(name)
    assert change_recipe(recipe, []) == recipe
    assert change_recipe(recipe, ["judge.max_tokens=7", "agree.precision=0.8"]) == load_recipe(
        name, ["judge.max_tokens=7", "agree.precision=0.8"]
    )
    with pytest.raises(
        UserError, match=r"unknown key `agree\.precison`\. Did you mean 'precision'\?"
    ):
        change_recipe(recipe, ["agree.precison=0.8"])


@pytest.mark.parametrize(
    ("sampler", "name", "message"),
    [
        ({"instruction": "{prompt} Hint: {caption}"}, "odd", "'odd' is privileged: it is shown {c"),
        ({"clip": "reverse"}, "odd", "'odd' sees its clips under `clip: reverse`"),
        ({"adapter": "elsewhere"}, "odd", "'odd' has a policy of its own"),
        ({}, "ood", "no sampler of generate.mix is called 'ood'. Did you mean"),
    ],
)
def test_a_sampler_that_evaluation_cannot_use_is_refused(sampler, name, message):
    recipe = load_recipe("quickstart").model_dump()
    recipe["generate"]["mix"] = [{"name": "odd", "num_candidates": 2, **sampler}]
    recipe["evaluate"]["pair_sampler"] = name
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(recipe)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "name", ["mdpo", "tpo", "temple", "opa_dpo", "avc_dpo", "iterative_dpo", "llava_hound_dpo"]
)
def test_a_recipe_after_a_paper_is_short_and_names_its_sources(name: str) -> None:
    lines = (shipped_folder("recipes") / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    header = [line for line in lines if line.startswith("#")]
    assert len(lines) <= 40
    assert any("ource" in line or "published" in line for line in header)
    assert any("Left out" in line for line in header)
