"""The table that a run ends with: before, after and change on held-out clips, with 95 %
intervals.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpo_video.core.errors import UserError

WIDTH = 110
"""Columns of the table where the output is not a terminal."""
ROWS = (
    ("gold accuracy", "accuracy", True),
    ("judged score", "judged_score", False),
    ("hallucination rate", "hallucination_rate", True),
    ("answer length", "answer_length", False),
)
"""Title, metric, and whether it is a share shown in per cent."""


def console() -> Console:
    """Return a console on stdout, of a fixed width where that is no terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDTH)


def print_summary(path: Path, out: Console | None = None) -> None:
    """Print the numbers of a metrics.json and where it lies."""
    if not path.is_file():
        raise UserError(f"no metrics at {str(path)!r}; make them first: dpo-video evaluate RECIPE")
    metrics = json.loads(path.read_text(encoding="utf-8"))
    out = out or console()
    out.print(summary(metrics))
    out.print(Text(f"metrics: {path}"), soft_wrap=True)


def summary(metrics: Mapping[str, Any]) -> RenderableType:
    """Return the table and the lines below it."""
    table = Table(box=box.SIMPLE, title="Held-out clips, 95 % intervals", title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("before", "after", "change", "n"):
        table.add_column(heading, justify="right", min_width=4 if heading == "n" else None)
    for title, name, share in ROWS:
        if name in metrics["before"]:
            cells = [
                cell(metrics[side], name, share=share, signed=side == "change")
                for side in ("before", "after", "change")
            ]
            table.add_row(title, *cells, str(metrics["change"][f"{name}_n"]))
    return Group(table, Text("\n".join(lines(metrics))))


def lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return what the table does not hold, one line a subject; counts of what is missing stand with
    each number.
    """
    judged, pairs, heldout = metrics["judged"], metrics["heldout_pairs"], metrics["heldout"]
    unscored = f", {judged['unscored']} unscored" if judged["unscored"] else ""
    out = [
        f"tuned against base: {judged['win']} won, {judged['tie']} tied, {judged['loss']} lost of "
        f"{judged['n']}"
        f"{unscored}; win rate {cell(judged, 'win_rate', share=True)}, at equal length "
        f"{cell(judged, 'length_controlled_win_rate', share=True)}",
        f"held-out pairs: the chosen answer has the higher implicit reward in "
        f"{cell(pairs, 'reward_accuracy', share=True)} of {pairs['n']}; "
        f"mean margin {cell(pairs, 'margin', share=False)}",
    ]
    for side in ("before", "after"):
        missing = (
            metrics[side].get("judged_score_unscored", 0),
            metrics[side].get("hallucination_rate_unscored", 0),
        )
        if any(missing):
            out.append(
                f"unscored answers {side}: {missing[0]} by the scorer, {missing[1]} by the "
                f"hallucination scorer "
                "(counted as not supported)"
            )
    if heldout["unanswered"]:
        out.append(
            f"{heldout['unanswered']} of {heldout['samples']} held-out questions have no answer: "
            f"their clips "
            "cannot be read"
        )
    seconds = metrics["seconds"]
    return [
        *out,
        "seconds: "
        + ", ".join(f"{stage} {value:.0f}" for stage, value in seconds.items())
        + f"; together {sum(seconds.values()):.0f}",
    ]


def cell(values: Mapping[str, Any], name: str, *, share: bool, signed: bool = False) -> str:
    """Return a number with its interval, `-` where there is none."""
    value, interval = values.get(name), values.get(f"{name}_ci")
    if value is None:
        return "-"
    factor, form = (100, ".1f") if share else (1, ".2f")
    sign = "+" if signed else ""
    unit = "" if not share else " pts" if signed else " %"
    shown = f"{value * factor:{sign}{form}}{unit}"
    if interval is None:
        return f"{shown} [no interval: one clip]"
    return f"{shown} [{interval[0] * factor:{sign}{form}}, {interval[1] * factor:{sign}{form}}]"
