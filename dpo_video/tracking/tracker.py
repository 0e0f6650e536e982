"""The tracker of a run: opened by the first thing that is logged, given up at the first trouble."""

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.recipe import Recipe
from dpo_video.tracking.tensorboard_run import open_tensorboard
from dpo_video.tracking.tracked_run import TrackedRun, first_line, flat_values
from dpo_video.tracking.trackio_run import open_trackio
from dpo_video.tracking.wandb_run import open_wandb

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrackerKind:
    """A tracker: what opens its run, the package that it needs, and where what was logged lies."""

    title: str
    package: str
    install: str
    open: Callable[[Recipe], TrackedRun]
    kept: str


TRACKERS: dict[str, TrackerKind] = {
    "wandb": TrackerKind(
        title="W&B",
        package="wandb",
        install="pip install wandb",
        open=open_wandb,
        kept="what was logged before can be sent with `wandb sync` from {folder}/wandb",
    ),
    "trackio": TrackerKind(
        title="Trackio",
        package="trackio",
        install="pip install 'dpo-video[trackio]'",
        open=open_trackio,
        kept="what was logged before is shown by `trackio show`",
    ),
    "tensorboard": TrackerKind(
        title="TensorBoard",
        package="tensorboard",
        install="pip install 'dpo-video[tensorboard]'",
        open=open_tensorboard,
        kept="what was logged before is in {folder}/tensorboard",
    ),
}
"""By `tracking.to`."""


@dataclass(kw_only=True)
class Tracker:
    """Where metrics go: a tracker's run that the first thing logged opens, or nowhere without a
    recipe.

    Trouble with a tracker never ends a run: nothing more is logged then, which is told in one line.
    """

    recipe: Recipe | None = None
    _opened: TrackedRun | None = None
    _given_up: bool = False

    @property
    def is_on(self) -> bool:
        """Whether what is logged goes anywhere."""
        return self.recipe is not None and not self._given_up

    @property
    def tracked_run(self) -> TrackedRun | None:
        """The tracker's run, opened now where it is not yet; None where tracking is off."""
        if self.recipe is not None and self.is_on and self._opened is None:
            try:
                self._opened = self._kind.open(self.recipe)
            except Exception as error:  # noqa: BLE001 - a tracker is no reason to lose a run
                self._give_up(error)
        return self._opened if self.is_on else None

    @property
    def _kind(self) -> TrackerKind:
        assert self.recipe is not None
        return TRACKERS[self.recipe.tracking.to]

    def log_stage(self, stage: str, summary: Mapping[str, Any], seconds: float) -> None:
        """Log a stage's counts and duration under `<stage>/`."""
        flat = flat_values({**summary, "seconds": seconds})
        values = {f"{stage}/{key}": value for key, value in flat.items()}
        self._attempt(lambda tracked: tracked.log_summary(values))

    def log_step(self, logs: Mapping[str, float], step: int) -> None:
        """Log what training reports of an optimizer step, under `train/`."""
        values = {f"train/{name}": value for name, value in logs.items()}
        self._attempt(lambda tracked: tracked.log_step(values, step))

    def log_table(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Log a table; a `frames` value is a strip of frames, uint8 (H, W, 3)."""
        if rows:
            self._attempt(lambda tracked: tracked.log_table(name, rows))

    def log_artifact(self, path: Path, *, kind: str, uses: Sequence[str] = ()) -> None:
        """Store a file or folder as an artifact `<run>-<kind>`; `uses` are the kinds it was made
        from (lineage).
        """
        self._attempt(lambda tracked: tracked.log_artifact(path, kind=kind, uses=uses))

    def log_page(self, name: str, page: str) -> None:
        """Show a page of HTML, which may load nothing but itself, under a name."""
        self._attempt(lambda tracked: tracked.log_page(name, page))

    def close(self, *, failed: bool) -> None:
        """End the tracker's run, if one was opened."""
        if self._opened is not None and not self._given_up:
            self._attempt(lambda tracked: tracked.close(failed=failed))

    def _attempt(self, call: Callable[[TrackedRun], object]) -> None:
        tracked = self.tracked_run
        if tracked is None:
            return
        try:
            call(tracked)
        except Exception as error:  # noqa: BLE001 - a tracker is no reason to lose a run
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        assert self.recipe is not None
        self._given_up = True
        if self._opened is not None:
            try:
                self._opened.abandon()
            except Exception as trouble:  # noqa: BLE001 - as above
                log.debug("%s: %s", self._kind.title, trouble)
        log.warning(
            "%s: %s. Nothing more is logged there, the run goes on; %s",
            self._kind.title,
            first_line(error),
            self._kind.kept.format(folder=self.recipe.run_folder),
        )


@contextmanager
def start_tracking(recipe: Recipe) -> Iterator[Tracker]:
    """Give the tracker of a recipe, and close it at the end.

    Nothing is written before something is logged: a command with nothing to do, or that fails
    first, leaves no tracker's run.
    """
    kind = TRACKERS.get(recipe.tracking.to)
    is_disabled = recipe.tracking.to == "wandb" and os.environ.get("WANDB_MODE") == "disabled"
    if kind is None or is_disabled:
        yield Tracker()
        return
    if importlib.util.find_spec(kind.package) is None:
        raise UserError(
            f"tracking.to is {recipe.tracking.to!r} but {kind.package} is not installed: "
            f"{kind.install}, or set tracking.to=none"
        )
    tracker = Tracker(recipe=recipe)
    failed = True
    try:
        yield tracker
        failed = False
    finally:
        tracker.close(failed=failed)
