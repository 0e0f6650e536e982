"""Estimates and how they are written, alike on the terminal, on pages and in the last line of a
stage.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A statistic with its 95 % interval and what it rests on."""

    value: float | None
    """None where the data do not define it."""
    interval: tuple[float, float] | None = None
    """Lower and upper bound, over resampled clips."""
    n: int = 0
    """Observations that count."""
    unscored: int = 0
    """Observations without a score."""
    bounds: tuple[float, float] | None = None
    """Lowest and highest value that the unscored ones could make of it, had they scores."""
    why_none: str = ""
    """Why there is no value."""
    why_no_interval: str = ""
    """Why there is a value without the interval that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportVerdict:
    """What a report comes to, in a sentence that stands on top of its page."""

    text: str
    mood: Literal["good", "warn", "bad"]


def estimate_text(
    estimate: Estimate, *, share: bool = False, digits: int = 2, signed: bool = False
) -> str:
    """Return an estimate as text: `50.0 % [40.0, 60.0]`, `+2.5 pts [-1.0, +6.0]`,
    `0.31 [0.20, 0.42]`, `-`.

    Args:
        share: shown in per cent with one digit; a signed one is a difference of shares, in points.
        digits: behind the point of what is no share.
        signed: with its sign, as of a difference.
    """
    if estimate.value is None:
        return f"- ({estimate.why_none})" if estimate.why_none else "-"
    text = number_text(estimate.value, share=share, digits=digits, signed=signed)
    if estimate.interval is not None:
        text += f" [{range_text(estimate.interval, share=share, digits=digits, signed=signed)}]"
    elif estimate.why_no_interval:
        text += f" [no interval: {estimate.why_no_interval}]"
    if estimate.bounds is not None and estimate.unscored:
        low, high = (
            number_text(bound, share=share, digits=digits, signed=signed)
            for bound in estimate.bounds
        )
        text += f", with the {estimate.unscored} unscored {low} to {high}"
    return text


def number_text(value: float, *, share: bool = False, digits: int = 2, signed: bool = False) -> str:
    """Return a number alone, written as in an estimate: `50.0 %`, `+2.5 pts`, `0.31`."""
    unit = (" pts" if signed else " %") if share else ""
    return f"{_plain(value, share=share, digits=digits, signed=signed)}{unit}"


def range_text(
    interval: tuple[float, float], *, share: bool = False, digits: int = 2, signed: bool = False
) -> str:
    """Return two numbers without a unit, `40.0, 60.0`: what stands in an estimate's brackets."""
    low, high = (_plain(end, share=share, digits=digits, signed=signed) for end in interval)
    return f"{low}, {high}"


def estimate_row(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as it stands in a JSON file: value, ci, n, unscored, and why there is no
    value where that is known.
    """
    row: dict[str, Any] = {
        "value": estimate.value,
        "ci": None if estimate.interval is None else list(estimate.interval),
        "n": estimate.n,
        "unscored": estimate.unscored,
    }
    return row | {"why_none": estimate.why_none} if estimate.why_none else row


def json_form(value: Any, estimate: Callable[[Estimate], Any] = estimate_row) -> Any:
    """Return a report as JSON holds it: records as objects in the order of their fields, estimates
    by `estimate`.

    A field that may be absent has None as its default, and is left out while it is None.
    """
    if isinstance(value, Estimate):
        return estimate(value)
    if is_dataclass(value):
        return {
            field.name: json_form(getattr(value, field.name), estimate)
            for field in fields(value)
            if field.default is not None or getattr(value, field.name) is not None
        }
    if isinstance(value, Mapping):
        return {str(key): json_form(each, estimate) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_form(each, estimate) for each in value]
    return value


def _plain(value: float, *, share: bool, digits: int, signed: bool) -> str:
    scaled, digits = (value * 100, 1) if share else (value, digits)
    return f"{scaled:{'+' if signed else ''}.{digits}f}"
