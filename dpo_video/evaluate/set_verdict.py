"""What came of one set, as metrics.json holds it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dpo_video.benchmarks.paired import PairedOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVerdict:
    """What came of one set, as metrics.json holds it."""

    set: str
    outcome: PairedOutcome | Literal["not compared"]
    sentence: str
    measure: str | None = None
    """What is compared; this and all below is None of a set that is not compared."""
    n: int = 0
    """Units: questions, or groups that count together."""
    before: float | None = None
    after: float | None = None
    change: float | None = None
    change_ci: tuple[float, float] | None = None
    gained: int = 0
    lost: int = 0
    p_value: float | None = None
    """Exact McNemar, two-sided."""
    holm_p_value: float | None = None
    """The same, corrected over the sets."""
    detectable_change: float | None = None
    """What would have been found 4 times in 5."""


def verdict_row(verdict: SetVerdict) -> dict[str, Any]:
    """Return a verdict as metrics.json holds it; what is None is left out."""
    row = {name: value for name, value in asdict(verdict).items() if value is not None}
    return row | {"change_ci": list(verdict.change_ci)} if verdict.change_ci else row


def verdict_of_row(row: Mapping[str, Any]) -> SetVerdict:
    """Return the verdict that an object of metrics.json holds."""
    interval = row.get("change_ci")
    return SetVerdict(**dict(row) | {"change_ci": interval and (interval[0], interval[1])})
