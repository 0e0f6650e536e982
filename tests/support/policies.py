"""Loaded tiny policies, their frames, prompts and rows, for the tests of models and generation."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tiny_models import Kind, tiny_policy

from dpo_video.family.subject import noise_frames as make_frames
from dpo_video.models.collate import TokenRow
from dpo_video.models.features import encode_video
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.prompts import answer_ids, encode_prompt, video_inputs
from dpo_video.recipe import ModelSettings, VideoSettings
from dpo_video.video import Frames

__all__ = ["KINDS", "each_kind", "make_frames", "make_row", "policy", "tiny_folder"]
KINDS: tuple[Kind, ...] = ("qwen2_5_vl", "llava_next_video")
each_kind = pytest.mark.parametrize("kind", KINDS)
_FOLDERS = tempfile.TemporaryDirectory()


@cache
def tiny_folder(kind: Kind) -> Path:
    """Return the checkpoint folder of a tiny model, written once per process."""
    return tiny_policy(kind, Path(_FOLDERS.name) / kind)


@cache
def policy(kind: Kind, **settings: Any) -> Policy:
    """Return a loaded tiny policy; tests share it and leave it as it is."""
    return load_policy(ModelSettings(name=str(tiny_folder(kind)), device="cpu", **settings))


def make_row(
    model: Policy, frames: Frames, question: str = "what happens ?", answer: str | None = None
) -> TokenRow:
    """Return the row of a question about frames, with an answer if given."""
    clip = video_inputs(model, frames, VideoSettings())
    ids = () if answer is None else tuple(answer_ids(model, answer))
    return TokenRow(
        prompt=encode_prompt(model, question, clip),
        clip=clip,
        features=encode_video(model, clip),
        answer=ids,
    )
