"""VideoLLaMA 2 as its authors publish it: connectors, prompts, frames, and what is refused; its
audio branch has a file of its own.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_ins.calls import CALLS, assert_logits_are_the_published_ones
from stand_ins.flat_checkpoints import (
    AUDIO,
    MISTRAL_TEMPLATE,
    videollama2_mistral,
    videollama2_qwen2,
)
from stand_ins.videollama2.mm_utils import (
    VIDEO_TOKEN_INDEX,
    prompt,
    tokenizer_multimodal_token,
)
from torch import nn

from dpo_video.core.errors import UserError
from dpo_video.family.subject import CheckClip, noise_frames, processor_outputs
from dpo_video.models.families.own_code.videollama2 import SYSTEM
from dpo_video.models.hub import load_config
from dpo_video.models.load import load_policy
from dpo_video.models.prompts import video_inputs
from dpo_video.recipe import ModelSettings, VideoSettings

CLIP = CheckClip(
    count=4, height=56, width=56, seconds_apart=1.5, question="what happens ?", answers=()
)
WRITERS = {"mistral": videollama2_mistral, "qwen2": videollama2_qwen2}


def settings_of(folder: Path) -> ModelSettings:
    return ModelSettings(name=str(folder / "model"), device="cpu")


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("language", sorted(WRITERS))
@pytest.mark.parametrize("kind", ["stc_connector", "stc_connector_v35", "stp_connector"])
def test_connectors_are_the_published_ones(tmp_path: Path, language: str, kind: str) -> None:
    model = WRITERS[language](tmp_path / "model", mm_projector_type=kind)
    policy = load_policy(settings_of(tmp_path))
    assert_logits_are_the_published_ones(CALLS[f"videollama2_{language}"], model, policy)


@pytest.mark.parametrize(
    ("write", "system", "rows"),
    [
        (videollama2_mistral, SYSTEM, 3 * 3 * 3),  # a step more in time and on each side
        (videollama2_qwen2, "", 2 * 2 * 2),
    ],
)
def test_the_prompt_is_tokenized_as_published(
    tmp_path: Path, write: Callable[[Path], nn.Module], system: str, rows: int
) -> None:
    write(tmp_path / "model")
    policy = load_policy(settings_of(tmp_path))
    text = prompt(policy.processor.tokenizer, CLIP.question, system)
    wanted = tokenizer_multimodal_token(text, policy.processor.tokenizer)
    place = wanted.index(VIDEO_TOKEN_INDEX)
    wanted[place : place + 1] = [policy.family.placeholder(policy.bare.config)] * rows
    assert processor_outputs(policy, CLIP)["input_ids"][0].tolist() == wanted


def test_clip_sees_the_middle_of_a_frame_and_siglip_all_of_it(tmp_path: Path) -> None:
    frames = noise_frames(2, height=70, width=140)
    scaled = torch.from_numpy(frames.pixels).permute(0, 3, 1, 2) / 255
    videollama2_mistral(tmp_path / "clip" / "model")
    policy = load_policy(settings_of(tmp_path / "clip"))
    made = video_inputs(policy, frames, VideoSettings()).pixels["pixel_values_videos"][0]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    torch.testing.assert_close(made, (scaled[..., 35:105] - mean) / std, atol=1e-5, rtol=0)
    videollama2_qwen2(tmp_path / "siglip" / "model")
    policy = load_policy(settings_of(tmp_path / "siglip"))
    square = noise_frames(2, height=70, width=70)
    made = video_inputs(policy, square, VideoSettings()).pixels["pixel_values_videos"][0]
    wanted = torch.from_numpy(square.pixels).permute(0, 3, 1, 2) / 255 * 2 - 1
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mm_projector_type": "linear"}, "its mm_projector_type is 'linear', and must be"),
        ({"mm_vision_select_layer": -1}, "its mm_vision_select_layer is -1, and must be -2"),
        (
            {"mm_vision_select_feature": "cls_patch"},
            "is 'cls_patch', and must be absent or",
        ),
        ({"vision_config": {"model_type": "vit"}}, "is no CLIP or SigLIP"),
        (
            {**AUDIO, "mm_audio_tower": "openai/whisper-large-v3"},
            "its audio tower, 'openai/whisper-large-v3', is no file of BEATs (.bin, .pt,",
        ),
        (
            {**AUDIO, "audio_config": {"d_model": 384}},
            "its audio_config has 'd_model', which is no",
        ),
        (
            {**AUDIO, "mm_projector_a_type": "identity"},
            "its mm_projector_a_type is 'identity', and must be 'linear' or like 'mlp2x_gelu'",
        ),
        ({**AUDIO, "hidden_size_a": 4096}, "its hidden_size_a is 4096, and must be 128"),
        ({**AUDIO, "audio_config": None}, "its mm_hidden_size_a is 48, and must be 768"),
    ],
)
def test_a_checkpoint_that_the_row_does_not_hold_is_refused(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    videollama2_qwen2(tmp_path / "model")
    change_config(tmp_path, **fields)
    with pytest.raises(UserError) as caught:
        load_config(settings_of(tmp_path))
    assert message in str(caught.value)
    assert "the nearest family is 'video_llama_3'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tower", "layers", "side"),
    [
        ("/no/such/disk/siglip-so400m-patch14-384", 27, 384),  # as -7B-AV was trained
        ("google/siglip-so400m-patch14-384", 27, 384),
        ("model/clip-vit-large-patch14-336", 24, 336),
    ],
)
def test_a_tower_is_known_by_where_it_lay_on_another_machine(
    tmp_path: Path, tower: str, layers: int, side: int
) -> None:
    videollama2_qwen2(tmp_path / "model")
    change_config(tmp_path, mm_vision_tower=tower)
    sizes = load_config(settings_of(tmp_path))[0].vision_config
    assert (sizes.num_hidden_layers, sizes.image_size) == (layers, side)


def test_a_tower_in_a_folder_here_has_the_sizes_that_stand_there(tmp_path: Path) -> None:
    videollama2_qwen2(tmp_path / "model")
    here = tmp_path / "siglip-so400m-patch14-384"
    (tmp_path / "tiny-siglip").rename(here)
    change_config(tmp_path, mm_vision_tower=str(here))
    assert load_config(settings_of(tmp_path))[0].vision_config.num_hidden_layers == 3


def test_a_tower_that_is_nowhere_is_an_error(tmp_path: Path) -> None:
    videollama2_qwen2(tmp_path / "model")
    change_config(tmp_path, mm_vision_tower="/no/such/siglip")
    with pytest.raises(UserError, match=r"names the tower '/no/such/siglip', .*mm_vision_tower"):
        load_config(settings_of(tmp_path))


def test_without_timm_it_is_refused_with_what_to_install(tmp_path: Path) -> None:
    videollama2_qwen2(tmp_path / "model")
    code = (
        "import sys; sys.modules['timm'] = None\n"
        "from dpo_video.core.errors import UserError\n"
        "from dpo_video.models.hub import load_config\n"
        "from dpo_video.recipe import ModelSettings\n"
        f"try: load_config(ModelSettings(name={str(tmp_path / 'model')!r}))\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "its connector needs the package timm: pip install 'dpo-video[families]'" in done.stdout


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            MISTRAL_TEMPLATE.replace(
                "{{ message['content'] + ' ' }}", "{{ raise_exception('no system role') }}", 1
            ),
            "refuses the system message that VideoLLaMA 2's code puts before the turns: no system",
        ),
        (None, "has no chat template: use its instruction-tuned variant"),
    ],
)
def test_a_template_that_writes_no_system_message_is_refused(
    tmp_path: Path, template: str | None, message: str
) -> None:
    videollama2_mistral(tmp_path / "model")
    file = tmp_path / "model" / "chat_template.jinja"
    assert file.is_file()
    if template is None:
        file.unlink()
    else:
        file.write_text(template)
    with pytest.raises(UserError, match=message):
        load_policy(settings_of(tmp_path))
