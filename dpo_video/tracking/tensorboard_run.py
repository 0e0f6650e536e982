"""A run in TensorBoard: event files in RUN/tensorboard. It has no tables and keeps no files: a
table becomes a text and its frames pictures, an artifact its path.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpo_video.recipe import Recipe
from dpo_video.recipe.file import dump_recipe


class TensorBoardRun:
    """Writes event files by torch's writer."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # here: it needs torch

        self._writer = SummaryWriter(str(folder))

    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Log numbers as scalars of step 0, words as texts."""
        for name, value in values.items():
            if isinstance(value, str):
                self._writer.add_text(name, value)
            else:
                self._writer.add_scalar(name, value, 0)

    def log_step(self, values: Mapping[str, float], step: int) -> None:
        """Log what training reports of an optimizer step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def log_table(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Log a table as Markdown, and the strip of frames of each row as a picture."""
        self._writer.add_text(name, markdown_table(rows))
        for number, row in enumerate(rows):
            if row.get("frames") is not None:
                self._writer.add_image(f"{name}/frames", row["frames"], number, dataformats="HWC")

    def log_artifact(self, path: Path, *, kind: str, uses: Sequence[str]) -> None:
        """Note where it lies."""
        self._writer.add_text(f"artifacts/{kind}", str(path))

    def log_page(self, name: str, page: str) -> None:
        """Leave it out: event files show no pages; `dpo-video report` writes it to the disk."""

    def close(self, *, failed: bool) -> None:
        """Write what waits."""
        self._writer.close()

    def abandon(self) -> None:
        """Leave it as it is."""


def open_tensorboard(recipe: Recipe) -> TensorBoardRun:
    """Open the event files of a run folder; a resumed run adds to them."""
    tracked = TensorBoardRun(recipe.run_folder / "tensorboard")
    tracked.log_summary({"recipe": f"```yaml\n{dump_recipe(recipe)}```"})
    return tracked


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as a Markdown table without their frames."""
    columns = [name for name in rows[0] if name != "frames"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = (" ".join(str(row[name]).split()).replace("|", "\\|") for name in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
