"""Video-LLaMA: its prompt, its limits, and a checkpoint put together from the files that it is
published in.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from stand_ins.flat_checkpoints import video_llama
from torch import Tensor

from dpo_video.core.errors import UserError
from dpo_video.core.records import EarlierTurn
from dpo_video.family.subject import noise_frames
from dpo_video.models.families.own_code.video_llama_model import VideoLlamaConfig
from dpo_video.models.hub import load_config
from dpo_video.models.load import load_policy
from dpo_video.models.prompts import encode_prompt, video_inputs
from dpo_video.models.tokens import video_tokens
from dpo_video.recipe import ModelSettings, VideoSettings

SCRIPT = Path(__file__).parents[2] / "scripts" / "video_llama_checkpoint.py"
SYSTEM = (
    "You are able to understand the visual content that the user provides. Follow the "
    "instructions carefully and explain your answers in detail."
)


def settings_of(folder: Path) -> ModelSettings:
    return ModelSettings(name=str(folder / "model"), device="cpu")


def published_turns(turns: list[tuple[str, str | None]]) -> str:
    """Write turns as `Conversation.get_prompt` does in the style LLAMA_2."""
    text = ""
    for number, (question, answer) in enumerate(turns):
        system = f"<<SYS>>\n{SYSTEM}\n<</SYS>>\n\n" if number == 0 else ""
        text += ("<s>" if number else "") + f"[INST] {system}{question} [/INST]"
        text += f" {answer} </s>" if answer is not None else ""
    return text


@pytest.mark.parametrize("earlier", [(), (EarlierTurn(question="who ?", answer="a man"),)])
def test_the_prompt_is_the_published_conversation_cut_where_the_clip_goes(
    tmp_path: Path, earlier: tuple[EarlierTurn, ...]
) -> None:
    video_llama(tmp_path / "model")
    policy = load_policy(settings_of(tmp_path))
    turns = [(turn.question, turn.answer) for turn in earlier] + [("what happens ?", None)]
    times = "The video contains 3 frames sampled at 0.0, 1.5, 3.0 seconds. "
    turns[0] = (f"<Video><ImageHere></Video> {times}{turns[0][0]}", turns[0][1])
    before, behind = published_turns(turns).split("<ImageHere>")
    tokenizer = policy.processor.tokenizer
    wanted = [
        *tokenizer(before)["input_ids"],
        *[tokenizer.convert_tokens_to_ids("<unk>")] * 8,
        *tokenizer(behind, add_special_tokens=False)["input_ids"],
    ]
    clip = video_inputs(policy, noise_frames(3, seconds_apart=1.5), VideoSettings())
    prompt = encode_prompt(policy, "what happens ?", clip, history=earlier or None)
    assert prompt.input_ids.tolist() == wanted
    assert wanted[0] == tokenizer.bos_token_id


def test_frames_are_normalized_as_published(tmp_path: Path) -> None:
    video_llama(tmp_path / "model")
    frames = noise_frames(2, height=70, width=70)
    made = video_inputs(load_policy(settings_of(tmp_path)), frames, VideoSettings())
    scaled = torch.from_numpy(frames.pixels).permute(0, 3, 1, 2) / 255
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    pixels = made.pixels["pixel_values_videos"][0]
    torch.testing.assert_close(pixels, (scaled - mean) / std, atol=1e-5, rtol=0)


def test_more_frames_than_have_a_position_are_refused(tmp_path: Path) -> None:
    video_llama(tmp_path / "model", max_frame_pos=4)
    policy = load_policy(settings_of(tmp_path))
    error = "a clip has 5 frames, and this Video-LLaMA has positions for 4: lower video.num_frames"
    with pytest.raises(UserError, match=error):
        video_inputs(policy, noise_frames(5), VideoSettings())
    with pytest.raises(UserError, match=error):
        video_tokens(policy.spec, VideoSettings(), num_frames=5, height=70, width=70)


def test_a_vicuna_whose_answers_end_by_a_text_is_refused(tmp_path: Path) -> None:
    video_llama(tmp_path / "model", conversation="vicuna")
    with pytest.raises(UserError, match=r"its conversation is 'vicuna', where answers end by"):
        load_config(settings_of(tmp_path))


def test_weights_of_the_audio_branch_are_left_alone(tmp_path: Path) -> None:
    video_llama(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    plain = load_policy(settings_of(tmp_path)).bare.state_dict()
    save_file({**weights, "audio_query_tokens": torch.ones(1, 8, 64)}, file, {"format": "pt"})
    again = load_policy(settings_of(tmp_path)).bare.state_dict()
    assert again.keys() == plain.keys()
    assert all(torch.equal(again[name], weight) for name, weight in plain.items())


@pytest.mark.parametrize("name", ["Video-LLaMA-2-7B-Finetuned", "Video-LLaMA-Series"])
def test_the_published_repositories_of_parts_lead_to_the_script(name: str, tmp_path: Path) -> None:
    """By their ids, and where one was downloaded."""
    (tmp_path / "VL_LLaMA_2_7B_Finetuned.pth").touch()
    for there in (f"DAMO-NLP-SG/{name}", str(tmp_path)):
        with pytest.raises(UserError, match=r"no whole model: scripts/video_llama_checkpoint.py"):
            load_config(ModelSettings(name=there))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def published_files(folder: Path) -> dict[str, Path]:
    """Write a checkpoint's weights as they are published: four files, with some that it drops."""
    weights = load_file(folder / "model" / "model.safetensors")

    def under(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): weight.clone()
            for name, weight in weights.items()
            if name.startswith(prefix)
        }

    llama = folder / "llama"
    llama.mkdir()
    save_file(under("llama_model."), llama / "model.safetensors")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (llama / file).write_bytes((folder / "model" / file).read_bytes())
    tower = {**under("visual_encoder."), "norm.weight": torch.ones(64)}
    tower["blocks.3.norm1.weight"] = torch.ones(64)
    torch.save(tower, folder / "eva.pth")
    frames = ("Qformer.", "query_tokens", "ln_vision.")
    qformer = {name: weight for name, weight in weights.items() if name.startswith(frames)}
    torch.save({"model": {**qformer, "t5_proj.bias": torch.ones(8)}}, folder / "blip2.pth")
    learnt = {name: w for name, w in weights.items() if name.startswith(("video_", "llama_proj"))}
    torch.save({"model": learnt, "epoch": 3, "config": {"run": {}}}, folder / "branch.pth")
    return {
        "llama": llama,
        "tower": folder / "eva.pth",
        "qformer": folder / "blip2.pth",
        "branch": folder / "branch.pth",
    }


