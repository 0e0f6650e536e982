"""Answers made here to frames as pictures: whose processor takes them."""

from pathlib import Path

import pytest
from stand_ins.flat_checkpoints import llava_qwen
from tiny_world import make_world

from dpo_video.core.errors import UserError
from dpo_video.models.load import load_policy
from dpo_video.parity.local import check_takes_images
from dpo_video.recipe import ModelSettings


def test_a_model_that_reads_clips_alone_is_not_asked_about_pictures(tmp_path: Path) -> None:
    llava_qwen(tmp_path / "model")
    policy = load_policy(ModelSettings(name=str(tmp_path / "model"), device="cpu"))
    with pytest.raises(UserError, match=r"'llava_qwen' reads clips alone here.*--shown-as film"):
        check_takes_images(policy)


def test_one_that_reads_pictures_too_is(tmp_path: Path) -> None:
    make_world(tmp_path, "qwen2_5_vl")
    check_takes_images(load_policy(ModelSettings(name=str(tmp_path / "model"), device="cpu")))
