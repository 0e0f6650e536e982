"""The files of an adapter in PEFT's format, and whether they can be trusted to be what training
wrote.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dpo_video.core.errors import UserError
from dpo_video.core.seal import broken_seal, is_sealed

WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = (WEIGHTS, "adapter_config.json")


def check_adapter(folder: Path) -> None:
    """Raise UserError for an adapter whose files are damaged or whose weights are not finite.

    A sealed folder is compared with its seal; one without, made by PEFT or an earlier version, is
    read as far as its format tells.
    """
    reason = adapter_damage(folder)
    if reason is not None:
        raise UserError(
            f"the adapter {str(folder)!r} is damaged: {reason}. Remove the folder and make it "
            "again: dpo-video train RECIPE takes it from the last checkpoint"
        )


def adapter_damage(folder: Path) -> str | None:
    """Return what is wrong with an adapter's files; None where nothing is."""
    if is_sealed(folder):
        reason = broken_seal(folder)
        if reason is not None:
            return reason
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"adapter_config.json cannot be read ({error})"
    if not isinstance(config, dict):
        return "adapter_config.json holds no JSON object"
    if not (folder / WEIGHTS).is_file():
        return f"{WEIGHTS} is missing"
    return weights_damage(folder / WEIGHTS)


def weights_damage(path: Path) -> str | None:
    """Return what is wrong with a file of weights: cut short, or numbers that are not finite."""
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        return f"{path.name} cannot be read ({error})"
    bad = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
    if bad:
        return f"{len(bad)} of {len(weights)} tensors in {path.name} are not finite"
    return None
