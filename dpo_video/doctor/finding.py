"""One line of the doctor's report."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dpo_video.core.text import shortened

CheckVerdict = Literal["right", "wrong", "not checked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was looked at, what was seen, and what mends it."""

    name: str
    verdict: CheckVerdict
    text: str
    fix: str = ""
    """What to do; empty where nothing is to be done."""


def right(name: str, text: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(name=name, verdict="right", text=text)


def wrong(name: str, text: str, fix: str) -> Finding:
    """Return that something is not as it should be, and what mends it."""
    return Finding(name=name, verdict="wrong", text=text, fix=fix)


def not_checked(name: str, text: str, fix: str = "") -> Finding:
    """Return that nothing is known, and why."""
    return Finding(name=name, verdict="not checked", text=text, fix=fix)


def looked_at(name: str, look: Callable[[], Finding], fix: str) -> Finding:
    """Return what a look finds; one that fails has found something wrong, whatever it raises."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - a kernel or a driver may raise anything
        lines = str(error).strip().splitlines()
        reason = shortened(lines[0] if lines else type(error).__name__)
        return wrong(name, f"it fails: {type(error).__name__}: {reason}", fix)


def compared(name: str, distance: float, allowed: float, against: str, fix: str) -> Finding:
    """Return whether a result is as near to its reference as rounding allows; NaN is not."""
    text = f"{distance:.1e} from {against}, {allowed:.0e} allowed"
    return right(name, text) if distance <= allowed else wrong(name, text, fix)
