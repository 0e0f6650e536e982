"""Qwen-VL 1: its language model on transformers' Qwen2 against its own code, which a stand-in has
with the published names, shapes and calls.
"""

import json
import unicodedata
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from clips import write_clip
from PIL import Image
from qwen_vl_forward import own_forward, published_weights, with_paths, write_pictures
from safetensors.torch import load_file
from slow_dpo import slow_dpo
from stand_ins.qwen_vl.checkpoint import TiktokenVocabulary, qwen_vl
from stand_ins.qwen_vl.modeling_qwen import QWenLMHeadModel
from tiny_models import TEXT, write_tiny
from tiny_world import FRAMES, made_trainer, make_pairs, make_recipe
from tokenizers import Regex, pre_tokenizers

from dpo_video.core.errors import UserError
from dpo_video.family.subject import noise_frames, rows_of
from dpo_video.models.collate import collate
from dpo_video.models.families.own_code.qwen_vl import SPECIAL
from dpo_video.models.families.own_code.tiktoken_file import PATTERN
from dpo_video.models.hub import load_config
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import lora_config
from dpo_video.models.peft_library import get_peft_model
from dpo_video.models.prompts import encode_prompt, video_inputs
from dpo_video.recipe import LoraSettings, ModelSettings, VideoSettings
from dpo_video.train.shared_prefix import shared_prefix_engine


def settings_of(folder: Path) -> ModelSettings:
    return ModelSettings(name=str(folder / "model"), device="cpu", trust_remote_code=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the checkpoint `model` and clips."""
    folder = tmp_path_factory.mktemp("qwen_vl")
    write_tiny(qwen_vl, folder / "model")
    for number, frames in enumerate(FRAMES):
        write_clip(folder / f"c{number}.mp4", frames, rate=2)
    return folder


@pytest.fixture(scope="module")
def policy(world: Path) -> Policy:
    return load_policy(settings_of(world))


@pytest.fixture(scope="module")
def own(world: Path) -> QWenLMHeadModel:
    """Return the checkpoint in its own code."""
    return QWenLMHeadModel.from_pretrained(world / "model").eval()


def changed(folder: Path, **fields: Any) -> ModelSettings:
    """Write a checkpoint with other fields in its config."""
    write_tiny(qwen_vl, folder / "model")
    path = folder / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return settings_of(folder)


@torch.no_grad()
def test_logits_are_those_of_the_own_code_on_the_pictures_it_opens(
    policy: Policy, own: QWenLMHeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames of 150 x 100, which the own code squeezes by itself, to the very same pixels."""
    monkeypatch.chdir(tmp_path)
    (row,) = rows_of(policy, ({"count": 3}, {"what happens ?": [" a red square"]}))
    names = write_pictures(noise_frames(3).pixels, tmp_path)
    start = own.config.visual["image_start_id"]
    ids = torch.cat([row.prompt.input_ids, torch.tensor(row.answer)])
    theirs = own(with_paths(ids, names, start)[None]).logits[0]
    ours = policy.model(**collate(policy, [row], "right"), use_cache=False).logits[0]
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    opened = [own.transformer.visual.image_transform(Image.open(name)) for name in names]
    made = video_inputs(policy, noise_frames(3), VideoSettings()).pixels["pixel_values"]
    assert torch.equal(made, torch.stack(opened))


def test_losses_are_those_of_plain_dpo_through_the_own_code(
    world: Path, own: QWenLMHeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """6 steps of 2 x 2 pairs; the loop runs the own code with the adapter put into its weights."""
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe(world).model_copy(update={"model": settings_of(world)})
    pairs = make_pairs(7)
    with made_trainer(world, recipe, pairs, engine=shared_prefix_engine) as (trainer, _):
        trainer.train()
        log = [row for row in trainer.state.log_history if "loss" in row]
    policy = load_policy(recipe.model)
    through_own = replace(policy.family, stock_logits=own_forward(own))
    slow_log, _ = slow_dpo(world, recipe, pairs, policy=replace(policy, family=through_own))
    assert len(log) == len(slow_log) == 6
    for row, slow in zip(log, slow_log, strict=True):
        assert row["loss"] == pytest.approx(slow["loss"], abs=1e-4)
        assert row["rewards/margins"] == pytest.approx(slow["rewards/margins"], abs=1e-4)
    assert max(abs(row["rewards/margins"]) for row in log) > 1e-2, "nothing was learnt"


def test_weights_are_saved_by_their_published_names_with_an_adapter_merged(
    world: Path, tmp_path: Path
) -> None:
    policy = load_policy(settings_of(world))
    tuned = get_peft_model(policy.model, lora_config(LoraSettings(rank=4), policy.family))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    wanted = {name: weight.detach() for name, weight in published_weights(policy.bare).items()}
    tuned.merge_and_unload().save_pretrained(tmp_path / "merged")
    saved = load_file(tmp_path / "merged" / "model.safetensors")
    assert saved.keys() == wanted.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(saved[name], weight, atol=1e-6, rtol=0)
    files = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"modeling_qwen.py", "visual.py", "configuration_qwen.py", "qwen.tiktoken"} <= files
    before, after = (
        json.loads((folder / "config.json").read_text())
        for folder in (world / "model", tmp_path / "merged")
    )
    assert after["architectures"] == before["architectures"] == ["QWenLMHeadModel"]
    assert before["auto_map"].items() <= after["auto_map"].items()


def test_the_prompt_is_chatml_with_numbered_pictures(policy: Policy) -> None:
    clip = video_inputs(policy, noise_frames(2), VideoSettings())
    ids = encode_prompt(policy, "what happens ?", clip).input_ids.tolist()
    pads = "<imgpad>" * 16
    assert policy.processor.tokenizer.decode(ids) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"Picture 1: <img>{pads}</img>\nPicture 2: <img>{pads}</img>\n"
        "what happens ?<|im_end|>\n<|im_start|>assistant\n"
    )


