"""What a sample of a run tells, and whether one can be taken here; measure.py takes it."""

from dataclasses import dataclass

import torch

from dpo_video.models.names import local_file
from dpo_video.recipe import ModelSettings, Recipe

LARGEST_ON_CPU = 300_000_000
"""Parameters of a model that answers a few questions within a minute on a CPU."""


@dataclass(frozen=True, kw_only=True)
class MeasuredSample:
    """How long the parts of a sample took, and of what; loading is not counted."""

    questions: int
    clips: int
    answers: int
    answer_seconds: float
    pairs: int
    pair_clips: int
    step_seconds: float
    """Of the steps over `pairs`, without the reference's forwards."""
    prompts: int
    prompt_seconds: float
    """Of the local judge; 0 prompts where there is none here."""
    device: str


def can_be_measured(recipe: Recipe, num_parameters: int, *, gib: float) -> bool:
    """Return whether the policy can be run here for a minute: its weights are on this disk, and it
    is small, or a GPU has room for `gib`.
    """
    if not weights_are_here(recipe.model):
        return False
    if recipe.model.device == "cpu" or not torch.cuda.is_available():
        return num_parameters <= LARGEST_ON_CPU
    free, _ = torch.cuda.mem_get_info(0)
    return gib * (1 << 30) <= free


def device_here(recipe: Recipe) -> str:
    """Return the device that the policy runs on here, in words."""
    if recipe.model.device == "cpu" or not torch.cuda.is_available():
        return "this CPU"
    return f"this {torch.cuda.get_device_name(0)}"


def weights_are_here(model: ModelSettings) -> bool:
    """Return whether the weights are on this disk."""
    names = ("model.safetensors", "model.safetensors.index.json")
    return any(local_file(model, name) is not None for name in names)
