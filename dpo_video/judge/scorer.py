"""A scorer file: what a judge is asked, what its verdict looks like, and what the verdict is worth.

An example, `mine.yaml`:

    description: Whether the answer says what the caption says.
    mode: labels
    labels: {"A": 1, "B": 0.5, "C": 0}
    prompt: |
      Caption: {caption}
      Question: {question}
      Answer:
      {answer}
      Reply with "Verdict: " and A (right), B (partly right) or C (wrong).
    reply_prefix: "Verdict: "
    verdict: "Verdict: {label}"
    threshold: 0.5
    examples:
      - {reply: "Verdict: B", score: 0.5}
      - {reply: "Verdict: D", unscored: out of scale}

For the caption "A dog runs on grass.", the question "What runs?" and the answer "A cat." the judge
gets one user turn:

    Caption: A dog runs on grass.
    Question: What runs?
    Answer:
    > A cat.
    Reply with "Verdict: " and A (right), B (partly right) or C (wrong).

Where it gives the next token behind "Verdict: " the probabilities A 0.02, B 0.08, C 0.70 and all
else 0.20, the labels hold 0.80 of it, and the score is (0.02 * 1 + 0.08 * 0.5 + 0.70 * 0) / 0.80 =
0.075. Where it writes "Verdict: C" (`judge.score_from: verdict`), the score is 0. `threshold` says
from which score an answer counts as good; it, `description` and `examples` are no part of the hash
in `mine@ab14c8cb4529`, so that a change to them pays for no call.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from dpo_video.core import strict_json
from dpo_video.core.errors import UserError
from dpo_video.core.names import did_you_mean, find_yaml
from dpo_video.core.records import Sample
from dpo_video.core.yaml_file import read_yaml, validate
from dpo_video.recipe import Section
from dpo_video.recipe.affects import Affects, names_that_affect

PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
ANSWERS = {
    "labels": ("answer",),
    "verdict": ("answer",),
    "claims": ("claim",),
    "pairwise": ("answer_a", "answer_b"),
}
"""By mode: the placeholders that hold the text under judgment, fenced."""
JUDGED = re.compile(r"\{(answer|answer_a|answer_b|claim)\}")
"""Any of them."""
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
        yield (
            "verdict",
            f"must be one line that opens with a word, such as 'Score: {{score}}'; got "
            f"{scorer.verdict!r}",
        )
    yield from _written_problems(scorer) if scorer.mode == "verdict" else _label_problems(scorer)
    yield from _claim_problems(scorer)
    folded = [label.casefold() for label in scorer.known_labels]
    if len(set(folded)) < len(folded):
        yield "labels", f"labels must differ by more than case: {scorer.known_labels}"
    if (scorer.labels or scorer.scale) and not scorer.low <= scorer.threshold <= scorer.high:
        yield (
            "threshold",
            f"{scorer.threshold:g} lies outside the scores {scorer.low:g} to {scorer.high:g}",
        )
    yield from _example_problems(scorer)


def _placeholder_problems(key: str, text: str, known: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name in PLACEHOLDER.findall(text):
        if name not in known:
            allowed = ", ".join(f"{{{item}}}" for item in known)
            yield (
                key,
                f"unknown placeholder {{{name}}}.{did_you_mean(name, known)} Known: {allowed}",
            )


def _label_problems(scorer: "Scorer") -> Iterator[tuple[str, str]]:
    if len(scorer.labels) < 2:
        yield "labels", f"`mode: {scorer.mode}` needs at least two labels with their scores"
    for label in scorer.labels:
        if not label or label != "".join(label.split()):
            yield (
                "labels",
                f"label {label!r} cannot be one token: give it at least one letter or digit, and "
                f"no space",
            )
    if scorer.verdict != scorer.reply_prefix + "{label}":
        yield (
            "verdict",
            (
                f"under `mode: {scorer.mode}` it must be reply_prefix and the label, "
                f"{scorer.reply_prefix + '{label}'!r}, so that written verdicts mean the same"
            ),
        )
    for key in ("scale", "label_ranges"):
        if key in scorer.model_fields_set:
            yield (
                key,
                f"belongs to `mode: verdict`; under `mode: {scorer.mode}` the labels carry the "
                f"scores",
            )


def _reference_problems(scorer: "Scorer") -> Iterator[tuple[str, str]]:
    if scorer.needs_reference and scorer.mode in ("claims", "pairwise"):
        yield (
            "needs_reference",
            f"belongs to `mode: labels` and `mode: verdict`, not to `mode: {scorer.mode}`",
        )
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
        yield (
            "claims",
            "give it exactly when the mode is claims: it says how an answer is taken apart",
        )
    if (
        scorer.mode in ("claims", "pairwise")
        and scorer.labels
        and (scorer.low, scorer.high) != (0, 1)
    ):
        worth = (
            "supported 1, the worst 0"
            if scorer.mode == "claims"
            else "A better 1, B better 0, a tie between"
        )
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
        yield (
            "scale" if scorer.scale else "verdict",
            "give `scale` exactly when the verdict has {score}",
        )
    if has_label != bool(scorer.known_labels):
        yield (
            "verdict",
            "give `labels` (or `label_ranges` beside {score}) exactly when the verdict has {label}",
        )
    if scorer.labels and scorer.label_ranges:
        yield "label_ranges", "give `labels` or `label_ranges`, not both"
    if has_label and (has_score != bool(scorer.label_ranges)):
        yield (
            "verdict",
            "with {label} and {score} it needs `label_ranges`, with {label} alone `labels`",
        )
    if scorer.reply_prefix:
        yield "reply_prefix", "belongs to `mode: labels`; a written reply starts by itself"


class Scale(Section):
    """The numbers that `{score}` of a verdict may be."""

    min: Annotated[float, Affects.SCORES]
    max: Annotated[float, Affects.SCORES]
    integer: Annotated[bool, Affects.SCORES] = True
    """False admits 3.5."""


class Example(Section):
    """A reply and what it must parse to: a score, or how the reason for none begins."""

    reply: Annotated[str, Affects.DISPLAY]
    score: Annotated[float | None, Affects.DISPLAY] = None
    unscored: Annotated[str | None, Affects.DISPLAY] = None


class SplitExample(Section):
    """A reply that lists claims and what it must be read as: the claims, or how the reason for none
    begins.
    """

    reply: Annotated[str, Affects.DISPLAY]
    claims: Annotated[list[str] | None, Affects.DISPLAY] = None
    unscored: Annotated[str | None, Affects.DISPLAY] = None


class ClaimRules(Section):
    """How a `claims` scorer takes an answer apart and weighs it."""

    prompt: Annotated[str, Affects.SCORES]
    """Asks the judge to list the claims of {answer}, a line each behind "- "; may hold {caption}
    and {question}.
    """
    coverage: Annotated[str | None, Affects.DISPLAY] = None
    """Scorer of `mode: labels` for how much of what is asked the whole answer gives; None:
    precision alone.
    """
    most: Annotated[PositiveInt, Affects.SCORES] = 40
    """An answer with more claims stays unscored."""
    examples: Annotated[list[SplitExample], Affects.DISPLAY]
    """Lists of claims that test the file."""


class Scorer(Section):
    """A scorer file, checked."""

    name: Annotated[str, Affects.DISPLAY]
    path: Annotated[Path, Affects.DISPLAY]
    coverage: Annotated["Scorer | None", Affects.SCORES] = None
    """The scorer that `claims.coverage` names."""
    description: Annotated[str, Affects.DISPLAY]
    mode: Annotated[Literal["labels", "verdict", "claims", "pairwise"], Affects.SCORES]
    """`labels`: the mean under the label probabilities, one forward, no text. `verdict`: the last
    line of a reply.
    `claims`: each claim of an answer by its label probabilities. `pairwise`: two answers by theirs,
        in both orders.
    """
    prompt: Annotated[str, Affects.SCORES]
    """The user turn, with {caption}, {question}, {reference} and what is judged: {answer}, {claim}
    under `claims`, {answer_a} and {answer_b} under `pairwise`; its lines come behind "> "."""
    verdict: Annotated[str, Affects.SCORES]
    """The form of the last line, with {label}, {score} or both; the score is {score} where there is
    one.
    """
    reply_prefix: Annotated[str, Affects.SCORES] = ""
    """The reply up to the label, under `labels`: the label probabilities are those of the next
    token.
    """
    labels: Annotated[dict[str, float], Affects.SCORES] = Field(default={})
    """Each label with its score."""
    label_names: Annotated[dict[str, str], Affects.DISPLAY] = Field(default={})
    """What each label means, for tables."""
    scale: Annotated[Scale | None, Affects.SCORES] = None
    """Range of {score}."""
    label_ranges: Annotated[dict[str, tuple[float, float]], Affects.SCORES] = Field(default={})
    """The scores that may stand beside each label, in a verdict with both; others contradict it and
    are unscored.
    """
    claims: Annotated[ClaimRules | None, Affects.SCORES] = None
    """How answers are taken apart, under `claims`."""
    needs_reference: Annotated[bool, Affects.SCORES] = False
    """True: a sample without a gold answer cannot be judged. False: the prompt says that none is
    given.
    """
    threshold: Annotated[float, Affects.PAIRS | Affects.METRICS]
    """Score from which an answer counts as good."""
    examples: Annotated[list[Example], Affects.DISPLAY]
    """Replies that test the file."""

    @property
    def hash(self) -> str:
        """Hash of all that determines a score: prompt, verdict form, labels and scale."""
        parts = _scoring_keys(self)
        del parts["claims"], parts["coverage"]
        if self.claims is not None:
            parts["claims"] = _scoring_keys(self.claims)
            parts["coverage"] = self.coverage and self.coverage.hash
        text = strict_json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def version(self) -> str:
        """`<name>@<hash>`, as judgments carry it."""
        return f"{self.name}@{self.hash}"

    @property
    def known_labels(self) -> list[str]:
        """The labels that a verdict may name."""
        return list(self.labels or self.label_ranges)

    @property
    def low(self) -> float:
        """The lowest score."""
        return self.scale.min if self.scale else min(self.labels.values())

    @property
    def high(self) -> float:
        """The highest score."""
        return self.scale.max if self.scale else max(self.labels.values())

    @property
    def reads_caption(self) -> bool:
        """Whether a sample without a caption cannot be judged."""
        prompts = [self.prompt] if self.claims is None else [self.prompt, self.claims.prompt]
        covers = self.coverage is not None and self.coverage.reads_caption
        return covers or any("{caption}" in prompt for prompt in prompts)

    def can_judge(self, reference: str | None) -> bool:
        """Return whether a sample with this gold answer, or none, can be judged."""
        return bool(reference) or not self.needs_reference


def can_be_judged(scorer: Scorer, sample: Sample) -> bool:
    """Return whether answers to a held-out sample are judged: those to a text question, with a
    caption where the scorer reads one.
    """
    has_evidence = sample.caption is not None or not scorer.reads_caption
    return sample.answer_kind == "text" and has_evidence


def _scoring_keys(section: Section) -> dict[str, Any]:
    """Return the keys of a scorer file that determine a score; an edit of the others pays for no
    call.
    """
    return section.model_dump(
        mode="json", include=set(names_that_affect(type(section), Affects.SCORES))
    )


def load_scorer(name: str) -> Scorer:
    """Return a shipped scorer by name, or the one in a file when `name` ends in .yaml; errors name
    file and line.
    """
    path = find_yaml("scorers", name)
    file = read_yaml(
        path, expected="a scorer file is a mapping of keys such as `mode` and `prompt`"
    )
    scorer = validate(
        Scorer,
        file,
        computed={"name": path.stem, "path": path, "coverage": None},
        strict=False,  # a list may stand for a tuple
    )
    for key, problem in problems(scorer):
        raise UserError(f"{file.origin((key,))}: `{key}`: {problem}")
    if scorer.claims is None or scorer.claims.coverage is None:
        return scorer
    coverage = load_scorer(scorer.claims.coverage)
    if coverage.mode != "labels":
        raise UserError(
            f"{file.origin(('claims', 'coverage'))}: `claims.coverage`: {coverage.name!r} has "
            f"`mode: {coverage.mode}`; coverage is read from one scorer of `mode: labels`"
        )
    return scorer.model_copy(update={"coverage": coverage})
