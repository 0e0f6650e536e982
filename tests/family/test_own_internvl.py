"""InternVL in its authors' own code: prompts, frames and what is refused, on its stand-ins."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stand_ins.checkpoints import internvl_chat, internvl_internlm2, internvl_phi3
from stand_ins.internvl_chat.configuration_internvl_chat import InternVLChatConfig
from stand_ins.internvl_chat.conversation import get_conv_template
from stand_ins.internvl_chat.modeling_internvl_chat import InternVLChatModel
from tiny_models import write_tiny
from transformers import PreTrainedModel

from dpo_video.core.errors import UserError
from dpo_video.family.subject import CLIPS, noise_frames, processor_outputs
from dpo_video.models.hub import load_config
from dpo_video.models.load import load_policy
from dpo_video.models.prompts import encode_prompt, video_inputs
from dpo_video.recipe import ModelSettings, VideoSettings

Builder = Callable[[], tuple[PreTrainedModel, Any]]
NATIVE = pytest.mark.parametrize("build", [internvl_internlm2, internvl_phi3])


def change_config(folder: Path, *, llm_config: dict[str, Any], **more: Any) -> None:
    """Write fields into a checkpoint's config, as published ones have them."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "llm_config": config["llm_config"] | llm_config, **more}))


def settings_of(folder: Path, **more: Any) -> ModelSettings:
    return ModelSettings(name=str(folder / "model"), device="cpu", trust_remote_code=True, **more)


@pytest.mark.parametrize(
    ("build", "template", "end"),
    [
        (internvl_chat, "Hermes-2", "<|im_end|>"),
        (internvl_chat, "internvl2_5", "<|im_end|>"),
        (internvl_internlm2, "internlm2-chat", "<|im_end|>"),
        (internvl_phi3, "phi3-chat", "<|end|>"),
    ],
)
def test_internvls_prompt_is_its_repositorys_conversation(
    tmp_path: Path, build: Builder, template: str, end: str
) -> None:
    """Against the model card's way to write a clip into the repository's own conversation."""
    folder = write_tiny(build, tmp_path / "model")
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
    assert policy.end_id == policy.processor.tokenizer.convert_tokens_to_ids(end)


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
    change_config(folder, llm_config={"architectures": ["InternLM3ForCausalLM"]})
    with pytest.raises(UserError, match="its language model, InternLM3ForCausalLM, is code of its"):
        load_config(settings_of(tmp_path))


@NATIVE
@torch.no_grad()
def test_a_native_language_model_answers_as_the_repositorys_own_does(
    tmp_path: Path, build: Builder
) -> None:
    """The same weights in the stand-in's own layers, by its own forward with pixels."""
    folder = write_tiny(build, tmp_path / "model")
    policy = load_policy(settings_of(tmp_path))
    own = InternVLChatModel(InternVLChatConfig.from_pretrained(folder)).eval()
    own.load_state_dict(load_file(folder / "model.safetensors"))
    own.img_context_token_id = policy.bare.config.image_token_id
    assert type(policy.bare.language_model).__module__.startswith(("transformers.", "dpo_video."))
    inputs = processor_outputs(policy, CLIPS[0], CLIPS[0].answers[0])
    flags = torch.ones(len(inputs["pixel_values"]), 1)
    ours = policy.family.stock_logits(policy.bare, inputs)
    theirs = own(**inputs, image_flags=flags, return_dict=True).logits
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@NATIVE
def test_a_native_language_model_is_saved_as_it_was_published(
    tmp_path: Path, build: Builder
) -> None:
    folder = write_tiny(build, tmp_path / "model")
    load_policy(settings_of(tmp_path)).bare.save_pretrained(tmp_path / "saved")
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "saved"))
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    published, saved = (
        json.loads((path / "config.json").read_text())["llm_config"]
        for path in (folder, tmp_path / "saved")
    )
    assert saved == published and published["rope_scaling"]["type"] in ("dynamic", "su")


def test_rope_is_saved_by_the_names_that_earlier_transformers_read(tmp_path: Path) -> None:
    """On Qwen2: transformers 5 writes `rope_parameters` alone, which 4 does not know."""
    folder = write_tiny(internvl_chat, tmp_path / "model")
    rope = {"rope_theta": 1000000.0, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
    change_config(folder, llm_config={"rope_parameters": None, **rope})
    policy = load_policy(settings_of(tmp_path))
    policy.bare.save_pretrained(tmp_path / "saved" / "model")
    path = tmp_path / "saved" / "model" / "config.json"
    saved = json.loads(path.read_text())["llm_config"]
    assert saved["rope_theta"] == rope["rope_theta"]
    assert saved["rope_scaling"] == {"type": "dynamic", "rope_type": "dynamic", "factor": 2.0}
    policy.processor.save_pretrained(path.parent)
    again, _ = load_config(settings_of(tmp_path / "saved"))
    assert again.get_text_config().rope_parameters == (
        policy.bare.config.get_text_config().rope_parameters
    )


def test_a_stretched_internlm2_is_saved_with_its_stretch(tmp_path: Path) -> None:
    folder = write_tiny(internvl_internlm2, tmp_path / "model")
    change_config(folder, llm_config={"rope_scaling": None})
    load_policy(settings_of(tmp_path, rope_factor=2.0)).bare.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())["llm_config"]
    assert saved["rope_scaling"] == {"type": "linear", "factor": 2.0}
    assert saved["max_position_embeddings"] == 8192


def test_phi3s_context_ends_where_its_rotation_would_change_for_a_whole_batch(
    tmp_path: Path,
) -> None:
    folder = write_tiny(internvl_phi3, tmp_path / "model")
    config, family = load_config(settings_of(tmp_path))
    assert config.get_text_config().max_position_embeddings == 131072
    assert family.context_length(config) == 4096
    change_config(folder, llm_config={"rope_scaling": {"type": "yarn", "factor": 32.0}})
    with pytest.raises(UserError, match="Phi-3, is of type 'yarn'"):
        load_config(settings_of(tmp_path))
