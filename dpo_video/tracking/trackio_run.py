"""A run in Trackio: a dashboard on this machine, `trackio show`; its data lie in TRACKIO_DIR."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpo_video.core.errors import UserError
from dpo_video.recipe import Recipe
from dpo_video.tracking.tracked_run import flat_values

ARTIFACT_ROWS = "artifacts"


class TrackioRun:
    """Logs by trackio's functions, which know one run at a time."""

    def __init__(self, recipe: Recipe) -> None:
        import trackio

        self._trackio = trackio
        trackio.init(
            project=recipe.tracking.project,
            name=recipe.name.replace("/", "-"),
            group=recipe.tracking.group,
            config=flat_values(recipe.model_dump()),
            resume="allow",
            embed=False,
        )

    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Log numbers and words as a row of their own."""
        self._trackio.log(dict(values))

    def log_step(self, values: Mapping[str, float], step: int) -> None:
        """Log what training reports of an optimizer step."""
        self._trackio.log(dict(values), step=step)

    def log_table(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Log a table; frames become pictures in it."""
        columns = list(rows[0])
        data = [[self._cell(column, row[column]) for column in columns] for row in rows]
        self._trackio.log({name: self._trackio.Table(columns=columns, data=data)})

    def _cell(self, column: str, value: Any) -> Any:
        return self._trackio.Image(value) if column == "frames" and value is not None else value

    def log_artifact(self, path: Path, *, kind: str, uses: Sequence[str]) -> None:
        """Note where it lies: a copy would double the disk that it takes."""
        self._trackio.log({f"{ARTIFACT_ROWS}/{kind}": str(path)})

    def log_page(self, name: str, page: str) -> None:
        """Show a page."""
        self._trackio.log({name: self._trackio.Html(page)})

    def close(self, *, failed: bool) -> None:
        """End the run and wait until it is stored."""
        self._trackio.finish()

    def abandon(self) -> None:
        """Leave it as it is."""


def open_trackio(recipe: Recipe) -> TrackioRun:
    """Open the Trackio run of a recipe's name, the same again where it is resumed."""
    try:
        return TrackioRun(recipe)
    except ImportError as error:
        raise UserError(f"trackio cannot be imported: {error}") from error
