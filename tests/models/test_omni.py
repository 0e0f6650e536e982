"""The thinker of an Omni checkpoint, read out of the whole one."""

import json
import shutil
from pathlib import Path

import torch
from family_cases import family_folder, plain_policy
from safetensors.torch import load_file, save_file

from dpo_video.models.load import load_policy
from dpo_video.recipe import ModelSettings


def test_the_thinker_is_read_out_of_a_whole_checkpoint(tmp_path: Path) -> None:
    """There its weights are called thinker.*, beside the talker's, and its config is a section."""
    thinker, whole = family_folder("qwen2_5_omni"), tmp_path / "whole"
    shutil.copytree(thinker, whole)
    weights = load_file(thinker / "model.safetensors")
    named = {f"thinker.{name}": weight for name, weight in weights.items()}
    save_file(
        {**named, "talker.codec_head.weight": torch.zeros(2)},
        whole / "model.safetensors",
        metadata={"format": "pt"},
    )
    section = json.loads((thinker / "config.json").read_text(encoding="utf-8"))
    config = {"model_type": "qwen2_5_omni", "thinker_config": section}
    (whole / "config.json").write_text(json.dumps(config), encoding="utf-8")
    policy = load_policy(ModelSettings(name=str(whole), device="cpu"))
    ours, theirs = policy.bare.state_dict(), plain_policy("qwen2_5_omni").bare.state_dict()
    assert policy.family.name == "qwen2_5_omni" and ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
