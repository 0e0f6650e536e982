"""Read a score from a judge's reply: from its last verdict line, in range, or not at all."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dpo_video.core.errors import UserError
from dpo_video.core.records import Judgment
from dpo_video.judge.scorer import PLACEHOLDER, Scorer
from dpo_video.judge.thinking import thinking_end
from dpo_video.judge.types import Reply, mode_of
from dpo_video.recipe import JudgeSettings

MIN_LABEL_MASS = 0.1
"""Least total probability of the labels: below it the judge means to write something else, and
there is no score.
"""
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?", re.ASCII)
EMPHASIS = re.compile(r"[*`#]+|(?<!\w)_+|_+(?!\w)")
LIST_MARK = re.compile(r"[-+\u2022]\s+")
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    0x3000: " ",
    0x3010: "[",
    0x3011: "]",
}
"""Full-width characters by their ASCII ones; a space and brackets of their own."""
END_TOKEN = re.compile(
    r"<\|(?:im_end|endoftext|end_of_text|eot_id|eom_id|end|return|end_of_turn|END_OF_TURN_TOKEN"
    r"|action_end)\|>|</s>|<eos>|<end_of_turn>|<turn\|>"
    r"|<\uff5cend\u2581of\u2581sentence\uff5c>|\[EOS\]|\[\|endofturn\|\]"
)
"""Control tokens that end a turn, where a server leaves them in the text."""
TIED = 0.01
"""Labels whose probabilities differ by less are equally likely: servers round, and any may be
written.
"""
MAX_LOG_PROB = 1e-3
"""Servers that compute in 16 bit round: a log probability of 1 may come out a little above 0."""
MAX_MASS = 1.01
"""Most that the probabilities of different tokens at one place may sum to, rounded as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a reply says: a score, or None with the reason."""

    score: float | None
    label: str | None = None
    reason: str = ""
    """Scored: the judge's explanation. Unscored: the kind of problem, a colon, the offending text.
    """
    contradicted_by: str | None = None
    """The label that a server wrote, where its label probabilities say another."""


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
    if reply.reason:
        return Verdict(score=None, reason=reply.reason), None
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
        if shares[written.label or ""] < max(shares.values()) - TIED:
            reason = f"{verdict.reason}; the reply says {written.label}"
            verdict = replace(verdict, reason=reason, contradicted_by=written.label)
    return verdict, shares


def num_contradicted(judgment: Judgment) -> int:
    """Return how many replies behind a judgment say another label than their probabilities."""
    details = judgment.details or {}
    return int(details.get("contradicted", "contradicted_by" in details))


def parse_verdict(scorer: Scorer, reply: str) -> Verdict:
    """Return the verdict of a written reply; only its last verdict line counts.

    A verdict line begins with the scorer's opening words ("Score:") and holds the verdict and
    nothing more; bold, case, a list's dash, full-width characters, brackets around the value and an
    end token that leaked aside. The value may stand alone on the reply's last line, below the
    words. Numbers elsewhere are never read, and a last verdict line that is wrong is not replaced
    by an earlier one. Of a reasoning judge, only the text after its thinking is read.
    """
    begin, unclosed = thinking_end(reply)
    if unclosed is not None:
        return Verdict(score=None, reason=f"no verdict line: {unclosed} has no end")
    answer, end_token, excess = _split_at_end_token(reply[begin:])
    if excess:
        return Verdict(
            score=None, reason=f"malformed verdict: {excess[:40]!r} stands behind {end_token!r}"
        )
    lines = answer.splitlines()
    verdict_lines = _verdict_lines(scorer, lines)
    if not verdict_lines:
        excerpt = " ".join(reply.split())[:80]
        reason = f"no verdict line: {excerpt!r}" if excerpt else "empty reply"
        return Verdict(score=None, reason=reason)
    index, line = verdict_lines[-1]
    listed = {
        plain
        for number, plain in verdict_lines
        if LIST_MARK.match(_without_emphasis(lines[number]))
    }
    if line in listed and len(listed) > 1:
        return Verdict(
            score=None, reason=f"malformed verdict: {line!r} is one of several in a list"
        )
    match = verdict_pattern(scorer.verdict).fullmatch(line.removesuffix("."))
    if match is None:
        return Verdict(score=None, reason=f"malformed verdict: {line!r} is not {scorer.verdict!r}")
    verdict = verdict_value(scorer, match.groupdict(), line)
    if verdict.score is None:
        return verdict
    explanation = "\n".join(line.strip() for line in lines[:index]).strip()
    return Verdict(score=verdict.score, label=verdict.label, reason=explanation)


def _verdict_lines(scorer: Scorer, lines: Sequence[str]) -> list[tuple[int, str]]:
    """Return the index of each line that opens as a verdict, and the line in plain characters."""
    opening = PLACEHOLDER.split(scorer.verdict)[0].strip().casefold()
    plain = [plain_line(line) for line in lines]
    opened = [
        (index, line) for index, line in enumerate(plain) if line.casefold().startswith(opening)
    ]
    if opened and opened[-1][1].casefold() == opening:  # "Score:", and 4 on the line below
        index, line = opened[-1]
        below = [value for value in plain[index + 1 :] if value]
        if len(below) == 1:
            opened[-1] = index, f"{line} {below[0]}"
    return opened


def plain_line(line: str) -> str:
    """Return a line without emphasis, the dash of a list and spaces around it, in ASCII where a
    full-width character has its like there.
    """
    plain = LIST_MARK.sub("", _without_emphasis(line), count=1)
    return plain.removesuffix("\u3002") if plain.endswith("\u3002") else plain


def _without_emphasis(line: str) -> str:
    return EMPHASIS.sub("", line.translate(FULL_WIDTH)).strip()


def _split_at_end_token(text: str) -> tuple[str, str, str]:
    """Return the text before the first end token that leaked into it, the token, and what else
    stands behind it.
    """
    match = END_TOKEN.search(text)
    if match is None:
        return text, "", ""
    return text[: match.start()], match[0], END_TOKEN.sub("", text[match.end() :]).strip()


def expected_score(
    scorer: Scorer, log_probs: Mapping[str, float]
) -> tuple[Verdict, dict[str, float]]:
    """Return the mean score under the labels' probabilities, and those probabilities: normalised
    when there is a score.

    `log_probs` are natural logarithms of next-token probabilities over the whole vocabulary; a
    label that is not in it counts as 0. The likeliest label is the verdict's. Less than
    `MIN_LABEL_MASS` on all labels gives no score, and so do numbers that are no log probabilities.
    """
    values = {label: log_probs.get(label, -math.inf) for label in scorer.labels}
    fault = log_prob_fault(list(values.values()))
    if fault:
        return Verdict(score=None, reason=fault), {}
    weights = {label: math.exp(value) for label, value in values.items()}
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


def log_prob_fault(log_probs: Sequence[float]) -> str | None:
    """Return why numbers cannot be log probabilities of different tokens at one place, or None:
    some servers send probabilities in their place.
    """
    highest = max((value for value in log_probs if not math.isnan(value)), default=0.0)
    if highest > MAX_LOG_PROB:
        return f"no log probabilities: {highest:.4g} is above 0"
    total = sum(map(math.exp, log_probs))
    if total > MAX_MASS:
        return f"no log probabilities: taken as such they sum to {total:.4g}"
    return None


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
            actual = (
                f"score {verdict.score:g}"
                if verdict.score is not None
                else f"no score ({verdict.reason})"
            )
            expected = (
                f"score {example.score:g}"
                if example.score is not None
                else f"no score ({example.unscored})"
            )
            raise UserError(
                f"{scorer.path}: the example {example.reply!r} parses to {actual}, the file says "
                f"{expected}"
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
    per placeholder, which may be a fraction.
    """
    pieces = []
    for index, piece in enumerate(PLACEHOLDER.split(verdict)):
        words = r"\s*".join(re.escape(word) for word in re.findall(r"\w+|[^\w\s]", piece))
        if index % 2:
            pieces.append(rf"(?P<{piece}>[^\s,;]+(?:\s*/\s*[^\s,;]+)?)")
        elif words:
            pieces.append(rf"\s*{words}\s*")
    return re.compile("".join(pieces), re.IGNORECASE)


def verdict_value(scorer: Scorer, fields: Mapping[str, str], line: str) -> Verdict:
    """Return the score and label that a well-formed verdict line gives."""
    values = {key: _bare_value(scorer, text) for key, text in fields.items()}
    label = None
    if "label" in values:
        spelled = {label.casefold(): label for label in scorer.known_labels}
        label = spelled.get(values["label"].casefold())
        if label is None:
            return Verdict(
                score=None,
                reason=f"out of scale: {line!r} names none of {', '.join(scorer.known_labels)}",
            )
    if "score" not in values:
        return Verdict(score=scorer.labels[label or ""], label=label)
    if not NUMBER.fullmatch(values["score"]) or scorer.scale is None:
        return Verdict(
            score=None, label=label, reason=f"malformed verdict: {line!r} holds no number"
        )
    score = float(values["score"])
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


def _bare_value(scorer: Scorer, text: str) -> str:
    """Return a value without brackets around it and the highest score below it: "4" of "[4]/5"."""
    below = re.compile(rf"\s*/\s*{re.escape(f'{scorer.high:g}')}$")
    text = below.sub("", text)
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1].strip()
    return below.sub("", text)
