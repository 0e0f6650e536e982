"""A report of agreement as rows of text, and as the table on the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpo_video.agree.requirements import MEASURES

WIDTH = 120
"""Columns of the table where the output is not a terminal."""
GROUPS: dict[str, str] = {
    "gold": "Agreement with gold",
    "calibration": "Calibration, on the half that the temperature was not fitted on",
    "noise": "Noise",
    "swaps": "A fact swapped in a true sentence: area under the ROC curve (0.5 is chance)",
    "dressings": "Dressed-up answers: the score must not rise",
    "all": "All texts",
}


class Row(NamedTuple):
    """One line of a table, as text."""

    name: str
    title: str
    value: str
    n: str
    unscored: str
    without: str
    """Texts that offered no such probe; empty for what is no probe."""


def grouped_rows(report: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Return the rows of each group of measures that the report holds, by the group's heading."""
    out: dict[str, list[Row]] = {}
    for name, row in report["measures"].items():
        meaning = MEASURES[name]
        title = meaning.title + (
            f" (at random {row['chance']:.1%})" if row.get("chance") is not None else ""
        )
        out.setdefault(GROUPS[meaning.group], []).append(
            Row(
                name,
                title,
                shown(row, share=meaning.share),
                str(row["n"]),
                str(row["unscored"]),
                str(row.get("without", "")),
            )
        )
    return out


def shown(row: Mapping[str, Any], *, share: bool, signed: bool = False) -> str:
    """Return a value with its interval, or why there is none."""
    if row["value"] is None:
        return f"- ({row.get('why_none', 'undefined on this data')})"
    factor, form = (100, ".1f") if share else (1, ".3f")
    sign, unit = "+" if signed else "", "" if not share else " pts" if signed else " %"
    text = f"{row['value'] * factor:{sign}{form}}{unit}"
    if row["ci"] is None:
        return text
    return f"{text} [{row['ci'][0] * factor:{sign}{form}}, {row['ci'][1] * factor:{sign}{form}}]"


def lines(report: Mapping[str, Any]) -> list[str]:
    """Return what the tables do not hold, one sentence a subject."""
    judge, gold, asked = report["judge"], report["gold"], report["asked"]
    out = [
        f"judge {judge['name']} ({judge['backend']}), scorer {judge['scorer']}; {asked['texts']} "
        f"texts judged, "
        f"{asked['asked']} asked now, {asked['unscored']} unscored, {asked['failed']} of them "
        f"failed"
    ]
    if gold is None:
        out.append("no gold labels (--gold): agreement and calibration are not measured")
    else:
        people = f", {gold['annotators']} annotators" if gold["annotators"] else ""
        out.append(
            f"gold {gold['source']}: {gold['labels']} {gold['kind']} labels of {gold['answers']} "
            f"answers to "
            f"{gold['samples']} samples on {gold['clips']} clips{people}; {gold['ties']} pairs tied"
        )
        out += [_calibration_line(report["calibration"]), margin_line(report["min_margin"])]
    out.append(noise_line(report))
    probes = report["probes"]
    out.append(
        f"probes: none made ({probes['why_none']})"
        if "why_none" in probes
        else f"probes: made from {probes['texts']} {probes['source']}s of data.{probes['split']}"
    )
    return out


def _calibration_line(calibration: Mapping[str, Any]) -> str:
    if "why_none" in calibration:
        return f"calibration: not measured ({calibration['why_none']})"
    return (
        f"calibration: P(gold agrees) = sigmoid(margin / {calibration['temperature']:.3g}), fitted "
        f"on "
        f"{calibration['fitted_on']} pairs, measured on {calibration['tested_on']} of other clips"
    )


def margin_line(suggestion: Mapping[str, Any]) -> str:
    """Return the suggested pair.min_margin in a sentence, or that none reaches the wanted
    precision.
    """
    wanted = f"{suggestion['wanted']:.0%} of pairs right"
    if suggestion["min_margin"] is None:
        if suggestion["best"] is None:
            return (
                f"pair.min_margin for {wanted}: none can be told, fewer than "
                f"{suggestion['min_pairs']} pairs have "
                "different scores"
            )
        return (
            f"pair.min_margin for {wanted}: none reaches it; the best margin has "
            f"{suggestion['best']:.1%}"
        )
    ci = suggestion["precision_ci"]
    interval = "" if ci is None else f" [{ci[0]:.1%}, {ci[1]:.1%}]"
    return (
        f"pair.min_margin for {wanted}: {suggestion['min_margin']:.3g} keeps {suggestion['n']} of "
        f"{suggestion['pairs']} pairs ({suggestion['coverage']:.1%}), of which "
        f"{suggestion['precision']:.1%}"
        f"{interval} are right"
    )


def noise_line(report: Mapping[str, Any]) -> str:
    """Return how noise was measured, in a sentence."""
    noise = report["noise"]
    if "why_none" in noise:
        return f"noise: not measured ({noise['why_none']})"
    how = (
        "drawn again at judge.temperature" if noise["how"] == "sampled" else "asked in other words"
    )
    shifts = ", ".join(
        f"{name} {value:+.2f}" for name, value in noise["shifts"].items() if value is not None
    )
    return (
        f"noise: {noise['answers']} answers and {noise['pairs']} pairs {how} "
        f"(mean change of score: {shifts})"
    )


def table(report: Mapping[str, Any]) -> RenderableType:
    """Return the tables and the lines below them."""
    parts: list[RenderableType] = [
        _table(heading, rows) for heading, rows in grouped_rows(report).items()
    ]
    if "against" in report:
        parts.append(_against(report))
    return Group(*parts, Text("\n".join(lines(report))))


def print_report(
    report: Mapping[str, Any], paths: Sequence[str], console: Console | None = None
) -> None:
    """Print the tables of a report, and where it lies."""
    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=WIDTH)
    console.print(table(report))
    console.print(Text(f"report: {', '.join(paths)}"), soft_wrap=True)


def against_rows(report: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Return title, first judge, second judge, difference and n of every measure that both have."""
    out = []
    for name, row in report["against"]["measures"].items():
        meaning = MEASURES[name]
        first, second = (shown(row[side], share=meaning.share) for side in ("first", "second"))
        out.append(
            (
                meaning.title,
                first,
                second,
                shown(row["difference"], share=meaning.share, signed=True),
                f"{row['first']['n']} ({row['first']['unscored']}, {row['second']['unscored']})",
            )
        )
    return out


def _table(heading: str, rows: Sequence[Row]) -> Table:
    out = Table(box=box.SIMPLE, title=heading, title_justify="left", pad_edge=False)
    probed = any(row.without for row in rows)
    out.add_column("", min_width=48)
    out.add_column("value, 95 % interval", justify="right", min_width=28)
    for name in ("n", "unscored", *(["no probe"] if probed else [])):
        out.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        out.add_row(row.title, row.value, row.n, row.unscored, *([row.without] if probed else []))
    return out


def _against(report: Mapping[str, Any]) -> Table:
    other = report["against"]["judge"]
    out = Table(
        box=box.SIMPLE,
        title=f"Against {other['name']} ({other['scorer']}), same answers, paired intervals",
        title_justify="left",
        pad_edge=False,
    )
    for name in ("", "this judge", "the other", "other - this", "n (unscored of each)"):
        out.add_column(name, justify="right" if name else "left")
    for row in against_rows(report):
        out.add_row(*row)
    return out
