"""Why a run came out as it did, as far as its files tell: what gained least, and what its judge
does not notice.
"""

from collections.abc import Mapping, Sequence

from dpo_video.agree.requirements import MEASURES
from dpo_video.core.charts import interval_bar
from dpo_video.evaluate.report import Metrics
from dpo_video.pages.overview import SWAPS, MeasuredChange, direction, words_of
from dpo_video.pages.run_files import RunFiles

MOST_NAMED = 4
"""Categories that are named as those of least gain."""


def category_rows(metrics: Metrics) -> list[MeasuredChange]:
    """Return the accuracy of each category of each set, the smallest gain first."""
    changes = {
        f"{set_name}: {category}": row
        for set_name, measured in metrics.sets.items()
        for category, row in measured.categories.items()
    }
    ranked = sorted(changes.items(), key=lambda item: item[1].change.value or 0.0)
    reach = max((abs(row.change.value or 0.0) for _, row in ranked), default=0.0) or 1.0
    for _, row in ranked:
        reach = max(reach, *map(abs, row.change.interval or (0.0,)))
    return [
        MeasuredChange(
            title=title,
            before=words_of(row.before, share=True),
            after=words_of(row.after, share=True),
            change=words_of(row.change, share=True, signed=True),
            n=row.n,
            verdict=direction(row.change, higher_is_better=True),
            bar=interval_bar(row.change, low=-reach, high=reach, mark=0.0),
        )
        for title, row in ranked
    ]


def why_lines(run: RunFiles, categories: Sequence[MeasuredChange]) -> list[str]:
    """Return sentences for the top of the page: categories that are not better, and what the judge
    that made the pairs does not notice.
    """
    lines = []
    flat = [row for row in categories if row.verdict != "better"]
    if flat:
        named = ", ".join(f"{row.title} {row.change}" for row in flat[:MOST_NAMED])
        others = f" and {len(flat) - MOST_NAMED} more" if len(flat) > MOST_NAMED else ""
        lines.append(f"Not better by category: {named}{others}.")
    spots = blind_spots(run)
    if spots:
        facts = " or ".join([", ".join(spots[:-1]), spots[-1]] if spots[1:] else spots)
        lines.append(
            f"Not shown that the judge notices a swapped {facts}: its pairs may teach little about "
            "that."
        )
    return lines


def blind_spots(run: RunFiles) -> list[str]:
    """Return the facts whose swap the judge is not shown to notice beyond chance, in words."""
    spots = []
    for name, measure in (run.agreement.get("measures") or {}).items():
        if not name.startswith(SWAPS) or not isinstance(measure, Mapping):
            continue
        if measure.get("ci") and measure["ci"][0] <= 0.5:  # 0.5 is chance
            kind = MEASURES[name].title.removesuffix(" swapped")
            spots.append(f"{kind} ({measure.get('n', 0)} probes)")
    return spots
