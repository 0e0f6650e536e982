"""Keys of replies: made of all that determines a reply, for one prompt or for many answers to a
question, and kept.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpo_video.core.records import Candidate, Sample
from dpo_video.data.answer_filters import AnswerPlan
from dpo_video.judge.prompt import prompt_pieces, question_of, quote_answer, user_turn
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.types import Judge, Messages, mode_of
from dpo_video.recipe import JudgeSettings
from dpo_video.store.keys import ENCODE

if TYPE_CHECKING:
    from hashlib import _Hash

MARK = "\0mark"
DIGEST_BYTES = 32
DIGEST = np.dtype(f"S{DIGEST_BYTES}")
"""numpy hides zero bytes at the end, and compares them as the least there is: all the same for
bytes of one length.
"""
NO_DIGEST = bytes(DIGEST_BYTES)
COMPARED = 50_000
"""Digests that are compared at once."""

NOISE = "exponential"
"""How the noise of a local judge's sampled verdicts is drawn: `SeededGumbel`."""

KeyOfAnswer = Callable[[str], bytes]
KeysOfSample = Callable[[Sample], KeyOfAnswer | None]
"""What makes the keys of a sample's answers; None where the sample cannot be judged."""


def draws_noise(settings: JudgeSettings, scorer: Scorer) -> bool:
    """Return whether replies are sampled with noise of our own: written verdicts of a local judge
    at a temperature.
    """
    return (
        settings.backend == "local"
        and settings.temperature > 0
        and mode_of(settings, scorer) == "verdict"
    )


def key_maker(
    settings: JudgeSettings, scorer: Scorer, judge: Judge, *, noise: str | None = NOISE
) -> Callable[[Messages], str]:
    """Return the function from a prompt to the hash of all that determines its reply.

    How a reply is read is no part of it: a new scale or threshold costs nothing. The hash is
    `row_key`'s, whose canonical JSON is made once up to the prompt.

    Args:
        noise: how the noise of sampled verdicts is drawn; None: as an earlier version drew it,
            and hashed no word of it.
    """
    begun, end = _begin(settings, scorer, judge, messages=MARK, mark=ENCODE(MARK), noise=noise)

    def key_of(messages: Messages) -> str:
        digest = begun.copy()
        digest.update((ENCODE(messages) + end).encode())
        return digest.hexdigest()

    return key_of


def answer_keys(settings: JudgeSettings, scorer: Scorer, judge: Judge) -> KeysOfSample:
    """Return `key_maker`'s hash, as bytes, by sample and then answer: what stands before the answer
    is hashed once.

    It is None for a sample without the gold answer that the scorer needs.
    """
    begun, end = _begin(settings, scorer, judge, messages=user_turn(MARK), mark=ENCODE(MARK)[1:-1])

    def keys_of(sample: Sample) -> KeyOfAnswer | None:
        if not scorer.can_judge(sample.answer):
            return None
        pieces = prompt_pieces(
            scorer, caption=sample.caption, question=question_of(sample), reference=sample.answer
        )
        first, *rest = (
            ENCODE(piece)[1:-1] for piece in pieces
        )  # JSON writes every character by itself
        rest[-1] += end
        begun_of_sample = begun.copy()
        begun_of_sample.update(first.encode())

        def key_of(answer: str) -> bytes:
            digest = begun_of_sample.copy()
            digest.update(ENCODE(quote_answer(answer))[1:-1].join(["", *rest]).encode())
            return digest.digest()

        return key_of

    return keys_of


