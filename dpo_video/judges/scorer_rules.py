"""The rules of a scorer file that span keys: which placeholders, labels and examples go with which mode."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dpo_video.names import did_you_mean

if TYPE_CHECKING:
    from dpo_video.judges.scorer import Scorer

PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
ANSWERS = {"labels": ("answer",), "verdict": ("answer",), "claims": ("claim",), "pairwise": ("answer_a", "answer_b")}
"""By mode: the placeholders that hold the text under judgment, fenced."""
JUDGED = re.compile(rf"\{{({'|'.join(sorted({name for names in ANSWERS.values() for name in names}))})\}}")
CONTEXT = ("caption", "question", "reference")
VERDICT_PLACEHOLDERS = ("label", "score")


def problems(scorer: "Scorer") -> Iterator[tuple[str, str]]:
    """Yield the key and the problem of each rule that spans keys."""
    judged = ANSWERS[scorer.mode]
    yield from _placeholder_problems("prompt", scorer.prompt, (*CONTEXT, *judged))
    yield from _placeholder_problems("verdict", scorer.verdict, VERDICT_PLACEHOLDERS)
    for needed in ("question", *judged):
        if "{" + needed + "}" not in scorer.prompt:
            yield "prompt", f"needs {{{needed}}}: the judge must see it"
    yield from _reference_problems(scorer)
    if not PLACEHOLDER.split(scorer.verdict)[0].strip() or "\n" in scorer.verdict:
        yield "verdict", f"must be one line that opens with a word, such as 'Score: {{score}}'; got {scorer.verdict!r}"
    yield from _written_problems(scorer) if scorer.mode == "verdict" else _label_problems(scorer)
    yield from _claim_problems(scorer)
    folded = [label.casefold() for label in scorer.known_labels]
    if len(set(folded)) < len(folded):
        yield "labels", f"labels must differ by more than case: {scorer.known_labels}"
    if (scorer.labels or scorer.scale) and not scorer.low <= scorer.threshold <= scorer.high:
        yield "threshold", f"{scorer.threshold:g} lies outside the scores {scorer.low:g} to {scorer.high:g}"
    yield from _example_problems(scorer)


def _placeholder_problems(key: str, text: str, known: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name in PLACEHOLDER.findall(text):
        if name not in known:
            allowed = ", ".join(f"{{{item}}}" for item in known)
            yield key, f"unknown placeholder {{{name}}}.{did_you_mean(name, known)} Known: {allowed}"


def _label_problems(scorer: "Scorer") -> Iterator[tuple[str, str]]:
    if len(scorer.labels) < 2:
        yield "labels", f"`mode: {scorer.mode}` needs at least two labels with their scores"
    for label in scorer.labels:
        if not label or label != "".join(label.split()):
            yield "labels", f"label {label!r} cannot be one token: give it at least one letter or digit, and no space"
    if scorer.verdict != scorer.reply_prefix + "{label}":
        yield "verdict", (f"under `mode: {scorer.mode}` it must be reply_prefix and the label, "
                          f"{scorer.reply_prefix + '{label}'!r}, so that written verdicts mean the same")
    for key in ("scale", "label_ranges"):
        if key in scorer.model_fields_set:
            yield key, f"belongs to `mode: verdict`; under `mode: {scorer.mode}` the labels carry the scores"


def _reference_problems(scorer: "Scorer") -> Iterator[tuple[str, str]]:
    if scorer.needs_reference and scorer.mode in ("claims", "pairwise"):
        yield "needs_reference", f"belongs to `mode: labels` and `mode: verdict`, not to `mode: {scorer.mode}`"
    if scorer.needs_reference and "{reference}" not in scorer.prompt:
        yield "needs_reference", "is true, but the prompt has no {reference}"


def _example_problems(scorer: "Scorer") -> Iterator[tuple[str, str]]:
    if not scorer.examples:
        yield "examples", "give at least one reply and the score it must parse to"
    for example in scorer.examples:
        if (example.score is None) == (example.unscored is None):
            yield "examples", f"the reply {example.reply!r} needs either `score` or `unscored`"


def _claim_problems(scorer: "Scorer") -> Iterator[tuple[str, str]]:
    rules = scorer.claims
    if (rules is None) == (scorer.mode == "claims"):
        yield "claims", "give it exactly when the mode is claims: it says how an answer is taken apart"
    if scorer.mode in ("claims", "pairwise") and scorer.labels and (scorer.low, scorer.high) != (0, 1):
        worth = "supported 1, the worst 0" if scorer.mode == "claims" else "A better 1, B better 0, a tie between"
        yield "labels", f"under `mode: {scorer.mode}` labels are worth 0 to 1: {worth}"
    if rules is None:
        return
    yield from _placeholder_problems("claims", rules.prompt, ("caption", "question", "answer"))
    if "{answer}" not in rules.prompt:
        yield "claims", "its prompt needs {answer}: the judge must see what to take apart"
    for example in rules.examples:
        if (example.claims is None) == (example.unscored is None):
            yield "claims", f"the reply {example.reply!r} needs either `claims` or `unscored`"


def _written_problems(scorer: "Scorer") -> Iterator[tuple[str, str]]:
    has_label, has_score = "{label}" in scorer.verdict, "{score}" in scorer.verdict
    if not has_label and not has_score:
        yield "verdict", f"needs {{score}} or {{label}}; got {scorer.verdict!r}"
    if has_score != (scorer.scale is not None):
        yield "scale" if scorer.scale else "verdict", "give `scale` exactly when the verdict has {score}"
    if has_label != bool(scorer.known_labels):
        yield "verdict", "give `labels` (or `label_ranges` beside {score}) exactly when the verdict has {label}"
    if scorer.labels and scorer.label_ranges:
        yield "label_ranges", "give `labels` or `label_ranges`, not both"
    if has_label and (has_score != bool(scorer.label_ranges)):
        yield "verdict", "with {label} and {score} it needs `label_ranges`, with {label} alone `labels`"
    if scorer.reply_prefix:
        yield "reply_prefix", "belongs to `mode: labels`; a written reply starts by itself"
