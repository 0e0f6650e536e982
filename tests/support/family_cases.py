"""A family's tiny model, loaded once and shared by the checks of the conformance suite; nothing
here changes it.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from policies import make_frames
from tiny_families import tiny_family
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head

from dpo_video.models.collate import TokenRow, collate
from dpo_video.models.families import FAMILIES
from dpo_video.models.load import Policy, load_policy
from dpo_video.models.lora import adapter_parameters, lora_config
from dpo_video.models.prompts import clip_content, process_frames, prompt_text
from dpo_video.recipe import LoraSettings, ModelSettings, VideoSettings
from dpo_video.train.logps import clip_rows
from dpo_video.train.shared_prefix import PER_TOKEN
from dpo_video.video import Frames

TOLERANCE = 2e-5
EXTRAS: dict[str, str] = {"perception_lm": "timm", "smolvlm": "num2words"}
"""Packages that a family needs beyond ours, by family: without one its checks are skipped with the
reason.
"""
_FOLDERS = tempfile.TemporaryDirectory()


def each_family(check: Any) -> Any:
    """Run a check once for each family of FAMILIES, family after family, so that few models are
    loaded at a time.
    """
    return pytest.mark.parametrize("family", sorted(FAMILIES), scope="module")(check)


@cache
def family_folder(family: str) -> Path:
    """Return the checkpoint folder of a family's tiny model, written once per process."""
    if family in EXTRAS:
        pytest.importorskip(
            EXTRAS[family], reason=f"family {family} needs the package {EXTRAS[family]}"
        )
    return tiny_family(family, Path(_FOLDERS.name) / family)


def family_settings(family: str, **settings: Any) -> ModelSettings:
    """Return the settings that load a family's tiny model; its `model_type` picks the row."""
    return ModelSettings(name=str(family_folder(family)), device="cpu", **settings)


@cache
def plain_policy(family: str) -> Policy:
    """Return a loaded tiny policy without an adapter; checks leave it as it is."""
    return load_policy(family_settings(family))


@cache
def tuned_family(family: str) -> Policy:
    """Return a policy of its own with an adapter that changes the model, and TRL's fused head."""
    policy = load_policy(family_settings(family))
    add_fused_lm_head(policy.bare, outputs=PER_TOKEN)
    return with_adapter(policy)


def with_adapter(policy: Policy) -> Policy:
    """Return the policy wrapped with a random adapter that changes its answers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = get_peft_model(
            policy.model, lora_config(LoraSettings(rank=4, alpha=8), policy.family)
        )
        for name, parameter in adapter_parameters(model):
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return replace(policy, model=model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A clip of the suite with a question and answers."""

    count: int
    height: int
    width: int
    seconds_apart: float
    question: str
    answers: tuple[str, ...]

    def frames(self) -> Frames:
        """Return its frames: smooth noise, which survives any resizing."""
        coarse = make_frames(self.count, height=8, width=8, seconds_apart=self.seconds_apart)
        grow = np.ones((1, self.height // 8, self.width // 8, 1), np.uint8)
        return Frames(
            pixels=np.kron(coarse.pixels, grow),
            indices=coarse.indices,
            times=coarse.times,
            fps=coarse.fps,
            total_frames=coarse.total_frames,
            duration=coarse.duration,
            backend=coarse.backend,
        )


CLIPS = (
    Clip(
        count=4,
        height=56,
        width=112,
        seconds_apart=1.0,
        question="what happens ?",
        answers=(" a red square", "the man is cooking pasta in a kitchen and talks to the camera"),
    ),
    Clip(
        count=2,
        height=112,
        width=56,
        seconds_apart=2.5,
        question="describe the video in detail please",
        answers=("no", "yes"),
    ),
)
"""Two clips of different frame counts, shapes and times; the first is the longer."""


def clip_of_rows(policy: Policy, clip: Clip) -> list[TokenRow]:
    """Return a row for each of the clip's answers."""
    return clip_rows(
        policy, clip.frames(), VideoSettings(), question=clip.question, answers=clip.answers
    )


@cache
def family_rows(family: str) -> tuple[tuple[TokenRow, ...], ...]:
    """Return the rows of each clip, encoded once by the plain policy."""
    return tuple(tuple(clip_of_rows(plain_policy(family), clip)) for clip in CLIPS)


def processor_outputs(policy: Policy, clip: Clip, answer: str = "") -> Mapping[str, Any]:
    """Return the processor's own call on prompt and answer with the frames: the stock path, no code
    of ours between.
    """
    kwargs = policy.family.pixel_kwargs(policy.frame_processor, None, None)
    text = (
        prompt_text(policy.processor, clip.question, clip_content(policy.family, clip.count))
        + answer
    )
    outputs = process_frames(policy.family, policy.processor, text, clip.frames(), kwargs)
    return {
        name: value if isinstance(value, Tensor) else torch.tensor(value)
        for name, value in outputs.items()
        if name != "text_replacement_offsets"
    }


@torch.no_grad()
def row_logits(policy: Policy, row: TokenRow) -> Tensor:
    """Return (T, V) logits of one row alone."""
    logits: Tensor = policy.model(**collate(policy, [row], "right"), use_cache=False).logits[0]
    return logits
