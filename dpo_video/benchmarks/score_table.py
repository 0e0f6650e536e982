"""How a score is shown: the rules side by side, then the answers on which they part."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dpo_video.benchmarks.judged_score import JudgedReport
from dpo_video.benchmarks.score import ReadAnswer, RuleScore, ScoreReport
from dpo_video.benchmarks.sets import BENCHMARKS
from dpo_video.core.progress import open_terminal
from dpo_video.core.report import Estimate, estimate_text, number_text
from dpo_video.core.text import shortened

WIDTH = 130
"""Columns where the output is not a terminal."""
ScoreRow = tuple[str, Callable[[RuleScore], str]]


def print_score(report: ScoreReport, output: Console | None = None) -> None:
    """Print a score."""
    (output or open_terminal(width=WIDTH)).print(score_text(report))


def score_text(report: ScoreReport) -> RenderableType:
    """Return the table and the lines below it."""
    title = BENCHMARKS[report.benchmark].title if report.benchmark else "answers"
    table = Table(box=box.SIMPLE, title=f"{title}, 95 % intervals over clips", title_justify="left")
    table.add_column("", no_wrap=True)
    for name in report.rules:
        table.add_column(f"{name} rule", justify="right")
    for heading, cell in _rows(report):
        table.add_row(heading, *(cell(score) for score in report.rules.values()))
    return Group(table, Text("\n".join(_lines(report))))


def print_judged(report: JudgedReport, output: Console | None = None) -> None:
    """Print what a judge made of answers in words."""
    title = f"{BENCHMARKS[report.benchmark].title}, rated by {report.judge}, 95 % intervals"
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("mean score", "right", "scored", "unscored"):
        table.add_column(heading, justify="right")
    for score in report.scorers:
        table.add_row(
            score.scorer,
            estimate_text(score.mean_score),
            "-" if score.accuracy is None else _cell(score.accuracy),
            str(score.mean_score.n),
            str(score.mean_score.unscored),
        )
        is_share = score.accuracy is not None
        for name, mean in score.by_category.items() if len(score.by_category) > 1 else ():
            cells = ("", _cell(mean)) if is_share else (estimate_text(mean), "")
            table.add_row(f"  {name}", *cells, str(mean.n), str(mean.unscored))
    lines = [f"{report.answered} of {report.questions} questions are answered"]
    if report.missing:
        lines.append(f"{report.missing} without an answer are left out, as by the authors' scripts")
    for score in report.scorers:
        lines += [
            f"unscored by {score.scorer}: {question_id}: {shortened(reason)}"
            for question_id, reason in score.unscored.items()
        ]
    (output or open_terminal(width=WIDTH)).print(Group(table, Text("\n".join(lines))))


def _rows(report: ScoreReport) -> Iterator[ScoreRow]:
    chosen = report.rules[report.parser]
    if report.headline.startswith("mean of"):
        yield report.headline, lambda score: _mean_cell(score.headline)
    yield "accuracy", lambda score: _cell(score.metrics.accuracy)
    if chosen.metrics.group_accuracy is not None:
        yield "all of a group", lambda score: _cell(score.metrics.group_accuracy)
    yield from _part_rows("set ", chosen, lambda score: score.groups_by_set)
    yield "unparsed", lambda score: str(score.unparsed)
    yield from _bias_rows(chosen)
    yield from _part_rows("", chosen, lambda score: score.metrics.by_category)
    if len(chosen.metrics.groups_by_category) > 1:
        yield from _part_rows(
            "all of a group, ", chosen, lambda score: score.metrics.groups_by_category
        )
    for name in chosen.breakdowns:
        yield from _part_rows(f"{name} ", chosen, _breakdown(name))


def _breakdown(name: str) -> Callable[[RuleScore], Mapping[str, Estimate]]:
    return lambda score: score.breakdowns[name]


def _part_rows(
    prefix: str, chosen: RuleScore, parts_of: Callable[[RuleScore], Mapping[str, Estimate]]
) -> Iterator[ScoreRow]:
    """Yield a row for each part of the questions."""

    def cell_of(name: str) -> Callable[[RuleScore], str]:
        return lambda score: _cell(parts_of(score).get(name))

    for name in parts_of(chosen):
        yield f"  {prefix}{name}", cell_of(name)


def _bias_rows(chosen: RuleScore) -> Iterator[ScoreRow]:
    """Yield the share of yes and the bias measures, where all answers are yes or no."""
    if chosen.metrics.bias is not None:
        yield "yes-rate", lambda score: _number(score, "yes_rate", share=True)
        yield "yes difference", lambda score: _number(score, "yes_difference")
        yield "no difference", lambda score: _number(score, "no_difference")
        yield "false positive ratio", lambda score: _number(score, "false_positive_ratio")
    if chosen.published_bias is not None:
        yield "  the script's: yes difference", lambda score: _script(score, "yes_difference")
        yield "  the script's: no difference", lambda score: _script(score, "no_difference")
        yield (
            "  the script's: false positives",
            lambda score: _script(score, "false_positive_ratio"),
        )


def _number(score: RuleScore, name: str, *, share: bool = False) -> str:
    value = getattr(score.metrics.bias, name)
    return "-" if value is None else number_text(value, share=share, signed="difference" in name)


def _script(score: RuleScore, name: str) -> str:
    value = getattr(score.published_bias, name, None)
    return "-" if value is None else number_text(value, signed="difference" in name)


def _mean_cell(mean: Estimate) -> str:
    return "-" if mean.value is None else f"{estimate_text(mean, share=True)}, {mean.n} of them"


def _cell(share: Estimate | None) -> str:
    """Return a share with its interval and its counts: `50.6 % [45.9, 55.3] 207 of 409`."""
    if share is None or share.value is None:
        return "-"
    text = estimate_text(replace(share, why_no_interval=""), share=True)
    return f"{text} {round(share.value * share.n)} of {share.n}"


def _lines(report: ScoreReport) -> Iterator[str]:
    yield f"{report.answered} of {report.questions} questions are answered"
    if report.missing:
        yield f"{report.missing} without an answer are wrong, and counted"
        for name, score in report.rules.items():
            if score.left_out:
                yield f"  but for {score.left_out} that the {name} script does not count"
    for name, score in report.rules.items():
        if score.unparsed:
            yield f"unparsed by the {name} rule: {score.unparsed}, wrong and counted, such as"
            yield from map(_unparsed_line, score.unparsed_examples)
        if score.rated:
            yield f"rated by the authors' judge, where the {name} rule reads nothing: {score.rated}"
    if len(report.rules) < 2:
        yield "no published rule is known for these questions"
    elif report.different:
        yield f"the rules differ in {report.different} answers, such as"
        yield from map(_different_line, report.different_examples)
    else:
        yield "the rules read all answers alike"


def _unparsed_line(example: ReadAnswer) -> str:
    return f"  {example.id}: {shortened(repr(example.answer))}"


def _different_line(example: ReadAnswer) -> str:
    return (
        f"  {example.id}: {shortened(repr(example.answer))}, gold {example.gold}: strict "
        f"{example.strict or 'unparsed'}, published {example.published or 'unparsed'}"
    )
