"""The sets of `evaluate.sets` in the table at the end of a run: each measure and category, before,
after and change.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from rich import box
from rich.table import Table
from rich.text import Text

from dpo_video.core.report import Estimate, estimate_text
from dpo_video.evaluate.set_report import SetMetrics

ROWS = (
    ("all of a group", "all_of_group", True),
    ("letter", "letter", True),
    ("yes/no", "yes_no", True),
    ("exact match", "exact_match", True),
    ("contains", "contains", True),
    ("judged", "judged", True),
    ("by the strict rule", "strict_accuracy", True),
    ("by the published rule", "published_accuracy", True),
    ("says yes", "yes_rate", True),
    ("judged score", "judged_score", False),
    ("hallucination rate", "hallucination_rate", True),
)
"""Title, measure of a set, and whether it is a share shown in per cent."""


def sets_table(sets: Mapping[str, SetMetrics]) -> Table:
    """Return a table of sets: the measures of each, then its accuracy by category."""
    table = Table(box=box.SIMPLE, title="Sets, 95 % intervals", title_justify="left")
    table.add_column("", no_wrap=True)
    for heading in ("before", "after", "change", "n"):
        table.add_column(heading, justify="right")
    for name, metrics in sets.items():
        table.add_row(Text(name, style="bold"), *[""] * 4)
        for row in _rows(metrics):
            table.add_row(*row)
    return table


def unparsed_lines(sets: Mapping[str, SetMetrics]) -> list[str]:
    """Return how many answers of each set no rule could read, a line a set that has some."""
    return [
        f"unparsed answers of {name}, counted as wrong: {metrics.before.unparsed} before, "
        f"{metrics.after.unparsed} after"
        for name, metrics in sets.items()
        if metrics.before.unparsed or metrics.after.unparsed
    ]


def _rows(metrics: SetMetrics) -> Iterator[tuple[str, str, str, str, str]]:
    for title, measure, share in ROWS:
        change: Estimate | None = getattr(metrics.change, measure)
        if change is not None and change.value is not None:
            yield (
                f"  {title}",
                _cell(getattr(metrics.before, measure), share=share),
                _cell(getattr(metrics.after, measure), share=share),
                _cell(change, share=share, signed=True),
                str(change.n),
            )
    for name, category in metrics.categories.items():
        yield (
            f"    {name}",
            _cell(category.before, share=True),
            _cell(category.after, share=True),
            _cell(category.change, share=True, signed=True),
            str(category.n),
        )


def _cell(estimate: Estimate, *, share: bool, signed: bool = False) -> str:
    """Return an estimate without its bounds, for which a table has no room."""
    return estimate_text(replace(estimate, bounds=None), share=share, signed=signed)
