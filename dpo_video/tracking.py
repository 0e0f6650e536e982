"""Track a run in Weights & Biases: online with a key, written offline without one, or not at
all.
"""

import importlib.util
import logging
import netrc
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_atomic
from dpo_video.recipe import Recipe

log = logging.getLogger(__name__)

INIT_SECONDS = 20
"""How long a W&B run may take to begin online before it is kept offline."""


@dataclass(kw_only=True)
class Tracker:
    """Where metrics go: a W&B run that the first thing logged opens, or nowhere without a recipe.

    Trouble with W&B never ends a run: without a network or with a wrong key all goes to files, and
    where its process is gone nothing more is logged; either is told in one line.
    """

    recipe: Recipe | None = None
    _wandb_run: Any = None
    _given_up: bool = False

    @property
    def is_on(self) -> bool:
        """Whether what is logged goes anywhere."""
        return self.recipe is not None and not self._given_up

    @property
    def wandb_run(self) -> Any:
        """The W&B run, opened now where it is not yet; None where tracking is off."""
        if self.is_on and self._wandb_run is None:
            self._wandb_run = self._open()
        return self._wandb_run if self.is_on else None

    def log_stage(self, stage: str, summary: Mapping[str, Any], seconds: float) -> None:
        """Log a stage's counts and duration under `<stage>/`."""
        flat = _flat({**summary, "seconds": seconds})
        values = {f"{stage}/{key}": value for key, value in flat.items()}
        self._attempt(lambda wandb_run: wandb_run.summary.update(values))

    def log_step(self, logs: Mapping[str, float], step: int) -> None:
        """Log what training reports of an optimizer step, under `train/`."""
        values = {f"train/{name}": value for name, value in logs.items()}
        self._attempt(lambda wandb_run: wandb_run.log({**values, "train/global_step": step}))

    def log_table(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Log a table; a `frames` value is a strip of frames, uint8 (H, W, 3)."""
        if rows:
            self._attempt(partial(_log_table, name=name, rows=rows))

    def log_artifact(self, path: Path, *, kind: str, uses: Sequence[str] = ()) -> None:
        """Store a file or folder as an artifact `<run>-<kind>`; `uses` are the kinds it was made
        from (lineage).
        """
        self._attempt(partial(_log_artifact, path=path, kind=kind, uses=uses))

    def log_page(self, name: str, page: str) -> None:
        """Show a page of HTML, which may load nothing but itself, under a name."""
        self._attempt(partial(_log_page, name=name, page=page))

    def close(self, *, failed: bool) -> None:
        """End the W&B run, if one was opened."""
        if self._wandb_run is not None and not self._given_up:
            self._attempt(lambda wandb_run: wandb_run.finish(exit_code=int(failed)))

    def _attempt(self, call: Callable[[Any], object]) -> None:
        wandb_run = self.wandb_run
        if wandb_run is None:
            return
        try:
            call(wandb_run)
        except Exception as error:  # noqa: BLE001 - a tracker is no reason to lose a run
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._given_up = True
        _end_service()
        log.warning(
            "W&B: %s. Nothing more is logged there, the run goes on; what was logged before can "
            "be sent with `wandb sync` from %s",
            _first_line(error),
            self.recipe and self.recipe.run_folder / "wandb",
        )

    def _open(self) -> Any:
        assert self.recipe is not None
        if _has_key():
            try:
                return _open_wandb(self.recipe, "online")
            except Exception as error:  # noqa: BLE001 - keys, networks, servers: each has its own
                log.warning(
                    "W&B: %s. Tracking goes on offline; send it later with `wandb sync` from %s",
                    _first_line(error),
                    self.recipe.run_folder / "wandb",
                )
                _end_service()
        try:
            return _open_wandb(self.recipe, "offline")
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up(error)
            return None


def _end_service() -> None:
    """End W&B's process, which would hold on to the id of a run that it could not begin."""
    import wandb

    try:
        wandb.teardown(exit_code=1)
    except Exception as error:  # noqa: BLE001 - a tracker is no reason to lose a run
        log.debug("W&B: %s", error)


def _open_wandb(recipe: Recipe, mode: Literal["online", "offline"]) -> Any:
    """Open the W&B run of a run folder, resumed under the id that the folder keeps."""
    import wandb

    # wandb's process captures the environment it is given: keys of judges are of no use to it.
    id_file = recipe.run_folder / "wandb_id"
    if not id_file.exists():
        write_atomic(id_file, secrets.token_hex(4))
    wandb_run = wandb.init(
        project=recipe.tracking.project,
        entity=recipe.tracking.entity,
        name=recipe.name,
        id=id_file.read_text().strip(),
        resume="allow",
        dir=str(recipe.run_folder),
        config=recipe.model_dump(),
        mode=mode,
        settings=wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            init_timeout=INIT_SECONDS,
        ),
    )
    _remove_import_hooks()
    wandb_run.define_metric("train/*", step_metric="train/global_step")
    return wandb_run


def _remove_import_hooks() -> None:
    """Have W&B not hear of imports: once its process is gone, its hook lets `import peft` fail."""
    from wandb.sdk.lib import import_hooks

    unregister = getattr(import_hooks, "unregister_all_post_import_hooks", None)
    if unregister is not None:
        unregister()


def _log_table(wandb_run: Any, *, name: str, rows: Sequence[dict[str, Any]]) -> None:
    import wandb

    columns = list(rows[0])
    table = wandb.Table(columns=[*columns])
    for row in rows:
        cells = dict(row)
        if cells.get("frames") is not None:
            cells["frames"] = wandb.Image(cells["frames"])
        table.add_data(*(cells[column] for column in columns))
    wandb_run.log({name: table})


def _log_page(wandb_run: Any, *, name: str, page: str) -> None:
    import wandb

    wandb_run.log({name: wandb.Html(page, inject=False)})


def _log_artifact(wandb_run: Any, *, path: Path, kind: str, uses: Sequence[str]) -> None:
    import wandb

    if wandb_run.settings.mode == "online":  # an offline run cannot look artifacts up
        for used_kind in uses:
            wandb_run.use_artifact(f"{wandb_run.name}-{used_kind}:latest")
    artifact = wandb.Artifact(
        f"{wandb_run.name}-{kind}", type=kind, metadata={"made_from": list(uses)}
    )
    if path.is_dir():
        artifact.add_dir(str(path))
    else:
        artifact.add_file(str(path))
    wandb_run.log_artifact(artifact)


@contextmanager
def start_tracking(recipe: Recipe) -> Iterator[Tracker]:
    """Give the tracker of a recipe, and close it at the end.

    Nothing is written before something is logged: a command with nothing to do, or that fails
    first, leaves no W&B run.
    """
    if recipe.tracking.to == "none" or os.environ.get("WANDB_MODE") == "disabled":
        yield Tracker()
        return
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            "tracking.to is 'wandb' but wandb is not installed: pip install wandb, "
            "or set tracking.to=none"
        )
    tracker = Tracker(recipe=recipe)
    failed = True
    try:
        yield tracker
        failed = False
    finally:
        tracker.close(failed=failed)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{lines[0][:200] if lines else type(error).__name__}"


def _has_key() -> bool:
    if os.environ.get("WANDB_MODE") in ("offline", "dryrun"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}/"))
        else:
            flat[prefix + key] = (
                value if isinstance(value, int | float | str) else strict_json.dumps(value)
            )
    return flat
