"""The vision tower, run once per clip; its features are shared by every prompt, answer and reference of that clip."""

from collections.abc import Sequence

import torch
from transformers.utils.generic import ModelOutput

from dpo_video.models.families import ClipFeatures, Family
from dpo_video.models.load import Policy
from dpo_video.models.prompts import ClipInputs


@torch.no_grad()
def encode_video(policy: Policy, clip: ClipInputs) -> ClipFeatures:
    """Return what the frozen tower and projector make of a clip, on the policy's device.

    Under no_grad, so that nothing is ever back-propagated into them, whatever gradient checkpointing hooks in.
    """
    inputs = {name: tensor.to(policy.device) for name, tensor in {**clip.pixels, **clip.kept}.items()}
    return policy.family.features(policy.bare, inputs)


def pack_features(family: Family, clips: Sequence[ClipFeatures]) -> dict[str, ModelOutput]:
    """Return `mm_encoder_outputs` for a batch, one clip per row; the clips may differ in their frame counts."""
    return {family.modality: family.pack(clips)}
