"""Section `train`."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from dpo_video.recipe.affects import (
    ABSENT_AT_DEFAULT,
    CONTENTS_IN_KEYS,
    DEFAULT_IN_KEYS,
    Affects,
    ExceptKeys,
)
from dpo_video.recipe.section import Section

TRL_SPEED_ONLY = ExceptKeys(
    frozenset(
        {
            "ddp_find_unused_parameters",
            "ddp_timeout",
            "log_level",
            "log_level_replica",
            "log_on_each_node",
            "logging_nan_inf_filter",
            "save_total_limit",
            "skip_memory_metrics",
            "torch_empty_cache_steps",
        }
    )
)
"""Fields of DPOConfig that touch no weight: training goes on when they change."""


class LoraSettings(Section):
    """The adapter: low-rank updates of the linear layers of the parts in `train.tune`."""

    rank: Annotated[PositiveInt, Affects.WEIGHTS] = 64
    """Width of the update; more can learn more and needs more memory."""
    alpha: Annotated[PositiveInt, Affects.WEIGHTS] = 64
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Affects.WEIGHTS] = Field(default=0.0, ge=0, lt=1)
    """TRL sets dropout to 0 for DPO unless `train.trl.disable_dropout` is false."""
    experts: Annotated[bool, Affects.WEIGHTS, ABSENT_AT_DEFAULT] = False
    """Of a mixture of experts, tune these too, each with an update of `rank` of its own; never the
    router. There are thousands of them: take a small rank. Such an adapter is served merged alone
    (`dpo-video merge`)."""


class TrainSettings(Section):
    """DPO through TRL; any other DPOConfig field goes under `trl`."""

    loss: Annotated[list[str], Affects.WEIGHTS] = Field(default=["sigmoid"], min_length=1)
    """TRL loss types, summed with `trl.loss_weights`. Anchors that keep the chosen answer likely:
    `sft`, its mean token loss; `bco_pair`, whose first term, -log sigmoid(beta * log-ratio of the
    chosen answer), is mDPO's anchor, and whose second pushes the rejected one down likewise."""
    beta: Annotated[PositiveFloat, Affects.WEIGHTS] = 0.1
    """Strength of the pull to the reference; higher stays closer."""
    reference: Annotated[str, Affects.WEIGHTS, CONTENTS_IN_KEYS] = "start"
    """What `beta` pulls to, and implicit rewards are measured against: `start`, the policy that
    training starts from (with `model.adapter`); `base`, the model without any adapter; or the
    folder of another adapter."""
    learning_rate: Annotated[PositiveFloat, Affects.WEIGHTS] = 1e-5
    """Peak learning rate."""
    epochs: Annotated[PositiveFloat, Affects.WEIGHTS] = 1.0
    """Passes over the pairs."""
    max_steps: Annotated[PositiveInt | None, Affects.WEIGHTS] = None
    """Stop after this many optimizer steps."""
    batch_size: Annotated[PositiveInt, Affects.WEIGHTS] = 1
    """Pairs per device and forward."""
    gradient_accumulation: Annotated[PositiveInt, Affects.WEIGHTS] = 8
    """Forwards per optimizer step."""
    warmup_ratio: Annotated[float, Affects.WEIGHTS] = Field(default=0.1, ge=0, le=1)
    """Share of the steps over which the learning rate rises."""
    scheduler: Annotated[str, Affects.WEIGHTS] = "linear"
    """Learning-rate schedule by its transformers name."""
    optimizer: Annotated[str, Affects.WEIGHTS] = "adamw_torch"
    """Optimizer by its transformers name, e.g. paged_adamw_8bit."""
    lora: LoraSettings = LoraSettings()
    tune: Annotated[list[Literal["language", "projector", "vision"]], Affects.WEIGHTS] = Field(
        default=["language"], min_length=1
    )
    """Parts whose linear layers get LoRA: language model, projector, vision tower; never what reads
    sound. With the latter two the tower runs in each forward, with gradients, and `video.cache:
    features` cannot be used."""
    tokens_per_batch: Annotated[PositiveInt | None, Affects.WEIGHTS] = None
    """Most tokens per forward: the pairs of an optimizer step, batch_size x gradient_accumulation
    per device, are cut by it instead of by batch_size. The memory is even, and the result the same
    but for the loss `sft`, which averages over the tokens of a forward. None cuts by batch_size."""
    share_prefix: Annotated[bool, Affects.WEIGHTS] = True
    """Run what answers to one clip have in common, video and question, once instead of once per
    answer.
    """
    gradient_checkpointing: Annotated[bool | Literal["auto"], Affects.SPEED, DEFAULT_IN_KEYS] = (
        "auto"
    )
    """Recompute activations in the backward pass: less memory, more time. auto is true from 3
    billion parameters on.
    """
    activation_offloading: Annotated[bool, Affects.SPEED, DEFAULT_IN_KEYS] = False
    """Keep activations in main memory until the backward pass: less GPU memory, more time."""
    max_length: Annotated[PositiveInt | None, Affects.WEIGHTS] = None
    """Longest prompt + answer in tokens; longer pairs are dropped and counted. None is the model's
    context.
    """
    reference_folder: Annotated[str | None, Affects.SPEED] = None
    """Folder of the reference's log-probs, which runs may share, also at the same time: a sweep
    over beta or learning rate under several names then pays for them once. None keeps them in the
    run folder.
    """
    save_steps: Annotated[PositiveInt, Affects.SPEED] = 100
    """Optimizer steps between checkpoints; training resumes from the last one."""
    logging_steps: Annotated[PositiveInt, Affects.SPEED] = 5
    """Optimizer steps between logged metrics."""
    trl: Annotated[dict[str, Any], Affects.WEIGHTS, TRL_SPEED_ONLY] = Field(default={})
    """Other fields of trl.DPOConfig by their own names."""

    @property
    def tunes_further(self) -> bool:
        """Whether more is tuned than the layers of the language model that every family has."""
        return self.lora.experts or set(self.tune) != {"language"}
