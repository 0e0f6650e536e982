"""Label probabilities among the tokens of a server's reply: where the label was written, and what
else could have been.
"""

import math
from collections.abc import Sequence

from dpo_video.judge.scorer import Scorer
from dpo_video.judge.thinking import thinking_end
from dpo_video.judge.verdict import FULL_WIDTH, plain_line

MAX_SIZE = 1e6
"""Log probabilities are told from each other up to here: exp of -1e6 is 0, and 1e6 is no log
probability.
"""
Alternatives = Sequence[tuple[str, float]]
"""Texts of tokens with their natural log probabilities."""
Token = tuple[str, Alternatives]
"""What was written, and what could have been written there."""


def label_alternatives(scorer: Scorer, tokens: Sequence[Token]) -> Alternatives:
    """Return what could have been written in the place of the last verdict line's label; nothing
    where there is none. Of a reasoning judge, thinking is not looked into.
    """
    opening, reply = scorer.reply_prefix.strip().casefold(), "".join(text for text, _ in tokens)
    line_begin, _ = thinking_end(reply)
    last_begin = None
    for line in reply[line_begin:].splitlines(keepends=True):
        if plain_line(line).casefold().startswith(opening):
            last_begin = line_begin
        line_begin += len(line)
    if last_begin is None:
        return ()
    end = 0
    for text, alternatives in tokens:
        written = plain_line(reply[last_begin:end]).casefold().rstrip("[ ")
        if written == opening and plain_line(text).strip("[ "):
            return alternatives
        end += len(text)
    return ()


def sum_of_labels(scorer: Scorer, alternatives: Alternatives) -> dict[str, float]:
    """Return the labels among a token's alternatives, each with the log of its summed
    probability; labels outside of them are left out.

    Spellings of a label (" A", "A") add up, in upper and lower case where it is a word: " a" is an
    article, not label A.
    """
    labels = {_spelling(label): label for label in scorer.labels}
    weights: dict[str, float] = {}
    for text, log_prob in alternatives:
        label = labels.get(_spelling(text.translate(FULL_WIDTH).strip()))
        if label is not None:
            weights[label] = weights.get(label, 0.0) + math.exp(log_prob)
    return {label: math.log(weight) for label, weight in weights.items() if weight > 0}


def _spelling(label: str) -> str:
    return label.casefold() if len(label) > 1 else label


def read_tokens(logprobs: object) -> list[Token]:
    """Return each token of a reply with its alternatives; what is not as the protocol has it counts
    as not there.
    """
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    rows = [row for row in (content if isinstance(content, list) else ()) if _has_text(row)]
    return [(row["token"], _alternatives(row.get("top_logprobs"))) for row in rows]


def _alternatives(rows: object) -> Alternatives:
    alternatives = []
    for row in rows if isinstance(rows, list) else ():
        log_prob = row.get("logprob") if _has_text(row) else None
        if not isinstance(log_prob, int | float) or isinstance(log_prob, bool):
            continue
        if not -math.inf < log_prob < math.inf:  # compares numbers of any length; not so NaN
            continue
        alternatives.append((row["token"], float(max(-MAX_SIZE, min(log_prob, MAX_SIZE)))))
    return alternatives


def _has_text(row: object) -> bool:
    return isinstance(row, dict) and isinstance(row.get("token"), str)