def slow_ids(text: str) -> list[int]:
    """Merge bytes by rank, the lowest first, as tiktoken does, word by word."""
    ranks = {token: rank for rank, token in enumerate(TiktokenVocabulary().tokens())}
    cut = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    ids = []
    for word, _ in cut.pre_tokenize_str(unicodedata.normalize("NFC", text)):
        parts = [bytes([byte]) for byte in word.encode()]
        while True:
            joined = [ranks.get(a + b, 10**9) for a, b in pairwise(parts)]
            if not joined or min(joined) == 10**9:
                break
            place = joined.index(min(joined))
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        ids += [ranks[part] for part in parts]
    return ids


@pytest.mark.parametrize("text", [*TEXT, "what  happened?\n\nNo1 knows 2024 é ié", "I'll <box>"])
def test_ids_are_those_of_merging_bytes_by_rank(policy: Policy, text: str) -> None:
    plain = text.removesuffix("<box>")
    ids = policy.processor.tokenizer(text)["input_ids"]
    count = len(TiktokenVocabulary().tokens())
    assert ids == slow_ids(plain) + ([count + SPECIAL.index("<box>")] if "<box>" in text else [])


def test_control_tokens_stand_where_the_published_vocabulary_has_them() -> None:
    """151,643 tokens stand in the published qwen.tiktoken, and image_start_id is 151,857."""
    assert 151643 + SPECIAL.index("<img>") == 151857
    assert 151643 + SPECIAL.index("<|im_end|>") == 151645


@pytest.mark.parametrize(
    ("fields", "context"),
    [({}, 2048), ({"use_dynamic_ntk": False, "use_logn_attn": False}, 8192)],
)
def test_the_context_ends_where_the_own_attention_is_no_longer_plain(
    tmp_path: Path, fields: dict[str, bool], context: int
) -> None:
    config, family = load_config(changed(tmp_path, **fields))
    assert family.context_length(config) == context
    assert config.get_text_config().max_position_embeddings == context


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"rotary_pct": 0.5}, "its config has rotary_pct 0.5"),
        ({"no_bias": False}, "its config has no_bias False"),
        ({"kv_channels": 16}, "its config has kv_channels 16"),
    ],
)
def test_a_language_model_that_qwen2_does_not_compute_is_refused(
    tmp_path: Path, fields: dict[str, Any], error: str
) -> None:
    with pytest.raises(UserError, match=error):
        load_config(changed(tmp_path, **fields))


def test_a_text_model_of_qwen_1_is_refused(tmp_path: Path) -> None:
    settings = changed(tmp_path)
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    del config["visual"]
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="it is a text model of Qwen 1, without a tower"):
        load_config(settings)


def test_a_checkpoint_without_its_vocabulary_says_so(tmp_path: Path) -> None:
    settings = changed(tmp_path)
    (tmp_path / "model" / "qwen.tiktoken").unlink()
    with pytest.raises(UserError, match=r"has no qwen.tiktoken, the vocabulary of Qwen 1"):
        load_policy(settings)


def test_a_rope_factor_that_its_config_cannot_hold_is_refused(tmp_path: Path) -> None:
    settings = changed(tmp_path).model_copy(update={"rope_factor": 2.0})
    with pytest.raises(UserError, match=r"model.rope_factor is set, and the config of Qwen-VL 1"):
        load_policy(settings)
