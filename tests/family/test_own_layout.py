"""Systems in their authors' own layout, on parts of transformers: checkpoints under the published
names, held against stand-ins with the published calls.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from clips import write_clip
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from slow_dpo import slow_dpo
from stand_ins.calls import CALLS, PublishedCall, assert_logits_are_the_published_ones
from stand_ins.flat_checkpoints import STAND_INS
from tiny_world import FRAMES, made_trainer, make_pairs, make_recipe
from torch import nn
from typer.testing import CliRunner

from dpo_video.cli.app import app
from dpo_video.family.run import CHECKS, Check, check_name
from dpo_video.family.subject import (
    CLIPS,
    Subject,
    processor_outputs,
    with_adapter,
)
from dpo_video.models.families import hears_nothing
from dpo_video.models.hub import (
    OWN_LAYOUT_ROWS,
    build_model,
    model_spec,
    own_layout_rows,
)
from dpo_video.models.load import load_policy
from dpo_video.models.memory import count_parameters
from dpo_video.recipe import ModelSettings
from dpo_video.train.shared_prefix import shared_prefix_engine

SOUND_SECONDS = (2.0, 0.0, 5.0)
"""Of the clips c0.mp4, c1.mp4, c2.mp4."""
DOCUMENT = Path(__file__).parents[2] / "docs" / "families.md"


@dataclass(frozen=True, kw_only=True)
class World:
    """A folder with the checkpoint `model` and clips, and the stand-in that was written there."""

    folder: Path
    write: Callable[..., nn.Module]
    system: PublishedCall
    published: nn.Module


@pytest.fixture(scope="module", params=sorted(STAND_INS))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp(request.param)
    published = STAND_INS[request.param](folder / "model")
    for number, frames in enumerate(FRAMES):
        write_clip(folder / f"c{number}.mp4", frames, rate=2, sound=SOUND_SECONDS[number])
    return World(
        folder=folder,
        write=STAND_INS[request.param],
        system=CALLS[request.param.partition("-")[0]],
        published=published,
    )


def settings_of(folder: Path, **more: Any) -> ModelSettings:
    return ModelSettings(name=str(folder / "model"), device="cpu", **more)


@pytest.fixture(scope="module")
def subject(world: World) -> Subject:
    return Subject(settings=settings_of(world.folder))


def test_every_row_has_a_stand_in_and_stands_in_list_and_documents() -> None:
    """The documents' table is written anew with `scripts/families_table.py --own-layout`."""
    with_one = {OWN_LAYOUT_ROWS[name.partition("-")[0]] for name in STAND_INS}
    assert with_one == set(OWN_LAYOUT_ROWS.values())
    listed = CliRunner().invoke(app, ["list", "families"], catch_exceptions=False).output
    document = DOCUMENT.read_text(encoding="utf-8")
    for name, row in own_layout_rows().items():
        hears = "; hears" * (row.hearing is not hears_nothing)
        assert f"  {name:28} {row.title}{hears}\n" in listed
        assert f"- `{name}`: " in document
    for name in STAND_INS:
        assert f"| `{name}` | " in document


@pytest.mark.parametrize("check", CHECKS, ids=check_name)
def test_family(subject: Subject, check: Check, tmp_path: Path) -> None:
    check(subject, tmp_path)


def test_logits_are_those_of_the_published_call(world: World, subject: Subject) -> None:
    assert_logits_are_the_published_ones(world.system, world.published, subject.plain)


def test_a_row_says_whether_its_layers_have_the_published_names(
    world: World, subject: Subject
) -> None:
    published = {name for name, _ in world.published.named_modules()}
    assert subject.family.own_names(subject.plain.bare.config) == (
        not subject.decoder_linears <= published
    )


