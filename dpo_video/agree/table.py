"""A report of agreement as rows of text, as sentences, and as the table on the terminal."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpo_video.agree.agreement import Agreement, JudgeComparison
from dpo_video.agree.calibration import Calibration, MarginSuggestion
from dpo_video.agree.gold_agreement import GoldSummary
from dpo_video.agree.measures import Unmeasured
from dpo_video.agree.noise import NoiseReport
from dpo_video.agree.requirements import MEASURES
from dpo_video.core.progress import open_terminal
from dpo_video.core.report import Estimate, estimate_text, number_text

WIDTH = 120
"""Columns of the table where the output is not a terminal."""
GROUPS: dict[str, str] = {
    "gold": "Agreement with gold",
    "calibration": "Calibration, on the half that the temperature was not fitted on",
    "noise": "Noise",
    "swaps": "A fact swapped in a true sentence: area under the ROC curve (0.5 is chance)",
    "styles": "Dressed-up answers: the score must not rise",
    "all": "All texts",
}


class MeasureRow(NamedTuple):
    """One line of a table, as text."""

    name: str
    title: str
    value: str
    n: str
    unscored: str
    without: str
    """Texts that offered no such probe; empty for what is no probe."""


class ComparisonRow(NamedTuple):
    """One line of two judges, as text."""

    title: str
    first: str
    second: str
    difference: str
    n: str


def grouped_rows(report: Agreement) -> dict[str, list[MeasureRow]]:
    """Return the rows of each group of measures that the report holds, by the group's heading."""
    groups: dict[str, list[MeasureRow]] = {}
    for name, measure in report.measures.items():
        meaning = MEASURES[name]
        title = meaning.title
        if measure.chance is not None:
            title += f" (at random {number_text(measure.chance, share=True)})"
        row = MeasureRow(
            name,
            title,
            measure_text(measure.estimate, share=meaning.share),
            str(measure.estimate.n),
            str(measure.estimate.unscored),
            "" if measure.without is None else str(measure.without),
        )
        groups.setdefault(GROUPS[meaning.group], []).append(row)
    return groups


def measure_text(estimate: Estimate, *, share: bool, signed: bool = False) -> str:
    """Return a value with its interval, or why there is none."""
    if estimate.value is None and not estimate.why_none:
        estimate = replace(estimate, why_none="undefined on this data")
    return estimate_text(estimate, share=share, digits=3, signed=signed)


def report_sentences(report: Agreement) -> list[str]:
    """Return what the tables do not hold, one sentence a subject."""
    judge, asked, probes = report.judge, report.asked, report.probes
    lines = [
        f"judge {judge.name} ({judge.backend}), scorer {judge.scorer}; {asked.texts} texts judged, "
        f"{asked.asked} asked now, {asked.unscored} unscored, {asked.failed} of them failed"
    ]
    if report.gold is None:
        lines.append("no gold labels (--gold): agreement and calibration are not measured")
    else:
        lines.append(_gold_sentence(report.gold))
    if report.calibration is not None:
        lines.append(_calibration_sentence(report.calibration))
    if report.min_margin is not None:
        lines.append(margin_sentence(report.min_margin))
    lines.append(_noise_sentence(report.noise))
    if isinstance(probes, Unmeasured):
        lines.append(f"probes: none made ({probes.why_none})")
    else:
        lines.append(f"probes: made from {probes.texts} {probes.source}s of data.{probes.split}")
    return lines


def margin_sentence(suggestion: MarginSuggestion) -> str:
    """Return the suggested pair.min_margin in a sentence, or that none reaches the wanted
    precision.
    """
    opening = f"pair.min_margin for {suggestion.wanted:.0%} of pairs right"
    if suggestion.point is None or suggestion.precision is None:
        if suggestion.best is None:
            return (
                f"{opening}: none can be told, fewer than {suggestion.min_pairs} pairs have "
                "different scores"
            )
        best = number_text(suggestion.best, share=True)
        return f"{opening}: none reaches it; the best margin has {best}"
    point = suggestion.point
    return (
        f"{opening}: {point.min_margin:.3g} keeps {point.n} of {suggestion.pairs} pairs "
        f"({number_text(point.coverage, share=True)}), of which "
        f"{estimate_text(suggestion.precision, share=True)} are right"
    )


