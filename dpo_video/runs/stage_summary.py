"""What a stage says when it is done: a headline, a row for each group of counts, and warnings in
words. The log of a run without a terminal gets the same.
"""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

MAX_IN_HEADLINE = 4
"""Counts that stand in the first line."""
MANY_CUT = 0.05
"""Share of cut answers from which it is told."""
MANY_UNSCORED = 0.05
"""Share of answers without a score from which it is told."""
MANY_LONGER = 0.65
"""Share of pairs whose chosen answer is longer from which length may be what is learnt."""
MANY_TIES = 0.5
"""Share of questions without a pair for the margin from which it is told."""
FEW_PAIRS = 100
"""Fewer are told."""


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


def stage_warnings(name: str, counts: Mapping[str, Any]) -> list[str]:
    """Return what a reader of a stage's counts should not miss."""
    rules = {"generate": _generate, "judge": _judge, "pair": _pair, "evaluate": _evaluate}
    return [*rules[name](counts)] if name in rules else []


def _generate(counts: Mapping[str, Any]) -> Iterator[str]:
    share = _share(counts.get("cut"), counts.get("candidates"))
    if share > MANY_CUT:
        yield (
            f"{_percent(share)} of the answers were cut at generate.max_new_tokens: raise it, or "
            "the policy learns from halves"
        )


def _judge(counts: Mapping[str, Any]) -> Iterator[str]:
    share = _share(counts.get("unscored"), counts.get("candidates"))
    if share > MANY_UNSCORED:
        yield f"{_percent(share)} of the answers have no score: judgments.jsonl has the reasons"


def _pair(counts: Mapping[str, Any]) -> Iterator[str]:
    pairs, longer = counts.get("pairs"), counts.get("chosen_longer")
    if isinstance(pairs, int) and pairs < FEW_PAIRS:
        yield f"only {pairs} pairs: more samples or candidates, or a lower pair.min_margin"
    if isinstance(longer, float) and longer > MANY_LONGER:
        yield (
            f"the chosen answer is the longer one in {_percent(longer)} of the pairs: length may "
            "be what is learnt (`dpo-video audit`)"
        )
    dropped: Any = counts.get("questions_dropped") or {}
    questions: Any = counts.get("questions") or {}
    ties = _share(dropped.get("below_margin"), questions.get("in"))
    if ties > MANY_TIES:
        yield (
            f"{_percent(ties)} of the questions have no two answers as far apart as pair.min_margin"
        )


def _evaluate(counts: Mapping[str, Any]) -> Iterator[str]:
    if counts.get("unanswered"):
        yield f"{counts['unanswered']} questions have no answer: their clips cannot be read"


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _share(count: object, total: object) -> float:
    if isinstance(count, int) and isinstance(total, int) and total:
        return count / total
    return 0.0


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
