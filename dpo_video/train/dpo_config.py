"""A recipe's `train` section as a `trl.DPOConfig`; keys that we own or that break video training
are refused.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dpo_video.core.errors import UserError
from dpo_video.core.names import choose, did_you_mean, shipped_folder
from dpo_video.models.memory import uses_checkpointing
from dpo_video.recipe import Recipe, TrainSettings

if TYPE_CHECKING:
    from trl.trainer.dpo_config import DPOConfig


def check_train_settings(recipe: Recipe) -> None:
    """Raise UserError for a loss or a `train.trl` key that cannot be used, naming what to use
    instead.
    """
    _check_losses(recipe.train)
    if recipe.train.trl:
        _check_trl(recipe.train.trl)
    tuned = [module for module in recipe.train.tune if module != "language"]
    if tuned and recipe.video.cache == "features":
        raise UserError(
            f"`video.cache` is 'features', but `train.tune` has {tuned[0]!r}: the features change "
            f"in every "
            "step. Set video.cache to 'frames' (or 'none'), or train.tune to ['language']"
        )
    if recipe.train.lora.dropout > 0 and recipe.train.trl.get("disable_dropout", True):
        raise UserError(
            f"`train.lora.dropout` is {recipe.train.lora.dropout:g}, but TRL switches dropout off "
            f"for DPO. "
            "Set it to 0, or `train.trl.disable_dropout: false` to really train with it"
        )
    if recipe.train.lora.dropout > 0 and recipe.train.lora.experts:
        raise UserError(
            f"`train.lora.dropout` is {recipe.train.lora.dropout:g}, and PEFT has none for the "
            "fused weights of experts. Set it to 0, or `train.lora.experts` to false"
        )
    limit = recipe.train.trl.get("save_total_limit")
    if limit is not None and (not isinstance(limit, int) or limit < 2):
        raise UserError(
            f"`train.trl.save_total_limit` is {limit!r}: keep at least 2 checkpoints, or null for "
            f"all. The "
            "last one may be half written when a run is killed"
        )


def _check_trl(settings: Mapping[str, object]) -> None:
    from trl.trainer.dpo_config import DPOConfig

    fields = {field.name: field.type for field in dataclasses.fields(DPOConfig)}
    for key, value in settings.items():
        _check_field(key, in_trl=key in fields)
        _check_kind(key, value, fields[key])


def _check_field(key: str, *, in_trl: bool) -> None:
    """Refuse a `train.trl` key that is not in TUNABLE; `in_trl` tells whether DPOConfig has it."""
    if key in SET_BY_RECIPE:
        raise UserError(
            f"`train.trl.{key}`: set `{SET_BY_RECIPE[key]}` instead; it is the one place for it"
        )
    if key in REFUSED_FIELDS:
        raise UserError(f"`train.trl.{key}` cannot be used: {REFUSED_FIELDS[key]}. Remove it")
    if key not in TUNABLE or not in_trl:
        problem = (
            f"`train.trl.{key}` is not known to work on video"
            if in_trl
            else f"unknown field `train.trl.{key}`: trl.DPOConfig has none of that name"
        )
        raise UserError(
            f"{problem}.{did_you_mean(key, TUNABLE)} Fields that may stand here: "
            f"{', '.join(sorted(TUNABLE))}"
        )


def _check_losses(train: TrainSettings) -> None:
    """Refuse a loss that is unknown, or that other settings break: TRL would fail late, or only
    warn.
    """
    for name in train.loss:
        choose(LOSSES, name, "loss in train.loss")
    sorting = [name for name in train.loss if name in SORTING]
    if sorting and train.tokens_per_batch is not None:
        raise UserError(
            f"`train.loss` {sorting[0]!r} sorts the pairs of a forward against each other, so its "
            f"value "
            "depends on the cut that `train.tokens_per_batch` makes. Unset it, and set "
            "`train.batch_size`"
        )
    smoothing = train.trl.get("label_smoothing", 0.0)
    if not isinstance(smoothing, int | float):
        raise UserError(f"`train.trl.label_smoothing` must be a number, got {smoothing!r}")
    if "exo_pair" in train.loss and smoothing <= 0:
        raise UserError(
            "`train.loss` 'exo_pair' needs `train.trl.label_smoothing` above 0, e.g. 0.001; it is "
            f"{smoothing:g}"
        )
    if "robust" in train.loss and not 0 <= smoothing < 0.5:
        raise UserError(
            f"`train.trl.label_smoothing` is {smoothing:g}, but for `train.loss` 'robust' it is "
            f"the share "
            "of flipped pairs, from 0 to below 0.5"
        )
    divergence = train.trl.get("f_divergence_type", "reverse_kl")
    choose(dict.fromkeys(DIVERGENCES), str(divergence), "train.trl.f_divergence_type")


def _check_kind(key: str, value: object, kind: object) -> None:
    """Refuse another kind of value where DPOConfig wants a number or true or false; it would fail
    far from here.
    """
    is_of_kind = {
        float: isinstance(value, int | float) and not isinstance(value, bool),
        int: isinstance(value, int) and not isinstance(value, bool),
        bool: isinstance(value, bool),
    }
    if isinstance(kind, type) and not is_of_kind.get(kind, True) and value is not None:
        wanted_kind = {float: "a number", int: "an integer", bool: "true or false"}[kind]
        raise UserError(f"`train.trl.{key}` must be {wanted_kind}, got {value!r}")


def dpo_config(
    recipe: Recipe,
    *,
    output_dir: Path,
    precision: Literal["no", "bf16", "fp16"],
    use_cpu: bool,
    run_name: str | None = None,
    num_parameters: int | None = None,
) -> "DPOConfig":
    """Return the DPOConfig of a recipe. Under `accelerate launch` this also joins the process
    group.

    Args:
        output_dir: where checkpoints go.
        precision: of the forward's autocast; LoRA weights and optimizer stay float32.
        use_cpu: stay on the CPU even where there is a GPU.
        run_name: the run's name there; None is the recipe's.
        num_parameters: of the policy, for `gradient_checkpointing: auto`; None is a large one.
    """
    from trl.trainer.dpo_config import DPOConfig

    check_train_settings(recipe)
    train = recipe.train
    if use_cpu and train.activation_offloading:
        raise UserError(
            "`train.activation_offloading` keeps activations out of the GPU's memory, and this "
            "runs on the "
            "CPU. Unset it, or set `model.device: cuda`"
        )
    fields = {
        **_training_fields(train, num_parameters),
        "output_dir": str(output_dir),
        "run_name": run_name or recipe.name,
        "report_to": [],  # the run's own tracker is told by a callback
        "seed": recipe.seed,
        "use_cpu": use_cpu,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "trust_remote_code": recipe.model.trust_remote_code,
    }
    try:
        config = DPOConfig(**fields)
        _try_out(config)
        return config
    except (ImportError, TypeError, ValueError) as error:
        message = str(error).strip().rstrip(".")
        raise UserError(
            f"TRL refuses the training settings: {message}. They come from `train` and `train.trl`"
        ) from error


def _training_fields(train: TrainSettings, num_parameters: int | None) -> dict[str, Any]:
    """Return the DPOConfig fields of a `train` section, those under `train.trl` included."""
    trl = dict(train.trl)
    checkpointing = {"use_reentrant": False, **trl.pop("activation_checkpointing_kwargs", {})}
    return {
        "save_total_limit": 2,
        # Of a mixture of experts: no router is tuned, and a loss about its choices would bend what
        # is, to balance what cannot be.
        "router_aux_loss_coef": 0.0,
        # No parameter of a frozen tower awaits a gradient, so DDP need not look for unused ones as
        # TRL would have it. In a tuned one there may be: LLaVA takes the features before the
        # tower's last layer.
        "ddp_find_unused_parameters": "vision" in train.tune,
        **trl,
        "beta": train.beta,
        "loss_type": list(train.loss),
        "learning_rate": train.learning_rate,
        "num_train_epochs": train.epochs,
        "max_steps": train.max_steps or -1,
        "per_device_train_batch_size": pairs_per_read(train),
        "gradient_accumulation_steps": (
            train.gradient_accumulation if train.tokens_per_batch is None else 1
        ),
        "lr_scheduler_type": train.scheduler,
        "optim": train.optimizer,
        # A float below 1 is a share of all steps (transformers training_args.py get_warmup_steps),
        # 1.0 would be a step.
        "warmup_steps": min(train.warmup_ratio, 0.999999),
        "activation_checkpointing": uses_checkpointing(train, num_parameters),
        "activation_checkpointing_kwargs": checkpointing,
        "activation_offloading": train.activation_offloading,
        # the old name of the above, on by default in TRL; it mirrors the new one
        "gradient_checkpointing": None,
        "save_strategy": "steps",
        "save_steps": train.save_steps,
        "logging_steps": train.logging_steps,
        "logging_first_step": True,
        "max_length": None,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
    }


def _try_out(config: "DPOConfig") -> None:
    """Make an optimizer's settings and a schedule as the trainer will: it would fail on wrong ones
    hours later.
    """
    import torch
    from transformers import Trainer, get_scheduler

    Trainer.get_optimizer_cls_and_kwargs(config)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))])
    assert not isinstance(config.lr_scheduler_kwargs, str), "transformers has parsed it"
    get_scheduler(
        config.lr_scheduler_type,
        optimizer,
        num_warmup_steps=1,
        num_training_steps=10,
        scheduler_specific_kwargs=config.lr_scheduler_kwargs,
    )


def pairs_per_read(train: TrainSettings) -> int:
    """Return how many pairs a process reads at a time: a forward's, or a step's where they are cut
    by tokens.
    """
    return train.batch_size * (1 if train.tokens_per_batch is None else train.gradient_accumulation)


LOSSES: dict[str, str] = {
    "sigmoid": "DPO",
    "hinge": "SLiC on the DPO reward",
    "ipo": "IPO",
    "exo_pair": "EXO; needs trl.label_smoothing > 0",
    "nca_pair": "NCA",
    "robust": "Robust DPO; trl.label_smoothing",
    "bco_pair": "BCO",
    "sppo_hard": "SPPO",
    "aot": "AOT, paired",
    "aot_unpaired": "AOT, unpaired",
    "apo_zero": "APO: raise chosen, lower rejected",
    "apo_down": "APO: lower both, rejected more",
    "discopop": "DiscoPOP",
    "sft": "negative log-likelihood of chosen",
    "sigmoid_norm": "DPO on rewards per token",
}
"""Every loss of TRL 1.16 (dpo_trainer.py:1386-1516); a test compares this table with TRL's own
list.
"""

DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
"""What TRL 1.16 knows (dpo_trainer.py:1340-1381); another name fails there in the first step."""

SORTING = frozenset({"aot", "aot_unpaired"})
"""Losses that compare pairs of a forward with each other."""

SET_BY_RECIPE: dict[str, str] = {
    "output_dir": "name (and runs_folder)",
    "run_name": "name",
    "project": "tracking.project",
    "seed": "seed",
    "data_seed": "seed",
    "beta": "train.beta",
    "loss_type": "train.loss",
    "learning_rate": "train.learning_rate",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.max_steps",
    "optim": "train.optimizer",
    "per_device_train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation",
    "warmup_steps": "train.warmup_ratio",
    "lr_scheduler_type": "train.scheduler",
    "report_to": "tracking.to",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "activation_checkpointing": "train.gradient_checkpointing",
    "activation_offloading": "train.activation_offloading",
    "gradient_checkpointing_kwargs": "train.trl.activation_checkpointing_kwargs",
    "max_length": "train.max_length",
    "save_steps": "train.save_steps",
    "save_strategy": "train.save_steps",
    "logging_steps": "train.logging_steps",
    "logging_strategy": "train.logging_steps",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "use_cpu": "model.device",
    "trust_remote_code": "model.trust_remote_code",
    "model_init_kwargs": "model",
    "dataloader_num_workers": "video.workers",
}
"""DPOConfig field -> the recipe key that sets it."""

TUNABLE = frozenset(
    {
        # the optimizer
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "weight_decay",
        "max_grad_norm",
        "optim_args",
        "optim_target_modules",
        "lr_scheduler_kwargs",
        # the loss
        "disable_dropout",
        "discopop_tau",
        "f_alpha_divergence_coef",
        "f_divergence_type",
        "label_smoothing",
        "ld_alpha",
        "loss_weights",
        "router_aux_loss_coef",
        "use_weighting",
        # arithmetic and memory
        "activation_checkpointing_kwargs",
        "full_determinism",
        "tf32",
        "torch_empty_cache_steps",
        # several processes
        "ddp_backend",
        "ddp_broadcast_buffers",
        "ddp_bucket_cap_mb",
        "ddp_find_unused_parameters",
        "ddp_static_graph",
        "ddp_timeout",
        # checkpoints and the log
        "save_total_limit",
        "log_level",
        "log_level_replica",
        "log_on_each_node",
        "logging_nan_inf_filter",
        "skip_memory_metrics",
    }
)
"""DPOConfig fields that may stand under `train.trl`. One that the next TRL adds is refused until it
was tried on video and stands here."""

FSDP_CONFIG = shipped_folder("recipes") / "accelerate" / "fsdp2.yaml"
"""For `accelerate launch --config_file`."""
_LAUNCHER = "it is the launcher's: accelerate launch --config_file"
_CACHE = "TRL's cache does not notice a change of frames, pixels or positions"
_EVALUATION = "nothing is evaluated inside training; held-out clips are the `evaluate` stage"
_HUB = (
    "nothing is uploaded from training, and a recipe never holds a token; "
    "upload the adapter folder yourself"
)
_RESUME = "resuming is ours: the last checkpoint of the same settings is continued exactly"
REFUSED_FIELDS: dict[str, str] = {
    "padding_free": "TRL 1.16 switches it off with a warning; video rows are padded",
    "truncation_mode": "a truncated prompt loses video tokens; a pair over `train.max_length` is "
    "dropped and counted instead",
    "precompute_ref_log_probs": _CACHE,
    "precompute_ref_batch_size": _CACHE,
    "sync_ref_model": "with LoRA the reference is the model without its adapter, so there is no "
    "second model to move",
    "neftune_noise_alpha": "its noise would also reach the reference, which shares the model",
    "use_liger_kernel": "TRL deprecates it, and it replaces forwards that carry the video features",
    "label_smoothing_factor": "DPO never reads it; TRL's own is `label_smoothing` (losses robust "
    "and exo_pair)",
    "auto_find_batch_size": "a batch size that changes by itself cannot be resumed",
    "torch_compile": "every step has trees of another shape, which would be compiled anew",
    "resume_from_checkpoint": _RESUME,
    "save_only_model": _RESUME,
    "fsdp": f"{_LAUNCHER} {FSDP_CONFIG}",
    "fsdp_config": f"{_LAUNCHER} {FSDP_CONFIG}",
    "deepspeed": _LAUNCHER,
    "eval_strategy": _EVALUATION,
    "eval_steps": _EVALUATION,
    "load_best_model_at_end": _EVALUATION,
    "push_to_hub": _HUB,
    "hub_token": _HUB,
}
"""DPOConfig fields that users of TRL know -> why they would do nothing, or silently harm a video
run."""
