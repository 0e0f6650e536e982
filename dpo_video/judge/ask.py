"""Ask a judge about prompts: stored replies first, each prompt once, every reply stored as it
comes.

Every mode of judging is built on `ask_all`; scores are read from the replies afterwards.
`ask_missing` is the same for more prompts than fit in memory: they are made one by one, and the
replies stay in the store.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice

from dpo_video.core.errors import UserError
from dpo_video.core.progress import Advance, progress
from dpo_video.judge.reply_keys import key_maker
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.types import Judge, Messages, Reply
from dpo_video.recipe import JudgeSettings
from dpo_video.store import RunStore

KIND = "judgment"
COUNTED_FROM = 20
"""Replies to prompts that were not asked before after which `judge.max_failed_fraction` can stop
the run.
"""
LOOKED_UP = 500
"""Prompts that are looked for in the store at once."""
SHOWN_SECONDS = 0.2
"""The bar moves at most so often: at a thousand replies a second it would cost more than they do.
"""

Prompts = Iterable[tuple[str, Messages]]
"""Keys with their prompts."""


def ask_all(
    settings: JudgeSettings,
    scorer: Scorer,
    prompts: Sequence[Messages],
    store: RunStore,
    *,
    judge: Judge,
    counts: Counter[str] | None = None,
) -> list[Reply]:
    """Return the reply to every prompt, in order; only what the store holds no reply to is asked,
    and equal ones once.

    Failed rows are asked again, refused ones only under `judge.ask_refused_again`. `counts` gains
    `asked`, `answered_before` and `normalised_text`.
    """
    key_of = key_maker(settings, scorer, judge)
    keys = [key_of(messages) for messages in prompts]
    unique = dict(zip(keys, prompts, strict=True))
    ask_missing(
        settings, scorer, unique.items(), store, judge=judge, total=len(unique), counts=counts
    )
    if counts is not None:
        counts["same_text"] += len(keys) - len(unique)
    replies = {key: judge.note(Reply(**row)) for key, row in store.get(KIND, unique).items()}
    return [replies[key] for key in keys]


def ask_missing(
    settings: JudgeSettings,
    scorer: Scorer,
    prompts: Prompts,
    store: RunStore,
    *,
    judge: Judge,
    total: int,
    answered: int = 0,
    counts: Counter[str] | None = None,
) -> None:
    """Store a reply to each prompt that the store holds none to; few are in memory at a time.

    They are at most `total`, with those `answered` before that are not even among the prompts.
    """
    with progress(f"judge ({scorer.name})", total=total) as advance:
        asking = _Asking(
            settings=settings,
            store=store,
            judge=judge,
            advance=advance,
            unshown=answered,
            counts=Counter() if counts is None else counts,
        )
        asking.counts["answered_before"] += answered
        missing = asking.missing(prompts)
        try:
            for (
                first
            ) in missing:  # a judge is loaded or reached only where there is something to ask
                judge.ask(scorer, chain([first], missing), asking.keep)
        finally:
            store.flush()
            asking.show(time.monotonic())
    if asking.stopped:
        spending = judge.spending
        raise UserError(
            f"judge.max_cost is {settings.max_cost:g} US dollars: {spending.dollars or 0:.4g} are "
            f"spent on "
            f"{spending.replies} replies, and the next could cost more. All replies are stored. "
            f"Raise it "
            "and run the same command again"
        )


def asked_again(settings: JudgeSettings) -> tuple[str, ...]:
    """Return the statuses of stored replies that count as none."""
    return ("failed", "refused") if settings.ask_refused_again else ("failed",)


@dataclass(kw_only=True)
class _Asking:
    """What is known while a judge is asked."""

    settings: JudgeSettings
    store: RunStore
    judge: Judge
    advance: Advance
    counts: Counter[str]
    begun: float = field(default_factory=time.monotonic)
    received: int = 0
    new: int = 0
    """Replies received to prompts without a stored reply of any kind."""
    unshown: int = 0
    """Prompts that the bar has not moved on by yet."""
    failures: Counter[str] = field(default_factory=Counter)
    """By reason; refusals too."""
    new_failures: Counter[str] = field(default_factory=Counter)
    """Those of `new`: what failed in an earlier run and fails again says nothing about the server
    of today.
    """
    stopped: bool = False
    """The money is spent: no more prompts are asked, those under way are waited for."""
    _pending: dict[int, str] = field(default_factory=dict)
    """Keys of the prompts that were taken and not answered yet, by their number."""
    _again: set[str] = field(default_factory=set)
    """Keys among them whose stored reply is a failure or a refusal."""
    _shown_at: float = 0.0

    def missing(self, prompts: Prompts) -> Iterator[Messages]:
        """Yield the prompts that the store holds no reply to, until the money is spent."""
        number, waiting = 0, iter(prompts)
        while some := list(islice(waiting, LOOKED_UP)):
            known = self.store.known(
                KIND, [key for key, _ in some], without=asked_again(self.settings)
            )
            broken = self.store.known(
                KIND, [key for key, _ in some if key not in known], without=()
            )
            asked = set(
                self._pending.values()
            )  # and, below, what was asked since the store was looked into
            for key, messages in some:
                if key in asked or key in known:
                    self.counts["answered_before" if key in known else "same_text"] += 1
                    self._move()
                    continue
                if self._spent():
                    self.stopped = True
                    return
                self._pending[number] = key
                asked.add(key)
                self._again |= {key} & broken
                self.counts["asked"] += 1
                yield messages
                number += 1

    def keep(self, number: int, reply: Reply) -> None:
        """Store a reply; stop the run when too many failed."""
        key = self._pending.pop(number)
        self.store.put(KIND, key, asdict(reply))
        self.judge.spending.add(reply)
        self.received += 1
        is_new = key not in self._again
        self._again.discard(key)
        self.new += is_new
        if reply.status != "answered":
            self.failures[reply.reason] += 1
            self.new_failures[reply.reason] += is_new
        self._move()
        allowed, failed = self.settings.max_failed_fraction, self.new_failures.total()
        if is_new and self.new >= COUNTED_FROM and failed > allowed * self.new:
            reason, times = self.new_failures.most_common(1)[0]
            raise UserError(
                f"{failed} of {self.new} judgments failed, more than "
                f"judge.max_failed_fraction {allowed:g} allows. Most often ({times}): {reason}. "
                f"Finished "
                "rows are kept; mend it and run the same command again"
            )

    def show(self, now: float) -> None:
        """Bring the bar up to date."""
        spending, in_flight = self.judge.spending, self.judge.in_flight
        facts = [f"{self.received / max(now - self.begun, 1e-3):.3g}/s"] if self.received else []
        if in_flight is not None:
            facts.append(f"{in_flight()} in flight")
        if spending.prompt_tokens:
            facts.append(
                f"{(spending.prompt_tokens + spending.completion_tokens) / 1e6:.3g}M tokens"
            )
        if spending.dollars is not None:
            facts.append(f"${spending.dollars:.2f}")
        self.advance(self.unshown, failed=self.failures.total(), note="  ".join(facts))
        self.unshown, self._shown_at = 0, now

    def _move(self) -> None:
        self.unshown += 1
        now = time.monotonic()
        if now - self._shown_at >= SHOWN_SECONDS:
            self.show(now)

    def _spent(self) -> bool:
        """Return whether another call could cost more than `judge.max_cost`, those under way
        counted at the mean.
        """
        cap = self.settings.max_cost
        return cap is not None and self.judge.spending.with_pending(len(self._pending) + 1) > cap
