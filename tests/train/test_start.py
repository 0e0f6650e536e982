"""Training goes on from an adapter, and its reference really is the one that was asked for."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from plain_forwards import plain_answer_logp
from safetensors.torch import load_file, save_file
from tiny_world import adapter_weights, made_trainer, make_pairs, make_recipe, open_run
from training import train_here

from dpo_video.core.errors import UserError
from dpo_video.core.records import Pair
from dpo_video.models.adapter import add_reference, as_reference
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import adapter_parameters, lora_config, lora_targets
from dpo_video.models.start import check_start
from dpo_video.pipeline import do_stages
from dpo_video.recipe import Recipe
from dpo_video.recipe.affects import key_settings
from dpo_video.recipe.file import change_recipe
from dpo_video.stages import fingerprint
from dpo_video.store import RunStore
from dpo_video.train.trainer import VideoDPOTrainer

PAIRS = make_pairs(4)
ONE_STEP = {"batch_size": 4, "gradient_accumulation": 1, "epochs": 1, "max_steps": 1}


@pytest.fixture(scope="module")
def start(qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_adapter(qwen, tmp_path_factory.mktemp("start") / "adapter", seed=1)


def draw_adapter(world: Path, folder: Path, *, seed: int, rank: int = 8) -> Path:
    """Write an adapter that changes what the model says."""
    recipe = change_recipe(make_recipe(world), [f"train.lora.rank={rank}"])
    model = get_peft_model(load_policy(recipe.model).bare, lora_config(recipe.train.lora))
    torch.manual_seed(seed)
    for name, parameter in adapter_parameters(model):
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


def started(world: Path, start: Path, *overrides: str, **train: Any) -> Recipe:
    recipe = make_recipe(world, **{**ONE_STEP, **train})
    return change_recipe(recipe, [f"model.adapter={start}", *overrides])


def plain_logp(policy: Policy, recipe: Recipe, world: Path, pair: Pair, answer: str) -> float:
    """Return log p(answer | clip, question) in nats from one plain forward through pixels."""
    video = world / str(pair.video)
    return plain_answer_logp(
        policy, recipe, video, question=pair.prompt, answer=answer, is_cut=False
    )


def plain_margin(recipe: Recipe, world: Path, *, reference: Path | None) -> float:
    """Return the mean DPO margin of the policy that training starts from, by plain forwards."""
    policy = load_policy(recipe.model, adapter=recipe.start_adapter)
    base = load_policy(recipe.model, adapter=reference)
    margins = []
    for pair in PAIRS:
        chosen, rejected = (
            plain_logp(policy, recipe, world, pair, answer)
            - plain_logp(base, recipe, world, pair, answer)
            for answer in (pair.chosen, pair.rejected)
        )
        margins.append(recipe.train.beta * (chosen - rejected))
    return sum(margins) / len(margins)


def test_the_first_margin_is_that_of_plain_forwards_whatever_the_reference(
    qwen: Path, start: Path, tmp_path: Path
) -> None:
    """TRL given a model with an adapter copies it into a frozen reference: here it is asked for."""
    other = draw_adapter(qwen, tmp_path / "other", seed=2)
    for index, (reference, folder) in enumerate(
        [("start", start), ("base", None), (str(other), other)]
    ):
        recipe = started(qwen, start, f"train.reference={reference}", f"name=first{index}")
        margin = train_here(recipe, qwen, PAIRS)[0]["first"]["rewards/margins"]
        expected = plain_margin(recipe, qwen, reference=folder)
        assert margin == pytest.approx(expected, abs=1e-5)
        assert (margin == 0.0) == (reference == "start")


def test_training_goes_on_from_the_weights_of_the_adapter(qwen: Path, start: Path) -> None:
    """At a learning rate of nearly nothing they stay what they were."""
    recipe = started(qwen, start, "name=still", learning_rate=1e-30)
    train_here(recipe, qwen, PAIRS)
    begun, trained = (
        load_file(start / "adapter_model.safetensors"),
        adapter_weights(recipe.run_folder / "adapter"),
    )
    assert begun.keys() == trained.keys()
    assert all(torch.equal(begun[name], trained[name]) for name in begun)


def test_a_policy_that_is_not_the_one_to_start_from_stops_before_the_first_step(
    qwen: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that were not taken up leave the model itself, whose margin against it is 0."""
    monkeypatch.setattr("dpo_video.train.trainer.load_weights", lambda model, adapter: None)
    for reference in ("base", "start"):
        recipe = started(qwen, start, f"train.reference={reference}", f"name=lost_{reference}")
        with pytest.raises(RuntimeError, match="another model than it is taken for"):
            train_here(recipe, qwen, PAIRS)
        assert not (recipe.run_folder / "adapter").exists()


