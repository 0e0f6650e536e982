"""A run in Weights & Biases: online with a key, written offline without one."""

import logging
import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from dpo_video.core.jsonl import write_atomic
from dpo_video.recipe import Recipe
from dpo_video.tracking.tracked_run import first_line

log = logging.getLogger(__name__)

INIT_SECONDS = 20
"""How long a W&B run may take to begin online before it is kept offline."""


class WandbRun:
    """A W&B run."""

    def __init__(self, opened: Any) -> None:
        self.opened = opened

    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Log numbers and words about the run as a whole."""
        self.opened.summary.update(values)

    def log_step(self, values: Mapping[str, float], step: int) -> None:
        """Log what training reports of an optimizer step."""
        self.opened.log({**values, "train/global_step": step})

    def log_table(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Log a table; a `frames` value is a strip of frames, uint8 (H, W, 3)."""
        import wandb

        columns = list(rows[0])
        table = wandb.Table(columns=[*columns])
        for row in rows:
            cells = dict(row)
            if cells.get("frames") is not None:
                cells["frames"] = wandb.Image(cells["frames"])
            table.add_data(*(cells[column] for column in columns))
        self.opened.log({name: table})

    def log_page(self, name: str, page: str) -> None:
        """Show a page of HTML."""
        import wandb

        self.opened.log({name: wandb.Html(page, inject=False)})

    def log_artifact(self, path: Path, *, kind: str, uses: Sequence[str]) -> None:
        """Store a file or folder as an artifact `<run>-<kind>`, with what it was made from."""
        import wandb

        if self.opened.settings.mode == "online":  # an offline run cannot look artifacts up
            for used_kind in uses:
                self.opened.use_artifact(f"{_artifact_name(self.opened, used_kind)}:latest")
        artifact = wandb.Artifact(
            _artifact_name(self.opened, kind), type=kind, metadata={"made_from": list(uses)}
        )
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        self.opened.log_artifact(artifact)

    def close(self, *, failed: bool) -> None:
        """End the run."""
        self.opened.finish(exit_code=int(failed))

    def abandon(self) -> None:
        """End W&B's process, which would hold on to the run's id."""
        _end_service()


def open_wandb(recipe: Recipe) -> WandbRun:
    """Open the W&B run of a run folder: online where there is a key and that works, else offline,
    which is told in one line.
    """
    if has_key():
        try:
            return WandbRun(_open_wandb(recipe, "online"))
        except Exception as error:  # noqa: BLE001 - keys, networks, servers: each has its own
            log.warning(
                "W&B: %s. Tracking goes on offline; send it later with `wandb sync` from %s",
                first_line(error),
                recipe.run_folder / "wandb",
            )
            _end_service()
    try:
        return WandbRun(_open_wandb(recipe, "offline"))
    except Exception:
        _end_service()
        raise


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
        # a sweep's agent has made its run before it starts the process
        is_trial = bool(os.environ.get("WANDB_SWEEP_ID"))
        given = os.environ.get("WANDB_RUN_ID") if is_trial else None
        write_atomic(id_file, given or secrets.token_hex(4))
    wandb_run = wandb.init(
        project=recipe.tracking.project,
        entity=recipe.tracking.entity,
        name=recipe.name,
        group=recipe.tracking.group,
        tags=recipe.tracking.tags or None,
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


def _artifact_name(wandb_run: Any, kind: str) -> str:
    """Return `<run>-<kind>`; W&B takes no slash in it."""
    return f"{wandb_run.name}-{kind}".replace("/", "-")


def has_key() -> bool:
    """Return whether W&B would go online: a key in the environment or in ~/.netrc, and no mode that
    forbids it.
    """
    if os.environ.get("WANDB_MODE") in ("offline", "dryrun"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
