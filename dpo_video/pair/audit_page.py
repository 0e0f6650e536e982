"""An audit as a page that needs no network, and as a table for the terminal."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpo_video.core.charts import Chart, bar_chart
from dpo_video.core.page import render_page
from dpo_video.core.report import Estimate, ReportVerdict, estimate_text, number_text
from dpo_video.pair.audit_measures import shares_of
from dpo_video.pair.audit_report import Audit, EndPlaces, Histogram, Positions
from dpo_video.pair.statistics import uneven_samplers

Cells = list[tuple[str, str]]
"""What a number is, and the number as text."""


def audit_page(report: Audit) -> str:
    """Return the numbers of an audit as one HTML file with its charts inside."""
    return render_page(
        "pair/audit.html.jinja",
        title=f"Audit of the pairs of {report.run}",
        verdict=audit_verdict(report),
        report=report,
        numbers=main_numbers(report),
        left_out=left_out(report),
        samplers=sampler_rows(report),
        charts=_charts(report),
    )


def audit_verdict(report: Audit) -> ReportVerdict:
    """Return what a reader should take away, in a sentence."""
    count, longer = len(report.warnings), report.length.chosen_longer
    if not count and longer.interval is None:
        return ReportVerdict(
            text="These pairs are of one clip: whether length or order stands out cannot be told.",
            mood="warn",
        )
    if not count:
        samplers = "no sampler wins or loses nearly always"
        if uneven_samplers(shares_of(report.samplers)):  # else it were a warning
            samplers = "samplers stand on the sides that pair.rule gives them"
        return ReportVerdict(
            text="Nothing stands out in these pairs beside the preference: the chosen answer is "
            f"the longer one in {estimate_text(longer, share=True)} of them, {samplers}, and no "
            "pair repeats another.",
            mood="good",
        )
    if count == 1:
        return ReportVerdict(
            text=f"Look at this before training: {report.warnings[0]}.", mood="warn"
        )
    return ReportVerdict(
        text=f"{count} things to look at before training: what stands out beside the preference is "
        "learnt with it.",
        mood="warn",
    )


def audit_table(report: Audit) -> RenderableType:
    """Return the numbers of an audit for the terminal."""
    count = report.counts
    table = Table(
        box=box.SIMPLE,
        title=f"{count.pairs} pairs of {count.questions} questions about "
        f"{count.clips} clips, 95 % intervals over clips",
        title_justify="left",
    )
    table.add_column("", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    for name, value in [*main_numbers(report), *left_out(report), *sampler_rows(report)]:
        table.add_row(name, value)
    lines = [f"warning: {line}" for line in report.warnings]
    return Group(table, Text("\n".join(lines))) if lines else table


def main_numbers(report: Audit) -> Cells:
    """Return the main numbers in words."""
    length, margin, repeated = report.length, report.margin, report.duplicates
    quantiles = " / ".join(f"{margin.quantiles[name]:.2f}" for name in ("min", "median", "max"))
    cells = [
        ("length of chosen / rejected answers", f"{length.chosen:.1f} / {length.rejected:.1f}"),
        ("chosen longer by (characters)", estimate_text(length.extra, digits=1)),
        ("chosen answer is the longer one", estimate_text(length.chosen_longer, share=True)),
        ("correlation of score and length", estimate_text(length.score_correlation)),
        ("  within questions", estimate_text(length.score_correlation_within_questions)),
        ("score per 100 characters", estimate_text(length.score_per_100_characters)),
        ("margin", estimate_text(length.margin)),
        ("  with length taken out", estimate_text(length.residual_margin)),
        (
            "pairs whose margin is all length",
            number_text(length.explained_by_length, share=True),
        ),
        ("margin: least / median / most", quantiles),
    ]
    if margin.implicit is not None:
        wrong = number_text(margin.implicit.wrongly_ranked, share=True)
        cells += [
            ("implicit margin: median", f"{margin.implicit.quantiles['median']:.3f}"),
            ("pairs that the policy ranks wrongly", wrong),
        ]
    return [
        *cells,
        *_position_cells(report.position),
        (
            "answers that repeat another / judged once for several",
            f"{repeated.answers} / {repeated.judged_once_for_several}",
        ),
        ("pairs that repeat another", str(repeated.pairs)),
    ]


def left_out(report: Audit) -> Cells:
    """Return what was left out, by unit and reason."""
    cells = []
    for what, units in (("cleaned", report.counts.cleaned), ("dropped", report.counts.dropped)):
        for unit, reasons in units.items():
            cells += [(f"{unit} {what}: {reason}", str(n)) for reason, n in reasons.items()]
    return cells


def sampler_rows(report: Audit) -> Cells:
    """Return by sampler how often it was chosen and rejected, and the share chosen."""
    return [
        (
            f"{name}: chosen / rejected",
            f"{row.chosen} / {row.rejected}" + _share_chosen(row.share_chosen),
        )
        for name, row in report.samplers.items()
    ]


def _share_chosen(estimate: Estimate | None) -> str:
    return "" if estimate is None else f", chosen {estimate_text(estimate, share=True)}"


def _position_cells(position: Positions) -> Cells:
    if position.chosen_earlier is None or position.chosen is None or position.rejected is None:
        return []
    return [
        ("chosen answer was drawn earlier", estimate_text(position.chosen_earlier, share=True)),
        *_end_cells(position.chosen, position.rejected),
    ]


def _end_cells(chosen: EndPlaces, rejected: EndPlaces) -> Cells:
    return [
        (f"{end} answer is chosen / rejected", f"{_share(of_chosen)} / {_share(of_rejected)}")
        for end, of_chosen, of_rejected in (
            ("first", chosen.first, rejected.first),
            ("last", chosen.last, rejected.last),
        )
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else number_text(value, share=True)


def _charts(report: Audit) -> list[Chart]:
    length, by_place = report.length, report.position.by_place
    charts = [
        histogram_chart(
            length.histogram,
            title="Length of answers in characters",
            note=f"Score is fitted on length within questions, over {length.answers:,} "
            f"{length.fitted_on}.",
            x_title="characters",
            y_title="answers",
        ),
        histogram_chart(
            report.margin.histogram,
            title="Margin between chosen and rejected score",
            x_title="margin",
            y_title="pairs",
        ),
    ]
    if by_place is not None:
        charts.append(
            bar_chart(
                [str(place) for place in by_place],
                {
                    "chosen": [row[0] for row in by_place.values()],
                    "rejected": [row[1] for row in by_place.values()],
                },
                title="Place among the candidates",
                note="Candidates are draws of equal standing: each place should be chosen and "
                "rejected alike. Early places are the most common, as the first of equal answers "
                "stays.",
                x_title="place",
                y_title="answers",
            )
        )
    per_question = report.counts.pairs_per_question
    charts.append(
        bar_chart(
            list(per_question),
            {"questions": list(per_question.values())},
            title="Pairs per question",
            x_title="pairs",
            y_title="questions",
        )
    )
    return charts


def histogram_chart(
    counted: Histogram, *, title: str, note: str = "", x_title: str, y_title: str
) -> Chart:
    """Return a histogram as a chart; the edges of the bins stand below."""
    return bar_chart(
        [f"{edge:.4g}" for edge in counted.edges],
        counted.series,
        title=title,
        note=note,
        x_title=x_title,
        y_title=y_title,
        edges=True,
    )
