"""What `dpo-video parity` prints: a table, a row a way of showing clips, and the verdict."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpo_video.core.report import number_text
from dpo_video.models.served import why_merged_only
from dpo_video.parity.command import ParityReport
from dpo_video.parity.compare import WayParity, is_base
from dpo_video.recipe import Recipe

SHOWN_AS = {
    "film": "our frames, as a clip",
    "images": "our frames, as images",
    "file": "the file itself",
}


def parity_summary(report: ParityReport, folder: str, recipe: Recipe) -> RenderableType:
    """Return the table and the lines below it; `recipe` is that of the run in `folder`."""
    table = Table(box=box.SIMPLE, title=f"Answers of {report.model}", title_justify="left")
    table.add_column("the server gets", no_wrap=True)
    for heading in ("n", "equal", "as the base", "parts after", "nats a token", "prompt tokens"):
        table.add_column(heading, justify="right")
    for way in report.ways:
        table.add_row(
            SHOWN_AS[way.shown_as],
            str(way.n),
            number_text(way.share_equal, share=True),
            number_text(way.equal_base / way.n, share=True) if way.n else "-",
            _number(way.first_difference, " characters"),
            _gaps(way),
            _number(way.prompt_tokens),
        )
    return Group(table, Text("\n".join([*_lines(report, folder, recipe)])))


def _lines(report: ParityReport, folder: str, recipe: Recipe) -> list[str]:
    frames = report.ways[0]
    lines = [report.verdict.text]
    if is_base(frames):
        lines.append(_how_to_serve(folder, why_merged_only(recipe)))
    if frames.shown_as == "images":
        lines.append(
            "The frames went as images, and the answers here were made from images too, not from "
            "a video as in training."
        )
    lines += [f"not taken: {reason}" for reason in report.refused]
    for way in report.ways:
        if way.failed:
            lines.append(
                f"warning: {way.failed} of {report.questions} questions have no answer to compare "
                f"({SHOWN_AS[way.shown_as]}); {report.bad_clips} clips cannot be read"
            )
    lines.append(f"parity: {folder}/parity.json, each answer in {folder}/parity.jsonl")
    return lines


def _how_to_serve(folder: str, why_merged: str | None) -> str:
    """Return what to do where a server answers as the base."""
    if why_merged is not None:
        return (
            f"Serve the merged model: `dpo-video merge {folder}` prints the commands. Beside its "
            f"base the adapter cannot be served, as {why_merged}. See docs/serving.md."
        )
    return (
        f"vLLM answers with the adapter when it is started with `--enable-lora "
        f"--max-lora-rank RANK --lora-modules tuned={folder}/adapter` and asked for the model "
        "`tuned`; other servers take the merged model: `dpo-video merge`. See docs/serving.md."
    )


def _gaps(way: WayParity) -> str:
    """Return the distances to tuned model and base: `0.004 (base 1.210)`."""
    if way.logp_gap is None or way.base_logp_gap is None:
        return "-"
    return f"{way.logp_gap:.3f} (base {way.base_logp_gap:.3f})"


def _number(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.0f}{unit}"