def test_the_reference_of_the_base_is_stored_once_for_every_adapter_on_it(
    qwen: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    original = VideoDPOTrainer.compute_reference

    def counted(self: VideoDPOTrainer, *args: Any, **kwargs: Any) -> Any:
        computed.append(len(computed))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(VideoDPOTrainer, "compute_reference", counted)
    plain = change_recipe(make_recipe(qwen, **ONE_STEP), ["name=shared"])
    train_here(plain, qwen, PAIRS)
    assert len(computed) == 1
    train_here(started(qwen, start, "name=shared", "train.reference=base"), qwen, PAIRS)
    assert len(computed) == 2, "what the policy itself must say in its first step, and no reference"
    train_here(started(qwen, start, "name=shared"), qwen, PAIRS)
    assert len(computed) == 3, "the reference is another one"


def test_a_policy_answers_as_its_reference_and_as_itself_again(
    qwen: Path, start: Path, tmp_path: Path
) -> None:
    recipe, other = make_recipe(qwen), draw_adapter(qwen, tmp_path / "other", seed=2)
    policy = load_policy(recipe.model, adapter=other, reference=start)
    alone = {
        folder: plain_logp(
            load_policy(recipe.model, adapter=folder), recipe, qwen, PAIRS[0], PAIRS[0].chosen
        )
        for folder in (start, other)
    }
    assert isinstance(policy.model, PeftModel)
    for _ in range(2):
        with as_reference(policy.model):
            assert plain_logp(policy, recipe, qwen, PAIRS[0], PAIRS[0].chosen) == alone[start]
        assert plain_logp(policy, recipe, qwen, PAIRS[0], PAIRS[0].chosen) == alone[other]
    assert not any(parameter.requires_grad for parameter in policy.model.parameters())


def test_adding_a_reference_leaves_the_generators_where_they_were(qwen: Path, start: Path) -> None:
    """Else a training that was killed would draw another dropout than one that was not."""
    model = load_policy(make_recipe(qwen).model, adapter=start).model
    assert isinstance(model, PeftModel)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    add_reference(model, start)
    assert torch.equal(torch.rand(3), expected)


def test_the_same_adapter_in_another_folder_redoes_nothing(
    qwen: Path, start: Path, tmp_path: Path
) -> None:
    """It stands in keys by its contents; runs without one keep the keys that they had."""
    plain, recipe = make_recipe(qwen), started(qwen, start)
    assert key_settings(recipe.model) == key_settings(plain.model)
    moved = started(qwen, shutil.copytree(start, tmp_path / "moved"))
    other = started(qwen, draw_adapter(qwen, tmp_path / "other", seed=2))
    against = started(qwen, start, "train.reference=base")
    prints = [fingerprints(settings, qwen) for settings in (recipe, moved, other, against, plain)]
    assert prints[0] == prints[1]
    assert not set(prints[0]) & set(prints[2]) and not set(prints[0]) & set(prints[4])
    assert [mine == theirs for mine, theirs in zip(prints[0], prints[3], strict=True)] == [
        True,
        False,
        False,
    ], "another reference is no other candidate"


def fingerprints(recipe: Recipe, world: Path) -> list[str]:
    with opened(recipe, world) as run:
        (run.folder / "adapter").mkdir(exist_ok=True)
        return [fingerprint(run, name) for name in ("generate", "train", "evaluate")]


@contextmanager
def opened(recipe: Recipe, world: Path) -> Iterator[Any]:
    with RunStore(recipe.run_folder) as store:
        yield open_run(recipe, store, world, PAIRS)


def changed(start: Path, folder: Path, **config: Any) -> Path:
    """Copy an adapter with other entries in its configuration."""
    shutil.copytree(start, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


def test_an_adapter_that_training_cannot_go_on_from_is_refused_in_one_line(
    qwen: Path, start: Path, tmp_path: Path
) -> None:
    halved = changed(start, tmp_path / "halved")
    weights = load_file(halved / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[::2]), halved / "adapter_model.safetensors")
    wrong = {
        r"rank 4, and train\.lora\.rank is 8.*Set train\.lora\.rank=4": draw_adapter(
            qwen, tmp_path / "rank", seed=1, rank=4
        ),
        r"alpha 16, and train\.lora\.alpha is 8": changed(start, tmp_path / "a", lora_alpha=16),
        r"no plain LoRA \(LORA, {'use_dora': True}\)": changed(
            start, tmp_path / "dora", use_dora=True
        ),
        r"does not fit: .*'language'.*missing there": halved,
        r"no adapter at": tmp_path / "nowhere",
    }
    for told, folder in wrong.items():
        with pytest.raises(UserError, match=told) as error:
            check_start(started(qwen, folder))
        assert "\n" not in str(error.value)
    check_start(started(qwen, start))
    with opened(started(qwen, wrong["no adapter at"]), qwen) as run, pytest.raises(UserError):
        do_stages(run, ["generate", "train"])


def test_a_reference_that_sees_clips_in_another_way_needs_a_policy_that_may(
    qwen: Path, start: Path, tmp_path: Path
) -> None:
    """With `train.tune` language alone the features of a clip are made once, for both."""
    recipe = make_recipe(qwen)
    model, family = load_policy(recipe.model).bare, load_policy(recipe.model).family
    for part in ("projector", "vision"):
        targets = lora_targets(model, family, [part])
        tuned = get_peft_model(
            load_policy(recipe.model).bare, lora_config(recipe.train.lora, targets=targets)
        )
        tuned.save_pretrained(tmp_path / part)
        against = started(qwen, start, f"train.reference={tmp_path / part}")
        with pytest.raises(UserError, match=r"train\.reference .* tunes what makes") as error:
            check_start(against)
        assert "\n" not in str(error.value)
        all_tuned = make_recipe(qwen, reference=str(tmp_path / part), tune=["language", part])
        check_start(all_tuned)


def test_an_adapter_of_another_model_is_refused_and_one_of_a_copy_is_not(
    qwen: Path, start: Path, tmp_path: Path
) -> None:
    named = changed(start, tmp_path / "named", base_model_name_or_path="someone/other-7b")
    with pytest.raises(UserError, match=r"was trained on 'someone/other-7b', and model\.name is"):
        check_start(started(qwen, named, "model.name=someone/this-7b"))
    check_start(started(qwen, named))  # a folder: a download of it, for all that names can tell
    other = shutil.copytree(qwen / "model", tmp_path / "other")
    (other / "generation_config.json").write_text("{}")
    local = changed(start, tmp_path / "local", base_model_name_or_path=str(other))
    with pytest.raises(UserError, match="weights of one model mean nothing to another"):
        check_start(started(qwen, local))
    copy = shutil.copytree(qwen / "model", tmp_path / "copy")
    check_start(started(qwen, start, f"model.name={copy}"))


def test_a_trainer_without_an_adapter_to_start_from_is_as_it_was(qwen: Path) -> None:
    with made_trainer(qwen, make_recipe(qwen), PAIRS) as (trainer, _):
        zero = [weight for name, weight in adapter_parameters(trainer.model) if "lora_B" in name]
        assert zero and not any(weight.any() for weight in zero)
