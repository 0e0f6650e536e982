"""Read a score from a judge's reply: from its last verdict line, in range, or not at all."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from dpo_video.core.errors import UserError
from dpo_video.judge.scorer import PLACEHOLDER, Scorer
from dpo_video.judge.types import Reply, mode_of
from dpo_video.recipe import JudgeSettings

MIN_LABEL_MASS = 0.1
"""Least total probability of the labels: below it the judge means to write something else, and
there is no score.
"""
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?", re.ASCII)
EMPHASIS = re.compile(r"[*`#]+|(?<!\w)_+|_+(?!\w)")
THINKING_BEGINS, THINKING_ENDS = "<think>", "</think>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a reply says: a score, or None with the reason."""

    score: float | None
    label: str | None = None
    reason: str = ""
    """Scored: the judge's explanation. Unscored: the kind of problem, a colon, the offending text.
    """


CUT_OFF = Verdict(score=None, reason="cut off: the reply reached judge.max_tokens before its end")


def read_reply(
    settings: JudgeSettings, scorer: Scorer, reply: Reply
) -> tuple[Verdict, dict[str, float] | None]:
    """Return the verdict of an answered reply, and the label probabilities where it was read from
    them.

    A local judge writes nothing but the label. A server writes as it likes: there the probabilities
    count where what it wrote is a verdict too, so that the "a" of "Verdict: a claim is wrong" is
    not label A, nor "1.5" label 1.
    """
    if mode_of(settings, scorer) == "verdict":
        return CUT_OFF if reply.finish == "length" else parse_verdict(scorer, reply.text), None
    if reply.log_probs is None:
        written = CUT_OFF if reply.finish == "length" else parse_verdict(scorer, reply.text)
        if written.score is not None:
            written = Verdict(
                score=None,
                reason=f"no label probabilities: the server gave none for {written.label!r}, "
                "or it is not a token of its own",
            )
        return written, None
    verdict, shares = expected_score(scorer, reply.log_probs)
    if settings.backend == "openai" and verdict.score is not None:
        written = _written(scorer, reply)
        if written.score is None:
            return written, None
    return verdict, shares


def parse_verdict(scorer: Scorer, reply: str) -> Verdict:
    """Return the verdict of a written reply; only its last verdict line counts.

    A verdict line begins with the scorer's opening words ("Score:"), bold and case aside, and holds
    the verdict and nothing more. Numbers elsewhere are never read, and a last verdict line that is
    wrong is not replaced by an earlier one. Of a reasoning judge, only the text after its thinking
    is read.
    """
    said = reply.rpartition(THINKING_ENDS)[2]
    if said.lstrip().startswith(THINKING_BEGINS):
        return Verdict(score=None, reason=f"no verdict line: {THINKING_BEGINS} has no end")
    lines = said.splitlines()
    opening = PLACEHOLDER.split(scorer.verdict)[0].strip().casefold()
    plain = [EMPHASIS.sub("", line).strip() for line in lines]
    found = [number for number, line in enumerate(plain) if line.casefold().startswith(opening)]
    if not found:
        shown = " ".join(reply.split())[:80]
        return Verdict(score=None, reason=f"no verdict line: {shown!r}" if shown else "empty reply")
    line = plain[found[-1]]
    match = verdict_pattern(scorer.verdict).fullmatch(line.removesuffix("."))
    if match is None:
        return Verdict(score=None, reason=f"malformed verdict: {line!r} is not {scorer.verdict!r}")
    verdict = verdict_value(scorer, match.groupdict(), line)
    if verdict.score is None:
        return verdict
    explanation = "\n".join(line.strip() for line in lines[: found[-1]]).strip()
    return Verdict(score=verdict.score, label=verdict.label, reason=explanation)


