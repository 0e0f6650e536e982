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
from stand_ins.checkpoints import internvl_chat
from stand_ins.internvl_chat.conversation import get_conv_template
from tiny_models import write_tiny
from tiny_world import FRAMES, made_trainer, make_pairs, make_recipe

from dpo_video.core.errors import UserError
from dpo_video.family.run import CHECKS, Check, check_name
from dpo_video.family.subject import CLIPS, Subject, noise_frames
from dpo_video.models.hub import OWN_CODE_ROWS, build_model, load_config, model_spec
from dpo_video.models.load import load_policy
from dpo_video.models.memory import count_parameters
from dpo_video.models.prompts import encode_prompt, video_inputs
from dpo_video.recipe import ModelSettings, VideoSettings
from dpo_video.train.shared_prefix import shared_prefix_engine

STAND_INS = {"internvl_chat": internvl_chat}


@pytest.fixture(scope="module", params=sorted(STAND_INS))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the checkpoint `model` and clips."""
    folder = tmp_path_factory.mktemp(request.param)
    write_tiny(STAND_INS[request.param], folder / "model")
    change_config(folder / "model", llm_config={"attn_implementation": "flash_attention_2"})
    for number, frames in enumerate(FRAMES):
        write_clip(folder / f"c{number}.mp4", frames, rate=2)
    return folder


def change_config(folder: Path, *, llm_config: dict[str, Any], **more: Any) -> None:
    """Write fields into a checkpoint's config, as published ones have them."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "llm_config": config["llm_config"] | llm_config, **more}))


def settings_of(world: Path, **more: Any) -> ModelSettings:
    return ModelSettings(name=str(world / "model"), device="cpu", trust_remote_code=True, **more)


@pytest.fixture(scope="module")
def subject(world: Path) -> Subject:
    return Subject(settings=settings_of(world))


def test_every_row_has_a_stand_in() -> None:
    assert set(STAND_INS) == set(OWN_CODE_ROWS)


@pytest.mark.parametrize("check", CHECKS, ids=check_name)
def test_family(subject: Subject, check: Check, tmp_path: Path) -> None:
    assert type(subject.plain.bare).__module__.startswith("transformers_modules."), (
        "the code that ran was not the checkpoint's"
    )
    check(subject, tmp_path)


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
        "print([name for name in sys.modules if 'own_code' in name or 'internvl_chat' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, refusal, modules = done.stdout.splitlines()
    assert "own code runs only with model.trust_remote_code=true" in refusal
    assert "The nearest that can be trained is 'internvl'" in refusal
    assert modules == "[]"


def test_check_plans_from_the_checkpoint_without_its_weights(world: Path, subject: Subject) -> None:
    spec = model_spec(settings_of(world))
    bare = subject.plain.bare
    assert count_parameters(spec).total == sum(weight.numel() for weight in bare.parameters())
    with torch.device("meta"):
        assert type(build_model(spec)).__name__ == type(bare).__name__
    assert spec.family.context_length(spec.config) == 4096


@pytest.mark.parametrize("template", ["Hermes-2", "internvl2_5"])
def test_internvls_prompt_is_its_repositorys_conversation(tmp_path: Path, template: str) -> None:
    """Against the model card's way to write a clip into the repository's own conversation."""
    folder = write_tiny(internvl_chat, tmp_path / "model")
    change_config(folder, llm_config={}, template=template)
    policy = load_policy(settings_of(tmp_path))
    frames = CLIPS[0].frames()
    marks = "".join(
        f"Frame{number + 1}: <img>{'<IMG_CONTEXT>' * 4}</img>\n"
        for number in range(len(frames.pixels))
    )
    conversation = get_conv_template(template)
    conversation.append_message(conversation.roles[0], f"{marks}what happens ?")
    conversation.append_message(conversation.roles[1], None)
    wanted = policy.processor.tokenizer(conversation.get_prompt())["input_ids"]
    clip = video_inputs(policy, frames, VideoSettings())
    assert encode_prompt(policy, "what happens ?", clip).input_ids.tolist() == wanted


def test_internvls_frames_are_resized_and_normalized_as_published(subject: Subject) -> None:
    frames = noise_frames(3, height=56, width=56)
    made = video_inputs(subject.plain, frames, VideoSettings()).pixels["pixel_values"]
    scaled = torch.from_numpy(frames.pixels).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    wanted = (scaled - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)


def test_internvl_on_a_language_model_of_its_repository_is_refused(tmp_path: Path) -> None:
    folder = write_tiny(internvl_chat, tmp_path / "model")
    change_config(folder, llm_config={"architectures": ["InternLM2ForCausalLM"]})
    with pytest.raises(UserError, match="its language model, InternLM2ForCausalLM, is code of its"):
        load_config(settings_of(tmp_path))
