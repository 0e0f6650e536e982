"""Section `train`."""

from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from dpo_video.recipe.section import Section


class LoraSettings(Section):
    """The adapter: low-rank updates of the linear layers of the parts in `train.tune`."""

    rank: PositiveInt = 64
    """Width of the update; more can learn more and needs more memory."""
    alpha: PositiveInt = 64
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """TRL sets dropout to 0 for DPO unless `train.trl.disable_dropout` is false."""


class TrainSettings(Section):
    """DPO through TRL; any other DPOConfig field goes under `trl`."""

    loss: list[str] = Field(default=["sigmoid"], min_length=1)
    """TRL loss types, summed with `trl.loss_weights`."""
    beta: PositiveFloat = 0.1
    """Strength of the pull to the reference; higher stays closer."""
    learning_rate: PositiveFloat = 1e-5
    """Peak learning rate."""
    epochs: PositiveFloat = 1.0
    """Passes over the pairs."""
    max_steps: PositiveInt | None = None
    """Stop after this many optimizer steps."""
    batch_size: PositiveInt = 1
    """Pairs per device and forward."""
    gradient_accumulation: PositiveInt = 8
    """Forwards per optimizer step."""
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps over which the learning rate rises."""
    scheduler: str = "linear"
    """Learning-rate schedule by its transformers name."""
    optimizer: str = "adamw_torch"
    """Optimizer by its transformers name, e.g. paged_adamw_8bit."""
    lora: LoraSettings = LoraSettings()
    tune: list[Literal["language", "projector", "vision"]] = Field(
        default=["language"], min_length=1
    )
    """Parts whose linear layers get LoRA: language model, projector, vision tower. With the latter
    two the tower runs in each forward, with gradients, and `video.cache: features` cannot be used.
    """
    tokens_per_batch: PositiveInt | None = None
    """Most tokens per forward: the pairs of an optimizer step, batch_size x gradient_accumulation
    per device, are cut by it instead of by batch_size. The memory is even, and the result the same
    but for the loss `sft`, which averages over the tokens of a forward. None cuts by batch_size."""
    share_prefix: bool = True
    """Run what answers to one clip have in common, video and question, once instead of once per
    answer.
    """
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Recompute activations in the backward pass: less memory, more time. auto is true from 3
    billion parameters on.
    """
    activation_offloading: bool = False
    """Keep activations in main memory until the backward pass: less GPU memory, more time."""
    max_length: PositiveInt | None = None
    """Longest prompt + answer in tokens; longer pairs are dropped and counted. None is the model's
    context.
    """
    reference_folder: str | None = None
    """Folder of the reference's log-probs, which runs may share, also at the same time: a sweep
    over beta or learning rate under several names then pays for them once. None keeps them in the
    run folder.
    """
    save_steps: PositiveInt = 100
    """Optimizer steps between checkpoints; training resumes from the last one."""
    logging_steps: PositiveInt = 5
    """Optimizer steps between logged metrics."""
    trl: dict[str, Any] = Field(default={})
    """Other fields of trl.DPOConfig by their own names."""
