"""What every judge backend takes and gives: messages, replies, an open judge and what it has
cost.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from dpo_video.core.records import Candidate, Judgment, Sample
from dpo_video.judge.scorer import Scorer
from dpo_video.recipe import JudgeSettings, Section
from dpo_video.recipe.affects import Affects

MILLION = 1_000_000


class Price(Section):
    """US dollars for a million tokens."""

    input: Annotated[float, Affects.DISPLAY] = Field(ge=0)
    """Prompt tokens."""
    output: Annotated[float, Affects.DISPLAY] = Field(ge=0)
    """Reply tokens."""
    cached: Annotated[float | None, Affects.DISPLAY] = Field(default=None, ge=0)
    """Prompt tokens that the server had in its cache; as `input` where it is left out."""


@dataclass(kw_only=True, slots=True)
class Spending:
    """Sums over replies. Tokens are those that the server reported; `unreported` replies came
    without.
    """

    price: Price | None = None
    replies: int = 0
    unreported: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    """None: no server said."""
    attempts: int = 0

    def add(self, reply: "Reply") -> None:
        """Count a reply."""
        self.attempts += reply.attempts
        if reply.status != "answered":
            return
        self.replies += 1
        if reply.prompt_tokens is None:
            self.unreported += 1
            return
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens or 0
        if reply.cached_tokens is not None:
            self.cached_tokens = (self.cached_tokens or 0) + reply.cached_tokens

    @property
    def dollars(self) -> float | None:
        """US dollars so far; None without a price."""
        if self.price is None:
            return None
        cached = self.cached_tokens or 0
        cached_price = self.price.input if self.price.cached is None else self.price.cached
        return (
            (self.prompt_tokens - cached) * self.price.input
            + cached * cached_price
            + self.completion_tokens * self.price.output
        ) / MILLION

    def with_pending(self, pending: int) -> float:
        """Return US dollars once `pending` more replies have come at the mean price of those so
        far.
        """
        return (self.dollars or 0.0) * (1 + pending / max(self.replies, 1))

    def summary(self) -> dict[str, Any]:
        """Return what is known: `tokens` (prompt, completion, cached), `cached_share` of the
        prompt's, `dollars`.
        """
        if self.replies == self.unreported:
            return {}
        tokens = {"prompt": self.prompt_tokens, "completion": self.completion_tokens}
        row: dict[str, Any] = {"tokens": tokens}
        if self.cached_tokens is not None:
            tokens["cached"] = self.cached_tokens
            row["cached_share"] = self.cached_tokens / max(self.prompt_tokens, 1)
        if self.unreported:
            row["without_usage"] = self.unreported
        return row if self.dollars is None else row | {"dollars": self.dollars}


Messages = list[dict[str, str]]
"""A chat prompt."""
NOT_YET: Messages = []
"""Stands among prompts, by identity, where the next is still to be made: a judge behind a server
looks again after a while.
"""
JudgeItem = tuple[Sample, Candidate]
"""A question and an answer to it."""
Mode = Literal["labels", "verdict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back for one prompt. It is stored as it is; scores are read from it later."""

    status: Literal["answered", "refused", "failed", "unscored"]
    """`refused`: it will not be answered as it is (too long, filtered, not accepted), and is not
    asked again. `failed`: all attempts went wrong; the next run asks again. `unscored`: not asked,
    under `judge --reparse`; never stored.
    """
    text: str = ""
    finish: str = "stop"
    """`stop`, or `length` when the reply was cut at `judge.max_tokens`."""
    log_probs: dict[str, float] | None = None
    """Natural log probability of each label as the next token after the reply prefix, over the
    whole vocabulary.
    """
    reason: str = ""
    """Refused or failed: the kind of failure, a colon, details. Answered: why no verdict can be
    read from it whatever it says, or nothing.
    """
    prompt_tokens: int | None = None
    """As the server counts; None where it does not say."""
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    """Prompt tokens that the server had in its cache."""
    seconds: float = 0.0
    """Of the attempt that succeeded; 0 for a local judge, which answers in batches."""
    attempts: int = 1
    model: str | None = None
    """As the server calls what answered: a dated snapshot of the model asked for, say."""
    system_fingerprint: str | None = None
    """As the server says how that is set up."""


Keep = Callable[[int, Reply], None]
"""Called in the thread that asks with a prompt's index and its reply, as soon as it is there and in
any order.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """An open backend."""

    name: str
    """The judge, as judgments carry it."""
    identity: dict[str, str]
    """What determines the replies besides the prompt: model, revision, dtype; not the endpoint, not
    the batch size.
    """
    ask: Callable[[Scorer, Iterable[Messages], Keep], None]
    """Answer the prompts, which are taken one by one; the first call loads the model or reaches the
    server.
    """
    spending: Spending = field(default_factory=Spending)
    """What the replies have cost since the judge was opened."""
    in_flight: Callable[[], int] | None = None
    """Requests under way, for a judge behind a server."""
    close: Callable[[], None] = lambda: None
    """Free what `ask` loaded."""
    answered_as: set[str] = field(default_factory=set)
    """Names that servers gave with the replies that were read, stored ones too."""

    def note(self, reply: Reply) -> Reply:
        """Return a reply that is read, and keep the name that it came with."""
        if reply.model:
            self.answered_as.add(reply.model)
        return reply


OpenJudge = Callable[[JudgeSettings], AbstractContextManager[Judge]]
"""Opens the judge of some settings for as long as a block runs: `open_judge`, or what stands in for
it.
"""


class Judged(NamedTuple):
    """What judging came to."""

    judgments: dict[str, Judgment]
    """By candidate id."""
    counts: Counter[str]
    """Replies that were `asked` for, that were `answered_before`, that answers with the `same_text`
    share; under a cascade the candidates that were `escalated`.
    """


def mode_of(settings: JudgeSettings, scorer: Scorer) -> Mode:
    """Return how replies are read: label probabilities, unless the scorer or the recipe wants
    written verdicts.
    """
    return "verdict" if settings.score_from == "verdict" or scorer.mode == "verdict" else "labels"
