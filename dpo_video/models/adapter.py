"""The files of an adapter in PEFT's format, and whether they can be trusted to be what training
wrote.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.seal import broken_seal, is_sealed
from dpo_video.models.peft_library import PeftModel, set_peft_model_state_dict

WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = (WEIGHTS, "adapter_config.json")
REFERENCE = "ref"
"""Name of a second adapter on a policy, that of its reference: TRL looks for it by this name
(dpo_trainer.py:1255).
"""


@contextmanager
def as_reference(model: torch.nn.Module) -> Iterator[None]:
    """Have a frozen policy answer as its reference: by the adapter REFERENCE where it has one, else
    without any.
    """
    if not isinstance(model, PeftModel):
        yield
    elif REFERENCE not in model.peft_config:
        with model.disable_adapter():
            yield
    else:
        tuned = model.active_adapter
        model.set_adapter(REFERENCE, inference_mode=True)
        try:
            yield
        finally:
            model.set_adapter(tuned, inference_mode=True)


@contextmanager
def with_reference(model: PeftModel, adapter: Path | None) -> Iterator[None]:
    """Give a model that is trained the adapter of its reference for a while; None leaves it without
    one, so that the reference is the model alone.
    """
    if adapter is None:
        yield
        return
    add_reference(model, adapter)
    try:
        yield
    finally:
        model.delete_adapter(REFERENCE)


def add_reference(model: PeftModel, adapter: Path) -> None:
    """Put an adapter on a model, frozen and not active, in float32 as the trained one is."""
    device = str(next(model.parameters()).device)
    with torch.random.fork_rng():  # PEFT draws weights first, and then reads them
        model.load_adapter(
            str(adapter), REFERENCE, torch_device=device, autocast_adapter_dtype=True
        )
    for name, parameter in model.named_parameters():
        if f".{REFERENCE}." in name:
            parameter.data = parameter.data.to(torch.float32)
            parameter.requires_grad = False


def load_weights(model: PeftModel, adapter: Path) -> None:
    """Give a model's adapter the weights of another one of the same shape, in place."""
    stored = load_file(adapter / WEIGHTS)
    result: Any = set_peft_model_state_dict(model, stored)
    missing = [name for name in result.missing_keys if ".lora_" in name]
    assert not missing and not result.unexpected_keys, (
        f"the adapter {str(adapter)!r} does not fit: {[*missing, *result.unexpected_keys][:3]}"
    )


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
        config = strict_json.loads_foreign(
            (folder / "adapter_config.json").read_text(encoding="utf-8")
        )
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
