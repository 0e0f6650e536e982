"""Track a run in Weights & Biases: online with a key, written offline without one, or not at
all.
"""

import json
import netrc
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dpo_video.core.errors import UserError
from dpo_video.core.jsonl import write_atomic
from dpo_video.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """Where metrics go. `wandb_run` is None when tracking is off; then every call does nothing."""

    wandb_run: Any = None

    @property
    def report_to(self) -> str:
        """The value for transformers' `report_to`."""
        return "none" if self.wandb_run is None else "wandb"

    def log_stage(self, stage: str, summary: Mapping[str, Any], seconds: float) -> None:
        """Log a stage's counts and duration under `<stage>/`."""
        if self.wandb_run is not None:
            values = {
                f"{stage}/{key}": value
                for key, value in _flat({**summary, "seconds": seconds}).items()
            }
            self.wandb_run.summary.update(values)

    def log_pairs(self, rows: Sequence[dict[str, Any]]) -> None:
        """Log a table of sampled pairs; a `frames` value is a strip of frames, uint8 (H, W, 3)."""
        if self.wandb_run is not None and rows:
            import wandb

            columns = list(rows[0])
            data = [
                [
                    wandb.Image(row[name])
                    if name == "frames" and row[name] is not None
                    else row[name]
                    for name in columns
                ]
                for row in rows
            ]
            self.wandb_run.log({"pairs": wandb.Table(columns=[*columns], data=data)})

    def log_artifact(self, path: Path, *, kind: str, uses: Sequence[str] = ()) -> None:
        """Store a file or folder as an artifact `<run>-<kind>`; `uses` are the kinds it was made
        from (lineage).
        """
        if self.wandb_run is None:
            return
        import wandb

        for used in uses:
            if self.wandb_run.settings.mode == "online":  # an offline run cannot look artifacts up
                self.wandb_run.use_artifact(f"{self.wandb_run.name}-{used}:latest")
        artifact = wandb.Artifact(
            f"{self.wandb_run.name}-{kind}", type=kind, metadata={"made_from": list(uses)}
        )
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        self.wandb_run.log_artifact(artifact)


@contextmanager
def start_tracking(recipe: Recipe) -> Iterator[Tracker]:
    """Open the W&B run of a run folder, resumed under the id that the folder keeps; close it at the
    end.
    """
    if recipe.tracking.to == "none":
        yield Tracker()
        return
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "tracking.to is 'wandb' but wandb is not installed: pip install wandb, "
            "or set tracking.to=none"
        ) from error
    # wandb's process captures the environment it is given: keys of judges are of no use to it.
    id_file = recipe.run_folder / "wandb_id"
    if not id_file.exists():
        write_atomic(id_file, secrets.token_hex(4))
    run = wandb.init(
        project=recipe.tracking.project,
        entity=recipe.tracking.entity,
        name=recipe.name,
        id=id_file.read_text().strip(),
        resume="allow",
        dir=str(recipe.run_folder),
        config=recipe.model_dump(),
        mode="online" if _has_key() else "offline",
        settings=wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_meta=True
        ),
    )
    failed = True
    try:
        yield Tracker(wandb_run=run)
        failed = False
    finally:
        run.finish(exit_code=int(failed))


def _has_key() -> bool:
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
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
                value if isinstance(value, int | float | str) else json.dumps(value)
            )
    return flat
