"""InstructBLIP for images, made one for clips by the script and put through the checks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from family_cases import plain_policy
from safetensors.torch import load_file
from transformers import BlipImageProcessor

from dpo_video.core.errors import UserError
from dpo_video.family.checks import (
    features_equal_pixels,
    prompt_is_the_processors_and_a_prefix,
    saves_and_reloads,
)
from dpo_video.family.subject import Subject
from dpo_video.models.hub import load_config
from dpo_video.recipe import ModelSettings

SCRIPT = Path(__file__).parents[2] / "scripts" / "instructblip_checkpoint.py"
MARK = "<video>"


def write_images_checkpoint(folder: Path) -> None:
    """Write the weights of a tiny InstructBLIP for clips as those for images are published: another
    model type, no token for clips, and the tokenizer of the Q-Former in a folder of its own.
    """
    policy = plain_policy("instructblipvideo")
    policy.bare.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["video_token_index"]
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "instructblip"}))
    side = policy.bare.config.vision_config.image_size
    BlipImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    policy.processor.tokenizer.save_pretrained(folder)
    policy.processor.qformer_tokenizer.save_pretrained(folder / "qformer_tokenizer")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokens = tokenizer["added_tokens"]
    tokenizer["added_tokens"] = [token for token in tokens if token["content"] != MARK]
    tokenizer["model"]["vocab"].pop(MARK, None)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_checkpoint_for_images_becomes_one_that_passes(tmp_path: Path) -> None:
    images, clips = tmp_path / "images", tmp_path / "clips"
    write_images_checkpoint(images)
    with pytest.raises(UserError, match=r"scripts/instructblip_checkpoint.py of dpo-video's"):
        load_config(ModelSettings(name=str(images)))
    done = run(str(images), "--out", str(clips))
    assert done.returncode == 0, done.stderr[-2000:]
    theirs, ours = (load_file(folder / "model.safetensors") for folder in (images, clips))
    assert theirs.keys() == ours.keys()
    for name, weight in theirs.items():
        assert bool((ours[name][: len(weight)] == weight).all()), name
    subject = Subject(settings=ModelSettings(name=str(clips), device="cpu"))
    for check in (
        prompt_is_the_processors_and_a_prefix,
        features_equal_pixels,
        saves_and_reloads,
    ):
        check(subject, tmp_path / "checked")


def test_another_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip-2"}))
    done = run(str(tmp_path), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert (
        "is of model type 'blip-2', and this takes 'instructblip'" in done.stderr.splitlines()[-1]
    )
