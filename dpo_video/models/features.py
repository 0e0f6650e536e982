"""The vision tower, run once per clip; its features are shared by every prompt, answer and
reference of that clip.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from dpo_video.models.adapter import as_reference
from dpo_video.models.families import ClipFeatures, Family, Model
from dpo_video.models.hearing import SOUND, placeholders
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
    if policy.family.encode == "in_forward":
        return pending_features(policy, clip)
    with nullcontext() if adapter else as_reference(policy.model):
        return video_features(policy, clip)


def video_features(
    policy: Policy, clip: ClipInputs, prompt: Mapping[str, Tensor] | None = None
) -> ClipFeatures:
    """Return a clip's features with gradients of what is tuned in tower and projector.

    Without autocast, so that training sees the very features that generation sees.

    Args:
        prompt: what the family reads of the question, see `Family.prompt_inputs`.
    """
    inputs = {
        name: tensor.to(policy.device)
        for name, tensor in {**clip.pixels, **clip.clip_inputs, **(prompt or {})}.items()
    }
    _evaluate_towers(policy.bare)
    with torch.autocast(policy.device.type, enabled=False):
        return policy.family.features(policy.bare, inputs)


def _evaluate_towers(model: Model) -> None:
    """Have what stands beside the language model run as in evaluation, in place: in training a
    tower may leave out paths at random (InternVL), and a Q-Former's attention drops out, which TRL
    does not switch off.

    It stays so, as what is computed again in the backward pass must come out as before; the next
    `train()` of the whole ends it. A layer that transformers can compute again looks at its own
    mode for that, and keeps it where gradients are asked for; what is inside it is still.
    """
    for module in _beside_language(model, model.get_decoder()):
        recomputed = isinstance(module, GradientCheckpointingLayer) and torch.is_grad_enabled()
        module.training = module.training and recomputed


def _beside_language(module: nn.Module, decoder: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that are neither in the decoder nor hold it."""
    for part in module.children():
        if all(inside is not decoder for inside in part.modules()):
            yield from part.modules()
        elif part is not decoder:
            yield from _beside_language(part, decoder)


def pending_features(policy: Policy, clip: ClipInputs) -> ClipFeatures:
    """Return the stand-in (n, 0) of features that each forward makes anew, because what makes them
    is being tuned, or reads the question too.
    """
    tokenized = [
        policy.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in clip.expansions
    ]
    rows, *of_sound = (
        torch.empty(sum(ids.count(placeholder) for ids in tokenized), 0)
        for placeholder in placeholders(policy.family, policy.bare.config)
    )
    return ClipFeatures(rows, sound=of_sound[0] if of_sound and len(of_sound[0]) else None)


def pack_features(family: Family, clips: Sequence[ClipFeatures]) -> dict[str, ModelOutput]:
    """Return `mm_encoder_outputs` for a batch, one clip per row; the clips may differ in their
    frame counts, and some have sound.
    """
    packed: dict[str, ModelOutput] = {family.modality: family.pack(clips)}
    sounds = [clip.sound for clip in clips if clip.sound is not None]
    if sounds:
        packed[SOUND] = BaseModelOutputWithPooling(pooler_output=torch.cat(sounds))
    return packed
