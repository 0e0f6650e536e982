"""FSDP2 under `accelerate launch`: what is sharded, what stays whole, and what is refused before
anything is loaded.
"""

import os
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from dpo_video.core.errors import UserError
from dpo_video.core.ranks import world_size
from dpo_video.core.text import one_line
from dpo_video.models.families import Model
from dpo_video.models.load import language_parameters
from dpo_video.models.lora import adapter_parameters
from dpo_video.recipe import Recipe
from dpo_video.train.dpo_config import FSDP_CONFIG


def is_fsdp() -> bool:
    """Return whether the launcher asks for FSDP."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP")


def sharding() -> str | None:
    """Return what decides whether a checkpoint of FSDP can be resumed from, None without FSDP."""
    return (
        f"fsdp2 {os.environ.get('FSDP_STATE_DICT_TYPE', 'SHARDED_STATE_DICT')}"
        if is_fsdp()
        else None
    )


def check_zero() -> None:
    """Raise UserError where the launcher asks for ZeRO-3, by its own setting or by the file of
    DeepSpeed's that it names.
    """
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE")
    file = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if stage == "3" or (file != "none" and _deepspeed_config(file).is_zero3()):
        where = "" if stage == "3" else f" in {file!r}"
        raise UserError(
            f"zero_stage is 3{where}, which gathers a layer's weights from all processes at its "
            "forward. Towers and references do not run equally often in all, and each would wait "
            f"for the others. Take {FSDP_CONFIG}, or zero_stage 2"
        )


def _deepspeed_config(file: str) -> HfDeepSpeedConfig:
    try:
        return HfDeepSpeedConfig(file)
    except ValueError as error:
        raise UserError(
            f"deepspeed_config_file of the launcher is {file!r}, which cannot be read: "
            f"{one_line(str(error))}. Name a file of JSON there"
        ) from error


def check_fsdp(recipe: Recipe) -> None:
    """Raise UserError for what cannot work under the FSDP that the launcher asks for; nothing is
    loaded for it.
    """
    if not is_fsdp():
        return
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UserError(
            f"fsdp_version is {version}, and FSDP1 packs the weights of a layer into one of a "
            f"single type: "
            "float32 LoRA beside bfloat16 weights does not fit. Set fsdp_version to 2, as in "
            f"{FSDP_CONFIG}"
        )
    if world_size() < 2:
        raise UserError(
            "FSDP shards a model over several processes, and this is one. Launch more "
            "(--num_processes), "
            "or run dpo-video train without FSDP"
        )
    if recipe.model.device == "cpu" and torch.cuda.is_available():
        raise UserError(
            "model.device is 'cpu', and FSDP takes the GPUs that it finds. Set model.device to "
            "auto, or "
            "hide them (CUDA_VISIBLE_DEVICES=)"
        )
    if recipe.model.quantize != "none":
        raise UserError(
            f"model.quantize is {recipe.model.quantize!r}, and packed 4-bit weights cannot be "
            f"sharded by "
            "FSDP. Set model.quantize to none, or launch without FSDP (--multi_gpu): each process "
            "then "
            "holds all of the 4-bit model"
        )
    if recipe.start_adapter is not None or recipe.reference_adapter is not None:
        raise UserError(
            "model.adapter and train.reference: an adapter cannot be put beside sharded weights. "
            "Launch without FSDP (--multi_gpu), or merge it into its model (dpo-video merge RUN) "
            "and set model.name to the result"
        )
    if "8bit" in recipe.train.optimizer:
        raise UserError(
            f"train.optimizer is {recipe.train.optimizer!r}, and 8-bit states do not fit FSDP's "
            f"sharded "
            "weights. Set train.optimizer to adamw_torch"
        )
    for name, (option, why) in _MUST_BE_FALSE.items():
        if parse_flag_from_env(name):
            raise UserError(f"{option} is true, {why}. Set it to false, as in {FSDP_CONFIG}")


_MUST_BE_FALSE = {
    "FSDP_CPU_RAM_EFFICIENT_LOADING": (
        "fsdp_cpu_ram_efficient_loading",
        "as accelerate has it by default, which leaves weights to the first process "
        "to broadcast, and accelerate can broadcast sharded ones only: the tower stays whole",
    ),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "fsdp_activation_checkpointing",
        "and train.gradient_checkpointing is the one place for it",
    ),
}


def install_fsdp(accelerator: Accelerator) -> None:
    """Put the launcher's FSDP to work on CPUs too: accelerate 1.15 does for accelerators only
    (state.py:985).
    """
    state: Any = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
        state.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = (
            DistributedType.FSDP
        )  # as there: every new state copies it


def shard_language_only(plugin: FullyShardedDataParallelPlugin, bare: Model) -> None:
    """Make FSDP wrap the layers of the language model, and leave alone what is frozen outside of
    it.

    Tower and projector run once per clip, outside of the model's forward and not equally often in
    each process: were they sharded, a process would wait for weights that the others do not send.
    LoRA of a tuned tower goes with the root, whose forward it runs in.

    Raises UserError for a model whose language model cannot be told apart.
    """
    layers = {
        module
        for module in bare.get_decoder().modules()
        if isinstance(module, GradientCheckpointingLayer)
    }
    kinds = {type(layer) for layer in layers}
    outside = [
        name
        for name, module in bare.named_modules()
        if type(module) in kinds and module not in layers
    ]
    if not layers or outside:
        why = f" ({outside[0]} has the same class)" if outside else ""
        raise UserError(
            f"FSDP cannot tell the layers of the language model of {type(bare).__name__} "
            f"apart{why}. "
            "Launch without FSDP (--multi_gpu)"
        )
    language = {id(weight) for weight in language_parameters(bare)}
    whole = [
        weight
        for weight in bare.parameters()
        if not weight.requires_grad and id(weight) not in language
    ]
    plugin.auto_wrap_policy = transformer_auto_wrap_policy
    plugin.transformer_cls_names_to_wrap = sorted(kind.__name__ for kind in kinds)
    plugin.ignored_modules = [nn.ParameterList(whole)]
    # Weights keep their types (LoRA float32), autocast decides on the forward's, as it does without
    # FSDP.
    plugin.mixed_precision_policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)


def whole_adapter(model: nn.Module) -> dict[str, Tensor]:
    """Return the adapter's weights by name, each whole and on the CPU; every process must call
    this.
    """
    return {
        name: (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach().cpu()
        for name, weight in adapter_parameters(model)
    }
