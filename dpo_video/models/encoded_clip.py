"""A clip whose frames and sound became features, and the file that keeps it."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dpo_video.core import strict_json
from dpo_video.models.families import ClipFeatures
from dpo_video.models.prompts import ClipInputs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedClip:
    """What prompts and forwards need of a clip; its pixels are gone."""

    inputs: ClipInputs
    features: ClipFeatures
    frames_dropped: int = 0


def move(features: ClipFeatures, device: torch.device) -> ClipFeatures:
    """Return features on a device."""
    sound = features.sound
    return ClipFeatures(
        features.embeddings.to(device),
        tuple(layer.to(device) for layer in features.layers),
        None if sound is None else sound.to(device),
    )


def write_features(clip: EncodedClip) -> bytes:
    """Return a clip on the CPU as a safetensors file, in the features' own type, with a checksum of
    all tensors.
    """
    tensors = {"embeddings": clip.features.embeddings.contiguous()}
    tensors |= {
        f"layer.{number}": layer.contiguous() for number, layer in enumerate(clip.features.layers)
    }
    if clip.features.sound is not None:
        tensors["sound"] = clip.features.sound.contiguous()
    tensors |= {
        f"kept.{name}": tensor.contiguous() for name, tensor in clip.inputs.clip_inputs.items()
    }
    facts = {
        "expansions": strict_json.dumps(clip.inputs.expansions),
        "typed": str(clip.inputs.typed),
        "frames_dropped": str(clip.frames_dropped),
        "sound_samples": str(clip.inputs.sound_samples),
    }
    return save(tensors, metadata={**facts, "crc32": str(_checksum(tensors, facts))})


def read_features(data: bytes) -> EncodedClip:
    """Return the clip of such a file; raises ValueError or KeyError where it is damaged."""
    try:
        tensors = load(data)
        facts = _metadata(data)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if int(facts.pop("crc32")) != _checksum(tensors, facts):
        raise ValueError("its checksum is wrong")
    layers = [name for name in tensors if name.startswith("layer.")]
    clip_inputs = {
        name.removeprefix("kept."): tensor
        for name, tensor in tensors.items()
        if name.startswith("kept.")
    }
    return EncodedClip(
        inputs=ClipInputs(
            pixels={},
            clip_inputs=clip_inputs,
            expansions=tuple(strict_json.loads(facts["expansions"])),
            typed=facts["typed"] == "True",
            sound_samples=int(facts["sound_samples"]),
        ),
        features=ClipFeatures(
            tensors["embeddings"],
            tuple(tensors[f"layer.{n}"] for n in range(len(layers))),
            tensors.get("sound"),
        ),
        frames_dropped=int(facts["frames_dropped"]),
    )


def _metadata(data: bytes) -> dict[str, str]:
    """Return the strings in a safetensors header: 8 bytes of length, then JSON."""
    length = int.from_bytes(data[:8], "little")
    return dict(strict_json.loads(data[8 : 8 + length])["__metadata__"])


def _checksum(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> int:
    total = 0
    for name in sorted(tensors):
        content = tensors[name].reshape(-1).view(torch.uint8).numpy().data
        total = zlib.crc32(content, zlib.crc32(name.encode(), total))
    return zlib.crc32(repr(sorted(facts.items())).encode(), total)
