"""What a check finds: what it assumes, what stands in the way of a run, what will disappoint."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from dpo_video.core.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Sentences for the user; two findings are joined with `+`."""

    assumptions: tuple[str, ...] = ()
    """What is planned with in place of data that are not there."""
    problems: tuple[str, ...] = ()
    """What stands in the way of a run."""
    warnings: tuple[str, ...] = ()

    def __add__(self, other: "Findings") -> "Findings":
        return Findings(
            assumptions=self.assumptions + other.assumptions,
            problems=self.problems + other.problems,
            warnings=self.warnings + other.warnings,
        )


def join_findings(findings: Iterable[Findings]) -> Findings:
    """Return all findings as one, in order."""
    return sum(findings, Findings())


def warn(sentence: str) -> Findings:
    """Return one warning."""
    return Findings(warnings=(sentence,))


def problem(sentence: str) -> Findings:
    """Return one problem."""
    return Findings(problems=(sentence,))


def attempt(call: Callable[..., Any], *arguments: Any) -> tuple[Any, Findings]:
    """Return what a call returns; where it raises UserError, None and a problem for each line."""
    try:
        return call(*arguments), Findings()
    except UserError as error:
        return None, Findings(problems=tuple(str(error).splitlines()))
