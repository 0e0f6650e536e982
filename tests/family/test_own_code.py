"""Systems in their authors' own code: stand-ins with the published signatures, in a folder with
their code as repositories publish them, through the checks of every family and a training run.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from clips import write_clip
from peft import get_peft_model_state_dict
from slow_dpo import slow_dpo
from stand_ins.checkpoints import STAND_INS
from tiny_models import write_tiny
from tiny_world import FRAMES, made_trainer, make_pairs, make_recipe
from typer.testing import CliRunner

from dpo_video.cli.app import app
from dpo_video.core.errors import UserError
from dpo_video.family.run import CHECKS, Check, check_name
from dpo_video.family.subject import Subject
from dpo_video.models.hub import (
    OWN_CODE_ROWS,
    SUCCESSORS,
    build_model,
    load_config,
    model_spec,
    own_code_rows,
)
from dpo_video.models.memory import count_parameters
from dpo_video.recipe import ModelSettings
from dpo_video.train.shared_prefix import shared_prefix_engine

OWN_PART = {"qwen": "visual"}
"""What of a model is in the checkpoint's own code, where that is a part of it."""
CONTEXT = {"qwen": 2048}
DOCUMENT = Path(__file__).parents[2] / "docs" / "families.md"


@pytest.fixture(scope="module", params=sorted(STAND_INS))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the checkpoint `model` and clips."""
    folder = tmp_path_factory.mktemp(request.param)
    write_tiny(STAND_INS[request.param], folder / "model")
    ask_for_flash_attention(folder / "model")
    for number, frames in enumerate(FRAMES):
        write_clip(folder / f"c{number}.mp4", frames, rate=2)
    return folder


def ask_for_flash_attention(folder: Path) -> None:
    """Write into a checkpoint's config what published ones of a language model's part have."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if "llm_config" in config:
        config["llm_config"]["attn_implementation"] = "flash_attention_2"
        path.write_text(json.dumps(config))


def settings_of(world: Path, **more: Any) -> ModelSettings:
    return ModelSettings(name=str(world / "model"), device="cpu", trust_remote_code=True, **more)


@pytest.fixture(scope="module")
def subject(world: Path) -> Subject:
    return Subject(settings=settings_of(world))


def test_every_row_has_a_stand_in_and_stands_in_list_and_documents() -> None:
    """The documents' table is written anew with `scripts/families_table.py --own-code`."""
    with_one = {OWN_CODE_ROWS[name.partition("-")[0]] for name in STAND_INS}
    assert with_one == set(OWN_CODE_ROWS.values())
    listed = CliRunner().invoke(app, ["list", "families"], catch_exceptions=False).output
    document = DOCUMENT.read_text(encoding="utf-8")
    rows = own_code_rows()
    assert len(rows) == len(set(OWN_CODE_ROWS.values())), "two rows have one name"
    for name, row in rows.items():
        assert f"  {name:28} {row.title}: with model.trust_remote_code\n" in listed
        assert f"- `{name}`: " in document
    for name in STAND_INS:
        assert f"| `{name}` | " in document


@pytest.mark.parametrize("check", CHECKS, ids=check_name)
def test_family(subject: Subject, check: Check, tmp_path: Path) -> None:
    own = subject.plain.bare.get_submodule(OWN_PART.get(subject.family.name, ""))
    assert type(own).__module__.startswith("transformers_modules."), (
        "the code that ran was not the checkpoint's"
    )
    check(subject, tmp_path)


def test_a_row_says_whether_its_layers_have_the_published_names(
    request: pytest.FixtureRequest, world: Path, subject: Subject
) -> None:
    published, _ = STAND_INS[request.node.callspec.params["world"]]()
    names = {name for name, _ in published.named_modules()}
    assert subject.family.own_names(subject.plain.bare.config) == (
        not subject.decoder_linears <= names
    )


def test_losses_and_adapter_equal_plain_dpo_through_the_models_own_forward(world: Path) -> None:
    """6 steps, batches of 2 pairs of different clips, questions and lengths."""
    recipe = make_recipe(world)
    recipe = recipe.model_copy(update={"model": settings_of(world)})
    pairs = make_pairs(7)
    with made_trainer(world, recipe, pairs, engine=shared_prefix_engine) as (trainer, _):
        trainer.train()
        weights = get_peft_model_state_dict(trainer.model)
        log = [row for row in trainer.state.log_history if "loss" in row]
    slow_log, slow_weights = slow_dpo(world, recipe, pairs)
    assert len(log) == len(slow_log) == 6
    for row, slow in zip(log, slow_log, strict=True):
        assert row["loss"] == pytest.approx(slow["loss"], abs=1e-4)
        assert row["rewards/margins"] == pytest.approx(slow["rewards/margins"], abs=1e-4)
    assert max(abs(row["rewards/margins"]) for row in log) > 1e-2, "nothing was learnt"
    for name, weight in weights.items():
        torch.testing.assert_close(weight, slow_weights[name], atol=1e-4, rtol=1e-3)


def test_without_trust_it_is_refused_and_its_row_is_not_even_read(world: Path) -> None:
    code = (
        "import sys; from dpo_video.core.errors import UserError\n"
        "from dpo_video.models.hub import load_config\n"
        "from dpo_video.recipe import ModelSettings\n"
        f"try: load_config(ModelSettings(name={str(world / 'model')!r}))\n"
        "except UserError as error: print(error)\n"
        "print([name for name in sys.modules if 'own_code' in name or 'transformers_mod' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, refusal, modules = done.stdout.splitlines()
    assert "own code runs only with model.trust_remote_code=true" in refusal
    kind = json.loads((world / "model" / "config.json").read_text())["model_type"]
    assert f"The nearest family of transformers is {SUCCESSORS[kind][1]!r}" in refusal
    assert modules == "[]"


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_another_repository_which_no_revision_pins_is_refused(
    tmp_path: Path, file: str
) -> None:
    """transformers reads it at its newest commit, whatever `model.revision` says."""
    path = write_tiny(STAND_INS["internvl_chat"], tmp_path / "model") / file
    fields = json.loads(path.read_text())
    fields["auto_map"] = {"AutoModel": ["owner/other--modeling_other.Other", None]}
    path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=f"{file} .* code of 'owner/other' at its newest commit"):
        load_config(settings_of(tmp_path))


def test_check_plans_from_the_checkpoint_without_its_weights(world: Path, subject: Subject) -> None:
    spec = model_spec(settings_of(world))
    bare = subject.plain.bare
    assert count_parameters(spec).total == sum(weight.numel() for weight in bare.parameters())
    with torch.device("meta"):
        assert type(build_model(spec)).__name__ == type(bare).__name__
    assert spec.family.context_length(spec.config) == CONTEXT.get(spec.family.name, 4096)