def _begin(
    settings: JudgeSettings,
    scorer: Scorer,
    judge: Judge,
    *,
    messages: object,
    mark: str,
    noise: str | None = NOISE,
) -> tuple["_Hash", str]:
    """Return the hash of a key's canonical JSON up to the mark that its messages hold, and the text
    behind it.
    """
    mode = mode_of(settings, scorer)
    how: dict[str, Any] = (
        {"labels": list(scorer.labels), "prefix": scorer.reply_prefix}
        if mode == "labels"
        else {"temperature": settings.temperature}
    )
    # a local judge writes nothing under labels
    if mode == "verdict" or settings.backend == "openai":
        how["max_tokens"] = settings.max_tokens
    if settings.repeat:
        how["repeat"] = settings.repeat
    if noise is not None and draws_noise(settings, scorer):
        how["noise"] = noise
    text = ENCODE(
        {"backend": settings.backend, "judge": judge.identity, "messages": messages, **how}
    )
    head, _, end = text.partition(mark)
    return hashlib.sha256(head.encode()), end


@dataclass(kw_only=True)
class Keys:
    """The key of each candidate's reply, 33 bytes a candidate; none without `keys_of`."""

    keys_of: KeysOfSample | None = None
    num_judged: int = 0
    _digests: bytearray = field(default_factory=bytearray)
    _first: bytearray = field(default_factory=bytearray)

    def add(self, sample: Sample, block: Sequence[Candidate], plan: AnswerPlan) -> None:
        """Make the keys of the next candidates of the file: those of one question that stand side
        by side.
        """
        if self.keys_of is None:
            return
        key_of = self.keys_of(sample)
        for number, candidate in enumerate(block, start=len(self._digests) // DIGEST_BYTES):
            if key_of is not None and plan.is_judged(number):
                self._digests += key_of(candidate.text)
                self.num_judged += 1
            else:
                self._digests += NO_DIGEST

    def missing(self, order: "array[int]", stored: Iterable[str]) -> "array[int]":
        """Return the candidates, in `order`, whose keys are not stored; of those with equal keys
        one.
        """
        digest_bytes = bytearray(NO_DIGEST)  # so that it is never empty
        for key in stored:
            digest_bytes += bytes.fromhex(key)
        stored_digests = np.frombuffer(digest_bytes, DIGEST)
        stored_digests.sort()
        digests = np.frombuffer(self._digests, DIGEST)
        numbers = np.argsort(digests, kind="stable")
        digests = digests[numbers]
        is_first = digests != b""
        is_first[1:] &= digests[1:] != digests[:-1]
        self._first = bytearray(len(order))
        np.frombuffer(self._first, np.bool_)[numbers[is_first]] = True
        is_missing = np.zeros(len(order), np.bool_)
        is_missing[numbers[is_first & ~_is_among(digests, stored_digests)]] = True
        in_order = np.frombuffer(order, np.intc)
        return array("i", in_order[is_missing[in_order]].tobytes())

    def share(self, judged_as: "array[int]") -> None:
        """Give those that share another candidate's judgment its key."""
        for number, twin in enumerate(judged_as):
            if number != twin:
                self._digests[_span(number)] = self._digests[_span(twin)]

    def has(self, number: int) -> bool:
        """Return whether a candidate has a key."""
        return self._digests[_span(number)] != NO_DIGEST

    def of(self, number: int) -> str:
        """Return the key of a candidate that has one."""
        return self._digests[_span(number)].hex()

    @property
    def num_different(self) -> int:
        """Different keys, once `missing` has compared them."""
        return sum(self._first)

    def is_first(self, number: int) -> bool:
        """Return whether the candidate's reply is counted with it: equal texts share one."""
        return bool(self._first[number])


def _is_among(digests: NDArray[Any], stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Return for each digest whether it is stored; both are sorted, and a page of them is compared
    at a time.
    """
    is_stored = np.zeros(len(digests), np.bool_)
    for begin in range(0, len(digests), COMPARED):
        page = digests[begin : begin + COMPARED]
        nearest = stored.take(np.searchsorted(stored, page), mode="clip")
        is_stored[begin : begin + COMPARED] = nearest == page
    return is_stored


def _span(number: int) -> slice:
    return slice(DIGEST_BYTES * number, DIGEST_BYTES * (number + 1))
