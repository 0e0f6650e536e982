"""Scorers: YAML files with a judge's prompt, verdict form, scale, and replies with the score each must parse to."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from dpo_video.errors import UserError
from dpo_video.names import did_you_mean, find_yaml
from dpo_video.recipe import Section

PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
PROMPT_PLACEHOLDERS = ("caption", "question", "reference", "answer")
VERDICT_PLACEHOLDERS = ("label", "score")
NO_REFERENCE = "(none given)"
NOT_SCORING = {"name", "path", "description", "label_names", "threshold", "examples"}
"""What a scorer file may change without a new score: left out of the hash, so such an edit pays for no call."""


class Scale(Section):
    """The numbers that `{score}` of a verdict may be."""

    min: float
    max: float
    integer: bool = True
    """False admits 3.5."""


class Example(Section):
    """A reply and what it must parse to: a score, or how the reason for none begins."""

    reply: str
    score: float | None = None
    unscored: str | None = None


class Scorer(Section):
    """A scorer file, checked."""

    name: str
    path: Path
    description: str
    mode: Literal["labels", "verdict"]
    """`labels`: the mean under the label probabilities, one forward, no text. `verdict`: the last line of a reply."""
    prompt: str
    """The user turn, with {caption}, {question}, {answer} and {reference}; the answer's lines come behind "> "."""
    verdict: str
    """The form of the last line, with {label}, {score} or both; the score is {score} where there is one."""
    reply_prefix: str = ""
    """The reply up to the label, under `labels`: the label probabilities are those of the next token."""
    labels: dict[str, float] = Field(default={})
    """Each label with its score."""
    label_names: dict[str, str] = Field(default={})
    """What each label means, for tables."""
    scale: Scale | None = None
    """Range of {score}."""
    label_ranges: dict[str, tuple[float, float]] = Field(default={})
    """The scores that may stand beside each label, in a verdict with both; others contradict it and are unscored."""
    needs_reference: bool = False
    """True: a sample without a gold answer cannot be judged. False: the prompt says that none is given."""
    threshold: float
    """Score from which an answer counts as good."""
    examples: list[Example]
    """Replies that test the file."""

    @property
    def hash(self) -> str:
        """Hash of all that determines a score: prompt, verdict form, labels and scale."""
        text = json.dumps(self.model_dump(mode="json", exclude=NOT_SCORING), sort_keys=True)
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


def load_scorer(name: str) -> Scorer:
    """Return a shipped scorer by name, or the one in a file when `name` ends in .yaml; errors name file and line."""
    path = find_yaml("scorers", name)
    raw, lines = _read(path)
    known = [key for key in Scorer.model_fields if key not in ("name", "path")]
    for key in raw:
        if key not in known:
            raise UserError(f"{path}:{lines[key]}: unknown key `{key}`.{did_you_mean(str(key), known)} "
                            f"A scorer has: {', '.join(known)}")
    try:
        scorer = Scorer(name=path.stem, path=path, **raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        where = key if "[key]" in first["loc"] else ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing" and len(first["loc"]) == 1:
            meaning = Scorer.model_fields[key].description or ""
            raise UserError(f"{path}: missing key `{key}`. {meaning}".rstrip()) from error
        hint = ". Quote it: YAML reads bare yes, no and numbers as other types" if "string" in first["type"] else ""
        line = lines.get(key, 1)
        raise UserError(f"{path}:{line}: `{where}`: {first['msg']}, got {first['input']!r}{hint}") from error
    for key, problem in _problems(scorer):
        raise UserError(f"{path}:{lines.get(key, 1)}: `{key}`: {problem}")
    return scorer


def render(scorer: Scorer, *, caption: str, question: str, answer: str,
           reference: str | None = None) -> list[dict[str, str]]:
    """Return the chat messages that ask for one score: a single user turn.

    Placeholders are filled in one pass, so braces in a caption stay text. The answer is fenced: see `fence`.
    """
    if not reference and scorer.needs_reference:
        raise UserError(f"scorer {scorer.name!r} compares with the gold answer, and this sample has none: "
                        f"give it an `answer`. Question: {question!r}")
    values = {"caption": caption.strip(), "question": question.strip(), "answer": fence(answer),
              "reference": reference.strip() if reference else NO_REFERENCE}
    return [{"role": "user", "content": PLACEHOLDER.sub(lambda match: values[match[1]], scorer.prompt).rstrip("\n")}]


def fence(text: str) -> str:
    """Return `text` with "> " before every line, and a space inside what a chat template could read as control tokens.

    `<|im_end|>` becomes `< |im_end|>` and `[INST]` becomes `[ INST]`: text of a candidate cannot close the user turn.
    """
    text = re.sub(r"<(?=[^\s<=\d])", "< ", text)
    text = re.sub(r"\[(?=/?[A-Z_]+\])", "[ ", text)
    return "\n".join(f"> {line}" for line in text.splitlines() or [""])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the top-level mapping of a YAML file and the line of each key."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: not YAML: {error.problem}") from error
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}:1: a scorer file is a mapping of keys such as `mode` and `prompt`")
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.value in lines:
            raise UserError(f"{path}:{line}: `{key.value}` is given twice, first in line {lines[key.value]}")
        lines[key.value] = line
    return {str(key): value for key, value in raw.items()}, lines


