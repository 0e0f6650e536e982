"""The tables that a run ends with, before, after and change with 95 % intervals, and what came of
each set.
"""

from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpo_video.core.progress import open_terminal
from dpo_video.core.report import Estimate, estimate_text, number_text
from dpo_video.evaluate.report import Metrics, read_metrics
from dpo_video.evaluate.sets_table import sets_table, unparsed_lines
from dpo_video.recipe.evaluate import HELDOUT
from dpo_video.store import content_hash

WIDTH = 110
"""Columns of the table where the output is not a terminal."""
ROWS = (
    ("exact match", "exact_match", True),
    ("judged score", "judged_score", False),
    ("hallucination rate", "hallucination_rate", True),
    ("answer length", "answer_length", False),
)
"""Title, metric, and whether it is a share shown in per cent."""


def print_summary(path: Path, output: Console | None = None) -> None:
    """Print the numbers of a metrics.json and where it lies."""
    metrics = read_metrics(path)
    output = output or open_terminal(width=WIDTH)
    output.print(summary(metrics))
    adapter = path.parent / "adapter"
    if not _is_measured(adapter, metrics):
        warning = f"these numbers are of another adapter than {str(adapter)!r} holds now"
        output.print(
            Text(f"warning: {warning}. Make them anew: dpo-video evaluate RECIPE"), soft_wrap=True
        )
    output.print(Text(f"metrics: {path}"), soft_wrap=True)
    if metrics.verdicts:
        output.print(Text("\n".join(["", *verdict_lines(metrics)])))


def _is_measured(adapter: Path, metrics: Metrics) -> bool:
    """Return whether an adapter is the one that was measured, as far as the metrics say which."""
    return metrics.adapter is None or (
        adapter.exists() and content_hash(adapter) == metrics.adapter
    )


def summary(metrics: Metrics) -> RenderableType:
    """Return the table and the lines below it."""
    table = Table(box=box.SIMPLE, title="Held-out clips, 95 % intervals", title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("before", "after", "change", "n"):
        table.add_column(heading, justify="right", min_width=4 if heading == "n" else None)
    for title, name, share in ROWS:
        hidden = name == "exact_match" and metrics.exact_match_hidden is not None
        change: Estimate | None = getattr(metrics.change, name)
        if hidden or change is None:
            continue
        table.add_row(
            title,
            _cell(getattr(metrics.before, name), share=share),
            _cell(getattr(metrics.after, name), share=share),
            _cell(change, share=share, signed=True),
            str(change.n),
        )
    sets = {name: each for name, each in metrics.sets.items() if name != HELDOUT}
    tables = [table, sets_table(sets)] if sets else [table]
    return Group(*tables, Text("\n".join(summary_lines(metrics))))


def verdict_lines(metrics: Metrics) -> list[str]:
    """Return what came of each set, worst first, a line each below a headline."""
    num_sets = sum(verdict.outcome != "not compared" for verdict in metrics.verdicts)
    corrected = f", p corrected over {num_sets} sets" if num_sets > 1 else ""
    return [
        f"verdict, worst first{corrected}:",
        *(f"- {verdict.sentence}" for verdict in metrics.verdicts),
    ]


def summary_lines(metrics: Metrics) -> list[str]:
    """Return what the table does not hold, one line a subject; counts of what is missing stand with
    each number.
    """
    judged, pairs, heldout = metrics.judged, metrics.heldout_pairs, metrics.heldout
    unscored = f", {judged.unscored} unscored" if judged.unscored else ""
    lines = [
        f"after against before: {judged.win} won, {judged.tie} tied, {judged.loss} lost of "
        f"{judged.n}{unscored}; win rate {estimate_text(judged.win_rate, share=True)}, "
        f"at equal length {estimate_text(judged.length_controlled_win_rate, share=True)}",
        f"held-out pairs: the chosen answer has the higher implicit reward in "
        f"{estimate_text(pairs.reward_accuracy, share=True)} of {pairs.n}; "
        f"mean margin {estimate_text(pairs.margin)}",
        *_unscored_lines(metrics),
        *unparsed_lines(metrics.sets),
    ]
    if metrics.exact_match_hidden is not None:
        lines.append(f"exact match is not shown: {metrics.exact_match_hidden}")
    if heldout.unanswered:
        lines.append(
            f"{heldout.unanswered} of {heldout.samples} held-out questions have no answer: their "
            f"clips cannot be read"
        )
    seconds = ", ".join(f"{stage} {value:.0f}" for stage, value in metrics.seconds.items())
    return [*lines, f"seconds: {seconds}; together {sum(metrics.seconds.values()):.0f}"]


def _unscored_lines(metrics: Metrics) -> list[str]:
    """Return how many answers no scorer could score, a line a model, and what they could make of
    the hallucination rate.
    """
    lines = []
    for name, answers in (("before", metrics.before), ("after", metrics.after)):
        parts = []
        if answers.judged_score.unscored:
            parts.append(f"{answers.judged_score.unscored} of {answers.n} by the scorer")
        rate = answers.hallucination_rate
        if rate is not None and rate.unscored:
            text = f"{rate.unscored} of {answers.n} by the hallucination scorer"
            if rate.bounds is not None:
                low, high = (number_text(bound, share=True) for bound in rate.bounds)
                text += f" (with them its rate is {low} to {high})"
            parts.append(text)
        if parts:
            lines.append(f"unscored answers {name}, left out: {', '.join(parts)}")
    return lines


def _cell(estimate: Estimate, *, share: bool, signed: bool = False) -> str:
    """Return an estimate without its bounds, for which a table has no room."""
    return estimate_text(replace(estimate, bounds=None), share=share, signed=signed)
