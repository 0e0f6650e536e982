"""InternVL in its authors' own code: prompts, frames and what is refused, on its stand-ins."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_ins.checkpoints import internvl_chat
from stand_ins.internvl_chat.conversation import get_conv_template
from tiny_models import write_tiny

from dpo_video.core.errors import UserError
from dpo_video.family.subject import CLIPS, noise_frames
from dpo_video.models.hub import load_config
from dpo_video.models.load import load_policy
from dpo_video.models.prompts import encode_prompt, video_inputs
from dpo_video.recipe import ModelSettings, VideoSettings


def change_config(folder: Path, *, llm_config: dict[str, Any], **more: Any) -> None:
    """Write fields into a checkpoint's config, as published ones have them."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "llm_config": config["llm_config"] | llm_config, **more}))


def settings_of(folder: Path, **more: Any) -> ModelSettings:
    return ModelSettings(name=str(folder / "model"), device="cpu", trust_remote_code=True, **more)


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


def test_internvls_frames_are_resized_and_normalized_as_published(tmp_path: Path) -> None:
    write_tiny(internvl_chat, tmp_path / "model")
    frames = noise_frames(3, height=56, width=56)
    made = video_inputs(load_policy(settings_of(tmp_path)), frames, VideoSettings()).pixels[
        "pixel_values"
    ]
    scaled = torch.from_numpy(frames.pixels).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    wanted = (scaled - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)


def test_internvl_on_a_language_model_of_its_repository_is_refused(tmp_path: Path) -> None:
    folder = write_tiny(internvl_chat, tmp_path / "model")
    change_config(folder, llm_config={"architectures": ["InternLM2ForCausalLM"]})
    with pytest.raises(UserError, match="its language model, InternLM2ForCausalLM, is code of its"):
        load_config(settings_of(tmp_path))
