"""A report of agreement as a page that needs no network: verdict, tables, charts, and the probes
that fooled the judge.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dpo_video.agree.agreement import Agreement
from dpo_video.agree.calibration import Calibration, CalibrationAt, MarginSuggestion
from dpo_video.agree.measures import Unmeasured
from dpo_video.agree.probes import KINDS, FoolingProbe
from dpo_video.agree.requirements import MEASURES
from dpo_video.agree.table import (
    MeasureRow,
    comparison_rows,
    grouped_rows,
    margin_sentence,
    report_sentences,
)
from dpo_video.core.charts import Axis, Chart, Curve, IntervalBar, interval_bar, line_chart
from dpo_video.core.page import render_page
from dpo_video.core.report import Estimate, ReportVerdict, estimate_text

FOOLED = 0.2
"""Share of dressed-up answers whose score rose from which a judge counts as fooled by them."""
CORRELATIONS = ("kappa", "spearman", "kendall", "annotator_alpha")
"""Measures from -1 to 1."""


class PageRow(NamedTuple):
    """A measure with its bar."""

    text: MeasureRow
    bar: IntervalBar | None


class ProbeRow(NamedTuple):
    """A probe that fooled the judge, and its kind."""

    kind: str
    probe: FoolingProbe


def agreement_page(report: Agreement) -> str:
    """Return the whole page as text; it loads nothing from elsewhere."""
    return render_page(
        "agree/agreement.html.jinja",
        title=f"How far the judge of {Path(report.run).name} is to be trusted",
        verdict=agreement_verdict(report),
        report=report,
        sentences=report_sentences(report),
        groups={
            heading: [PageRow(row, _bar(row.name, report)) for row in rows]
            for heading, rows in grouped_rows(report).items()
        },
        comparisons=comparison_rows(report.against) if report.against else [],
        charts=_charts(report),
        fooling=_fooling_probes(report),
    )


def agreement_verdict(report: Agreement) -> ReportVerdict:
    """Return what a reader should take away: agreement with gold, then what the probes show."""
    unmet = [row.unmet for row in report.requirements if row.unmet]
    against_gold, above_chance = _gold_clause(report)
    on_probes, passed = _probe_clause(report)
    text = f"{against_gold} {on_probes}"
    if unmet:
        count = f"{len(unmet)} of {len(report.requirements)} requirements"
        verb = "is" if len(unmet) == 1 else "are"
        return ReportVerdict(text=f"{text} {count} {verb} not met.", mood="bad")
    if above_chance is False:
        return ReportVerdict(text=text, mood="bad")
    return ReportVerdict(text=text, mood="good" if above_chance and passed else "warn")


def _gold_clause(report: Agreement) -> tuple[str, bool | None]:
    """Return a sentence on pair accuracy, and whether it is above chance; None where that is not
    known.
    """
    if report.gold is None:
        return "Not held against gold labels, so how often the judge is right is unknown.", None
    accuracy = report.measures["pair_accuracy"].estimate
    if accuracy.value is None:
        return "Gold orders no pair, so how often the judge is right is unknown.", None
    text = f"The judge orders {estimate_text(accuracy, share=True)} of the pairs as gold does"
    if accuracy.interval is None:
        return f"{text}; one clip cannot tell that from chance.", None
    low, high = accuracy.interval
    if low > 0.5:
        return f"{text}, above the 50 % of chance.", True
    return f"{text}, {'below' if high < 0.5 else 'no better than'} the 50 % of chance.", False


def _probe_clause(report: Agreement) -> tuple[str, bool]:
    """Return a sentence on the probes, and whether none fooled the judge."""
    if isinstance(report.probes, Unmeasured):
        return "No probes were made.", False
    blind, fooled = [], []
    for kind, sort in KINDS.items():
        estimate = report.measures[f"auc_{kind}" if sort == "swap" else f"{kind}_raised"].estimate
        if estimate.value is None:
            continue
        if sort == "swap" and (estimate.interval or (estimate.value, 0))[0] <= 0.5:
            blind.append(kind)
        if sort == "style" and estimate.value >= FOOLED:
            fooled.append(kind.replace("_", " "))
    clauses = []
    if blind:
        clauses.append(f"cannot tell a swapped {_listed(blind, 'or')} from the truth")
    if fooled:
        clauses.append(f"gives higher scores for {_listed(fooled, 'and')}")
    if not clauses:
        return "No kind of probe fooled it.", True
    return f"It {' and '.join(clauses)}.", False


def _listed(names: Sequence[str], conjunction: str) -> str:
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} {conjunction} {names[-1]}"


def _bar(name: str, report: Agreement) -> IntervalBar | None:
    measure, group = report.measures[name], MEASURES[name].group
    if name == "noise_sigma" or name.endswith("_shift"):
        reach = _reach(measure.estimate)
        low = -reach if name.endswith("_shift") else 0.0
        return interval_bar(measure.estimate, low=low, high=reach, mark=0.0)
    if name in CORRELATIONS:
        return interval_bar(measure.estimate, low=-1.0, high=1.0, mark=0.0)
    mark = measure.chance
    if name.startswith("auc_") or name in ("pair_accuracy", "pair_accuracy_dropped"):
        mark = 0.5
    elif group in ("styles", "noise"):
        mark = 0.0
    return interval_bar(measure.estimate, low=0.0, high=1.0, mark=mark)


def _reach(estimate: Estimate) -> float:
    """Return how far from zero an estimate reaches; 1 where it is zero."""
    ends = [estimate.value or 0.0, *(estimate.interval or ())]
    return max(map(abs, ends)) or 1.0


def _charts(report: Agreement) -> list[Chart]:
    charts = []
    if isinstance(report.calibration, Calibration):
        charts.append(_reliability_chart(report.calibration))
    if report.min_margin is not None and report.min_margin.curve:
        charts.append(_risk_chart(report.min_margin))
    return charts


def _reliability_chart(calibration: Calibration) -> Chart:
    temperature = f"temperature {calibration.temperature:.3g}"
    return line_chart(
        [
            Curve(
                name="as it should be",
                colour="reference",
                points=[(0.5, 0.5), (1, 1)],
                dashed=True,
            ),
            _reliability_curve("temperature 1", "second", calibration.before),
            _reliability_curve(temperature, "first", calibration.after),
        ],
        x=Axis(title="P(gold agrees) as the judge has it", low=0.5, high=1),
        y=Axis(title="share that gold agrees with", low=0, high=1),
        title="Reliability",
        note="Below the dashed line the judge is too sure. A dot's area is its share of pairs.",
    )


def _reliability_curve(name: str, colour: str, calibrated: CalibrationAt) -> Curve:
    largest = max(row.n for row in calibrated.bins)
    return Curve(
        name=name,
        colour=colour,
        points=[(row.confidence, row.accuracy) for row in calibrated.bins],
        weights=[row.n / largest for row in calibrated.bins],
    )


def _risk_chart(suggestion: MarginSuggestion) -> Chart:
    points = [(row.coverage, row.precision) for row in suggestion.curve]
    curves = [
        Curve(
            name=f"wanted: {suggestion.wanted:.0%}",
            colour="reference",
            points=[(0, suggestion.wanted), (1, suggestion.wanted)],
            dashed=True,
        ),
        Curve(name="precision", colour="first", points=points),
    ]
    if suggestion.point is not None:
        curves.append(
            Curve(
                name=f"margin {suggestion.point.min_margin:.3g}",
                colour="good",
                weights=[1.0],
                points=[(suggestion.point.coverage, suggestion.point.precision)],
            )
        )
    low = 0.5 if min(precision for _, precision in points) >= 0.5 else 0.0
    return line_chart(
        curves,
        x=Axis(title="coverage: share of pairs kept", low=0, high=1),
        y=Axis(title="precision of the kept pairs", low=low, high=1),
        title="Risk and coverage",
        note=f"Widest margins first. {margin_sentence(suggestion)}.",
    )


def _fooling_probes(report: Agreement) -> list[ProbeRow]:
    """Return the probes of each kind that did best where they should not."""
    if isinstance(report.probes, Unmeasured):
        return []
    rows = []
    for kind, of_kind in report.probes.kinds.items():
        rows += [ProbeRow(kind.replace("_", ", "), probe) for probe in of_kind.worst]
    return rows
