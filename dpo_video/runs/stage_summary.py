"""What a stage says when it is done: a headline, a row for each group of counts, and warnings in
words. The log of a run without a terminal gets the same.
"""

import textwrap
from collections.abc import Mapping
from typing import Any

from dpo_video.core.stage_warnings import stage_warnings

MAX_IN_HEADLINE = 4
"""Counts that stand in the first line."""


def stage_lines(
    name: str, counts: Mapping[str, Any], *, seconds: float, output: str, width: int
) -> list[str]:
    """Return a finished stage as lines of at most `width` columns, where words allow it.

    Nested counts have a row of their own; statistics that hold no number stay in the manifest.
    """
    scalars = [
        f"{_words(key)} {_number(value)}"
        for key, value in counts.items()
        if isinstance(value, int | float | str)
    ]
    head = f"{name}: {', '.join(scalars[:MAX_IN_HEADLINE])}; {seconds:.0f} s; {output}"
    lines = [head]
    if scalars[MAX_IN_HEADLINE:]:
        lines += _row(", ".join(scalars[MAX_IN_HEADLINE:]), width)
    for key, value in counts.items():
        group = value if isinstance(value, Mapping) else {}
        words = [
            f"{_words(inner_key)} {count}"
            for inner_key, count in group.items()
            if isinstance(count, int)
        ]
        if words:
            lines += _row(f"{_words(key)}: {', '.join(words)}", width)
    warnings = stage_warnings(name, counts)
    lines += [line for warning in warnings for line in _row(f"warning: {warning}", width)]
    return lines


def _row(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, 20),
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