def _problems(scorer: Scorer) -> Iterator[tuple[str, str]]:
    """Yield the key and the problem of each rule that spans keys."""
    yield from _placeholder_problems("prompt", scorer.prompt, PROMPT_PLACEHOLDERS)
    yield from _placeholder_problems("verdict", scorer.verdict, VERDICT_PLACEHOLDERS)
    for needed in ("question", "answer"):
        if "{" + needed + "}" not in scorer.prompt:
            yield "prompt", f"needs {{{needed}}}: the judge must see it"
    if scorer.needs_reference and "{reference}" not in scorer.prompt:
        yield "needs_reference", "is true, but the prompt has no {reference}"
    if not PLACEHOLDER.split(scorer.verdict)[0].strip() or "\n" in scorer.verdict:
        yield "verdict", f"must be one line that opens with a word, such as 'Score: {{score}}'; got {scorer.verdict!r}"
    yield from _label_problems(scorer) if scorer.mode == "labels" else _written_problems(scorer)
    folded = [label.casefold() for label in scorer.known_labels]
    if len(set(folded)) < len(folded):
        yield "labels", f"labels must differ by more than case: {scorer.known_labels}"
    if (scorer.labels or scorer.scale) and not scorer.low <= scorer.threshold <= scorer.high:
        yield "threshold", f"{scorer.threshold:g} lies outside the scores {scorer.low:g} to {scorer.high:g}"
    if not scorer.examples:
        yield "examples", "give at least one reply and the score it must parse to"
    for example in scorer.examples:
        if (example.score is None) == (example.unscored is None):
            yield "examples", f"the reply {example.reply!r} needs either `score` or `unscored`"


def _placeholder_problems(key: str, text: str, known: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name in PLACEHOLDER.findall(text):
        if name not in known:
            allowed = ", ".join(f"{{{item}}}" for item in known)
            yield key, f"unknown placeholder {{{name}}}.{did_you_mean(name, known)} Known: {allowed}"


def _label_problems(scorer: Scorer) -> Iterator[tuple[str, str]]:
    if len(scorer.labels) < 2:
        yield "labels", "`mode: labels` needs at least two labels with their scores"
    if scorer.verdict != scorer.reply_prefix + "{label}":
        yield "verdict", (f"under `mode: labels` it must be reply_prefix and the label, "
                          f"{scorer.reply_prefix + '{label}'!r}, so that written verdicts mean the same")
    for key in ("scale", "label_ranges"):
        if key in scorer.model_fields_set:
            yield key, "belongs to `mode: verdict`; under `mode: labels` the labels carry the scores"


def _written_problems(scorer: Scorer) -> Iterator[tuple[str, str]]:
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