def agreement_table(report: Agreement) -> RenderableType:
    """Return the tables and the lines below them."""
    parts: list[RenderableType] = [
        _table(heading, rows) for heading, rows in grouped_rows(report).items()
    ]
    if report.against is not None:
        parts.append(_comparison_table(report.against))
    return Group(*parts, Text("\n".join(report_sentences(report))))


def print_report(report: Agreement, paths: Sequence[str], console: Console | None = None) -> None:
    """Print the tables of a report, and where it lies."""
    console = console or open_terminal(width=WIDTH)
    console.print(agreement_table(report))
    console.print(Text(f"report: {', '.join(paths)}"), soft_wrap=True)


def comparison_rows(against: JudgeComparison) -> list[ComparisonRow]:
    """Return title, first judge, second judge, difference and n of every measure that both have."""
    rows = []
    for name, comparison in against.measures.items():
        title, share = MEASURES[name].title, MEASURES[name].share
        first, second = comparison.first, comparison.second
        rows.append(
            ComparisonRow(
                title,
                measure_text(first, share=share),
                measure_text(second, share=share),
                measure_text(comparison.difference, share=share, signed=True),
                f"{first.n} ({first.unscored}, {second.unscored})",
            )
        )
    return rows


def _gold_sentence(gold: GoldSummary) -> str:
    people = f", {gold.annotators} annotators" if gold.annotators else ""
    return (
        f"gold {gold.source}: {gold.labels} {gold.kind} labels of {gold.answers} answers to "
        f"{gold.samples} samples on {gold.clips} clips{people}; {gold.ties} pairs tied"
        + (f", {gold.both_bad} votes that both are bad" if gold.both_bad else "")
    )


def _calibration_sentence(calibration: Calibration | Unmeasured) -> str:
    if isinstance(calibration, Unmeasured):
        return f"calibration: not measured ({calibration.why_none})"
    return (
        f"calibration: P(gold agrees) = sigmoid(margin / {calibration.temperature:.3g}), fitted on "
        f"{calibration.fitted_on} pairs, measured on {calibration.tested_on} of other clips"
    )


def _noise_sentence(noise: NoiseReport | Unmeasured) -> str:
    if isinstance(noise, Unmeasured):
        return f"noise: not measured ({noise.why_none})"
    how = "drawn again at judge.temperature" if noise.how == "sampled" else "asked in other words"
    shifts = [f"{name} {shift:+.2f}" for name, shift in noise.shifts.items() if shift is not None]
    return (
        f"noise: {noise.answers} answers and {noise.pairs} pairs {how} "
        f"(mean change of score: {', '.join(shifts)})"
    )


def _table(heading: str, rows: Sequence[MeasureRow]) -> Table:
    table = Table(box=box.SIMPLE, title=heading, title_justify="left", pad_edge=False)
    probed = any(row.without for row in rows)
    table.add_column("", min_width=48)
    table.add_column("value, 95 % interval", justify="right", min_width=28)
    for name in ("n", "unscored", *(["no probe"] if probed else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.title, row.value, row.n, row.unscored, *([row.without] if probed else []))
    return table


def _comparison_table(against: JudgeComparison) -> Table:
    table = Table(
        box=box.SIMPLE,
        title=f"Against {against.judge.name} ({against.judge.scorer}), same answers, paired "
        "intervals",
        title_justify="left",
        pad_edge=False,
    )
    for name in ("", "this judge", "the other", "other - this", "n (unscored of each)"):
        table.add_column(name, justify="right" if name else "left")
    for row in comparison_rows(against):
        table.add_row(*row)
    return table
