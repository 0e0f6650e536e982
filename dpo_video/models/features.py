"""The vision tower, run once per clip; its features are shared by every prompt, answer and
reference of that clip.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from transformers.utils.generic import ModelOutput

from dpo_video.models.adapter import as_reference
from dpo_video.models.families import ClipFeatures, Family
from dpo_video.models.load import Policy
from dpo_video.models.prompts import ClipInputs


@torch.no_grad()
def encode_video(policy: Policy, clip: ClipInputs, *, adapter: bool = True) -> ClipFeatures:
    """Return what tower and projector make of a clip, on the policy's device.

    Under no_grad, so that nothing is ever back-propagated into them, whatever gradient
    checkpointing hooks in.

    Args:
        adapter: False for the reference's features: an adapter may have tuned what makes them.
    """
    with nullcontext() if adapter else as_reference(policy.model):
        return video_features(policy, clip)


def video_features(policy: Policy, clip: ClipInputs) -> ClipFeatures:
    """Return a clip's features with gradients of what is tuned in tower and projector.

    Without autocast, so that training sees the very features that generation sees.
    """
    inputs = {
        name: tensor.to(policy.device)
        for name, tensor in {**clip.pixels, **clip.clip_inputs}.items()
    }
    with torch.autocast(policy.device.type, enabled=False):
        return policy.family.features(policy.bare, inputs)


def pending_features(policy: Policy, clip: ClipInputs) -> ClipFeatures:
    """Return the stand-in (n, 0) of features that each forward makes anew, because what makes them
    is being tuned.
    """
    placeholder = policy.family.placeholder(policy.bare.config)
    tokenized = (
        policy.processor.tokenizer(text, add_special_tokens=False) for text in clip.expansions
    )
    return ClipFeatures(
        torch.empty(sum(ids["input_ids"].count(placeholder) for ids in tokenized), 0)
    )


def pack_features(family: Family, clips: Sequence[ClipFeatures]) -> dict[str, ModelOutput]:
    """Return `mm_encoder_outputs` for a batch, one clip per row; the clips may differ in their
    frame counts.
    """
    return {family.modality: family.pack(clips)}