def expected_score(
    scorer: Scorer, log_probs: Mapping[str, float]
) -> tuple[Verdict, dict[str, float]]:
    """Return the mean score under the labels' probabilities, and those probabilities: normalised
    when there is a score.

    `log_probs` are natural logarithms of next-token probabilities over the whole vocabulary; a
    label that is not in it counts as 0. The likeliest label is the verdict's. Less than
    `MIN_LABEL_MASS` on all labels gives no score.
    """
    weights = {label: math.exp(log_probs.get(label, -math.inf)) for label in scorer.labels}
    mass = sum(weights.values())
    if not mass >= MIN_LABEL_MASS:  # also true of NaN
        return Verdict(
            score=None,
            reason=f"little weight on the labels: their probabilities sum to {mass:.2g}, less "
            f"than {MIN_LABEL_MASS:g}; the judge means to say something else",
        ), weights
    shares = {label: weight / mass for label, weight in weights.items()}
    score = sum(share * scorer.labels[label] for label, share in shares.items())
    likeliest = max(shares, key=lambda label: shares[label])
    return Verdict(
        score=score, label=likeliest, reason=f"labels hold {mass:.3f} of the probability"
    ), shares


def check_examples(scorer: Scorer) -> None:
    """Raise UserError for the first example reply that does not parse to what the scorer file
    says.
    """
    for example in scorer.examples:
        verdict = parse_verdict(scorer, example.reply)
        if example.unscored is None:
            agrees = verdict.score == example.score
        else:
            agrees = verdict.score is None and verdict.reason.startswith(example.unscored)
        if not agrees:
            got = (
                f"score {verdict.score:g}"
                if verdict.score is not None
                else f"no score ({verdict.reason})"
            )
            wanted = (
                f"score {example.score:g}"
                if example.score is not None
                else f"no score ({example.unscored})"
            )
            raise UserError(
                f"{scorer.path}: the example {example.reply!r} parses to {got}, the file says "
                f"{wanted}"
            )


def _written(scorer: Scorer, reply: Reply) -> Verdict:
    """Return the verdict that a server wrote under labels; of a cut reply only one that is surely
    its last word.

    It is where the reply was cut right behind it, or where nothing stands before it: else it may be
    a draft.
    """
    verdict = parse_verdict(scorer, reply.text)
    if reply.finish == "length" and verdict.score is not None and verdict.reason:
        last = parse_verdict(scorer, reply.text.rstrip().splitlines()[-1])
        return verdict if last.score is not None else CUT_OFF
    return verdict


def verdict_pattern(verdict: str) -> re.Pattern[str]:
    """Return the pattern of a whole verdict line: words as in the form, spaces optional, one word
    per placeholder.
    """
    pieces = []
    for index, part in enumerate(PLACEHOLDER.split(verdict)):
        words = r"\s*".join(re.escape(word) for word in re.findall(r"\w+|[^\w\s]", part))
        pieces.append(rf"(?P<{part}>[^\s,;]+)" if index % 2 else rf"\s*{words}\s*" if words else "")
    return re.compile("".join(pieces), re.IGNORECASE)


def verdict_value(scorer: Scorer, given: dict[str, str], line: str) -> Verdict:
    """Return the score and label that a well-formed verdict line gives."""
    given = {key: text.removesuffix(f"/{scorer.high:g}") for key, text in given.items()}
    label = None
    if "label" in given:
        spelled = {known.casefold(): known for known in scorer.known_labels}
        label = spelled.get(given["label"].casefold())
        if label is None:
            return Verdict(
                score=None,
                reason=f"out of scale: {line!r} names none of {', '.join(scorer.known_labels)}",
            )
    if "score" not in given:
        return Verdict(score=scorer.labels[label or ""], label=label)
    if not NUMBER.fullmatch(given["score"]) or scorer.scale is None:
        return Verdict(
            score=None, label=label, reason=f"malformed verdict: {line!r} holds no number"
        )
    score = float(given["score"])
    if not scorer.scale.min <= score <= scorer.scale.max:
        return Verdict(
            score=None,
            label=label,
            reason=f"out of scale: {line!r} is not in {scorer.scale.min:g} to {scorer.scale.max:g}",
        )
    if scorer.scale.integer and not score.is_integer():
        return Verdict(score=None, label=label, reason=f"not an integer: {line!r}")
    low, high = scorer.label_ranges.get(label or "", (score, score))
    if not low <= score <= high:
        return Verdict(
            score=None,
            label=label,
            reason=f"contradictory verdict: {line!r}, but {label} goes with {low:g} to {high:g}",
        )
    return Verdict(score=score, label=label)