def test_a_checkpoint_put_together_from_the_published_files_is_the_whole(
    tmp_path: Path, script: ModuleType
) -> None:
    video_llama(tmp_path / "model")
    config = VideoLlamaConfig.from_pretrained(tmp_path / "model")
    script.convert(published_files(tmp_path), config, tmp_path / "out" / "model")
    whole = load_policy(settings_of(tmp_path)).bare.state_dict()
    joined = load_policy(settings_of(tmp_path / "out")).bare.state_dict()
    assert joined.keys() == whole.keys()
    assert all(torch.equal(joined[name], weight) for name, weight in whole.items())


def without(weights: dict[str, Any]) -> None:
    del weights["model"]["llama_proj.bias"]


def of_another_size(weights: dict[str, Any]) -> None:
    weights["model"]["llama_proj.bias"] = torch.ones(5)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (without, "no file has the weight 'llama_proj.bias'"),
        (of_another_size, r"'llama_proj.bias' has the shape \(5,\), and must have \(128,\)"),
    ],
)
def test_files_that_do_not_make_a_whole_are_refused(
    tmp_path: Path, script: ModuleType, change: Callable[[dict[str, Any]], None], error: str
) -> None:
    video_llama(tmp_path / "model")
    config = VideoLlamaConfig.from_pretrained(tmp_path / "model")
    files = published_files(tmp_path)
    branch = torch.load(files["branch"], weights_only=True)
    change(branch)
    torch.save(branch, files["branch"])
    with pytest.raises(UserError, match=error):
        script.convert(files, config, tmp_path / "out")


def test_the_published_sizes_are_those_of_the_published_code(
    tmp_path: Path, script: ModuleType
) -> None:
    """EVA-CLIP-g of 39 blocks of 1,408 x 16 heads, 12 layers of BERT, 2 of the video Q-Former."""
    llama = {"model_type": "llama", "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 1}
    llama |= {"num_attention_heads": 2, "intermediate_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(llama))
    weights = script.published_weights(script.published_config(tmp_path))
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    assert shapes["visual_encoder.pos_embed"] == (1, 257, 1408)
    assert shapes["visual_encoder.blocks.38.mlp.fc1.weight"] == (6144, 1408)
    assert "visual_encoder.blocks.39.norm1.weight" not in shapes
    assert shapes["Qformer.bert.encoder.layer.10.crossattention.self.key.weight"] == (768, 1408)
    assert "Qformer.bert.encoder.layer.11.crossattention.self.key.weight" not in shapes
    assert shapes["video_Qformer.bert.encoder.layer.1.crossattention.self.key.weight"] == (768, 768)
    assert shapes["video_frame_position_embedding.weight"] == (32, 768)
    assert shapes["llama_proj.weight"] == (64, 768)


def run_script(folder: Path) -> subprocess.CompletedProcess[str]:
    names = {"llama": "llama", "tower": "eva.pth", "qformer": "blip2.pth", "branch": "branch.pth"}
    options = [
        part
        for name, file in {**names, "out": "out"}.items()
        for part in (f"--{name}", str(folder / file))
    ]
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_script_says_which_file_is_missing(tmp_path: Path) -> None:
    done = run_script(tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("llama: there is no such folder")


@pytest.mark.parametrize("cut", ["branch.pth", "blip2.pth", "eva.pth", "llama/model.safetensors"])
def test_a_file_that_was_cut_short_is_named_in_one_line(tmp_path: Path, cut: str) -> None:
    video_llama(tmp_path / "model")
    files = published_files(tmp_path)
    text = json.loads((tmp_path / "model" / "config.json").read_text())["text_config"]
    (files["llama"] / "config.json").write_text(json.dumps(text))
    whole = (tmp_path / cut).read_bytes()
    (tmp_path / cut).write_bytes(whole[: len(whole) * 2 // 3])
    done = run_script(tmp_path)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{tmp_path / cut} is damaged or cut short (")
    assert line.endswith("): copy or download it again")