def test_losses_and_adapter_equal_plain_dpo_through_the_published_call(world: World) -> None:
    """6 steps, batches of 2 pairs of different clips, questions and lengths; a model that hears
    reads one clip silent and two with their sound.
    """
    recipe = make_recipe(world.folder)
    recipe = recipe.model_copy(update={"model": settings_of(world.folder)})
    pairs = make_pairs(7)
    with made_trainer(world.folder, recipe, pairs, engine=shared_prefix_engine) as (trainer, _):
        trainer.train()
        weights = get_peft_model_state_dict(trainer.model)
        log = [row for row in trainer.state.log_history if "loss" in row]
    policy = load_policy(recipe.model)
    family = replace(
        policy.family,
        lora_targets=world.system.lora_targets,
        stock_logits=lambda model, inputs: world.system.logits(model, inputs, policy),
    )
    published = world.write(world.folder / "model").requires_grad_(False)
    slow_log, slow_weights = slow_dpo(
        world.folder, recipe, pairs, policy=replace(policy, model=published, family=family)
    )
    assert len(log) == len(slow_log) == 6
    for row, slow in zip(log, slow_log, strict=True):
        assert row["loss"] == pytest.approx(slow["loss"], abs=1e-4)
        assert row["rewards/margins"] == pytest.approx(slow["rewards/margins"], abs=1e-4)
    assert max(abs(row["rewards/margins"]) for row in log) > 1e-2, "nothing was learnt"
    assert len(weights) == len(slow_weights)
    for name, weight in weights.items():
        slow_weight = slow_weights[name.replace(".language_model.", world.system.language)]
        torch.testing.assert_close(weight, slow_weight, atol=1e-4, rtol=1e-3)


def test_a_merged_checkpoint_is_laid_out_as_published(
    world: World, subject: Subject, tmp_path: Path
) -> None:
    """The published class takes its weights as they are, and answers as the tuned model does."""
    tuned = with_adapter(load_policy(subject.settings))
    clip = CLIPS[0]
    inputs = processor_outputs(subject.plain, clip, clip.answers[0])
    with torch.no_grad():
        wanted = subject.family.stock_logits(tuned.bare, inputs)
    tuned.model.merge_and_unload(safe_merge=True).save_pretrained(tmp_path)  # type: ignore[operator,union-attr]
    published = world.write(tmp_path / "other")
    published.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        ours = world.system.logits(published, inputs, subject.plain)
    torch.testing.assert_close(ours, wanted, atol=1e-3, rtol=1e-3)
    before = json.loads((world.folder / "model" / "config.json").read_text())
    after = json.loads((tmp_path / "config.json").read_text())
    if "text_config" in before:  # sections of transformers' own, which it completes
        for section in [name for name in before if name.endswith("_config")]:
            assert before.pop(section).items() <= after[section].items()
        before["dtype"] = "float32"
    else:
        before["torch_dtype"] = "float32"
    assert {name: after[name] for name in before} == before


def test_a_stretched_context_is_written_and_read(world: World, tmp_path: Path) -> None:
    policy = load_policy(settings_of(world.folder, rope_factor=2.0))
    policy.bare.save_pretrained(tmp_path / "model")
    policy.processor.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    if "text_config" not in config:  # by the name that the published code reads
        assert config["rope_scaling"] == {"type": "linear", "factor": 2.0}
    again = load_policy(settings_of(tmp_path))
    assert again.family.context_length(again.bare.config) == 2 * world.system.context
    inputs = processor_outputs(policy, CLIPS[0], CLIPS[0].answers[0])
    with torch.no_grad():
        wanted = policy.family.stock_logits(policy.bare, inputs)
        written = again.family.stock_logits(again.bare, inputs)
        plain = load_policy(settings_of(world.folder))
        unstretched = plain.family.stock_logits(plain.bare, inputs)
    torch.testing.assert_close(written, wanted, atol=1e-6, rtol=0)
    assert float((unstretched - wanted).abs().max()) > 1e-3


def test_no_code_of_a_repository_runs_and_other_checkpoints_do_not_read_the_row(
    world: World,
) -> None:
    code = (
        "import sys\nfrom dpo_video.models.load import load_policy\n"
        "from dpo_video.recipe import ModelSettings\n"
        "for name in ('toy:llava_next_video', {name!r}):\n"
        "    load_policy(ModelSettings(name=name, device='cpu'))\n"
        "    print([x for x in sys.modules if 'own_code.' in x or 'transformers_modules' in x])"
    ).replace("{name!r}", repr(str(world.folder / "model")))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    other, own = done.stdout.splitlines()[-2:]
    assert other == "[]"
    assert "transformers_modules" not in own
    assert "dpo_video.models.families.own_code." in own


def test_check_plans_from_the_checkpoint_without_its_weights(
    world: World, subject: Subject
) -> None:
    spec = model_spec(settings_of(world.folder))
    bare = subject.plain.bare
    assert count_parameters(spec).total == sum(weight.numel() for weight in bare.parameters())
    with torch.device("meta"):
        assert type(build_model(spec)).__name__ == type(world.published).__name__
    assert spec.family.context_length(spec.config) == world.system.context
