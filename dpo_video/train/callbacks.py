"""The progress bar of training, one line."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dpo_video.core.progress import Advance, progress
from dpo_video.tracking import Tracker
from dpo_video.train.sampler import ClipSampler


class StepBar(TrainerCallback):
    """Shows optimizer steps, and the loss, margin and accuracy that were logged last."""

    def __init__(self, bars: ExitStack) -> None:
        """Open the bar in `bars`, which whoever trains closes, also after an error: a bar that is
        open when the interpreter ends would end it with an error of its own.
        """
        self._open = bars
        self._advance: Advance | None = None
        self._shown: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar where a resumed run stands."""
        bar = progress("train", total=state.max_steps, done=state.global_step)
        self._advance = self._open.enter_context(bar)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move on by a step."""
        if self._advance is not None:
            self._advance(1, **self._shown)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep what the bar shows next."""
        names = {"loss": "loss", "margin": "rewards/margins", "accuracy": "rewards/accuracies"}
        self._shown = {
            name: f"{logs[key]:.3f}" for name, key in names.items() if logs and key in logs
        } or self._shown

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        self._open.close()


class TrackedSteps(TrainerCallback):
    """Tells the run's tracker what is logged. transformers' own callback would end training where
    W&B is in trouble.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Log the numbers of a step."""
        if logs:
            self._tracker.log_step(logs, state.global_step)


class TrainBegin(TrainerCallback):
    """Does something once the model is where it trains, before the first step."""

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Do it."""
        self._do()


class EpochStart(TrainerCallback):
    """Tells the order its epoch; transformers would tell only samplers that accelerate wrapped."""

    def __init__(self, order: ClipSampler) -> None:
        self._order = order

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Shuffle for the epoch that begins, or, after a resume, the one it was killed in."""
        self._order.set_epoch(int(state.epoch or 0))
