"""Ask a judge about prompts: stored replies first, each prompt once, every reply stored as it
comes.

Every mode of judging is built on `ask_prompts`; scores are read from the replies afterwards.
`ask_missing` is the same for more prompts than fit in memory: they are made one by one, and the
replies stay in the store.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import NamedTuple

from dpo_video.core.errors import UserError
from dpo_video.core.progress import Advance, log, progress
from dpo_video.judge.reply_keys import draws_noise, key_maker
from dpo_video.judge.scorer import Scorer
from dpo_video.judge.types import NOT_YET, Judge, Messages, Reply
from dpo_video.judge.unscored import ReadReply, UnscoredGuard
from dpo_video.recipe import JudgeSettings
from dpo_video.store import RowStore

KIND = "judgment"
COUNTED_FROM = 20
"""Replies to prompts that were not asked before after which `judge.max_failed_fraction` can stop
the run.
"""
PAGE_SIZE = 500
"""Prompts that are looked for in the store at once."""
SHOWN_SECONDS = 0.2
"""The bar moves at most so often: at a thousand replies a second it would cost more than they do.
"""

NOT_YET_SECONDS = 0.05
"""So long is waited where the next prompt is still to be made."""

Prompts = Iterable[tuple[str, Messages]]
"""Keys with their prompts; NOT_YET is the prompt where the next is still to be made."""


class Asked(NamedTuple):
    """Replies, and where they came from."""

    replies: list[Reply]
    counts: Counter[str]
    """As those of `Judged`."""


def ask_prompts(
    settings: JudgeSettings,
    scorer: Scorer,
    prompts: Sequence[Messages],
    store: RowStore,
    *,
    judge: Judge,
    read: ReadReply | None = None,
) -> Asked:
    """Return the reply to every prompt, in order; only what the store holds no reply to is asked,
    and equal ones once.

    Failed rows are asked again, refused ones only under `judge.ask_refused_again`. `read` tells
    what no score can be read from, where a reply is no verdict of the scorer.
    """
    key_of = key_maker(settings, scorer, judge)
    keys = [key_of(messages) for messages in prompts]
    unique = dict(zip(keys, prompts, strict=True))
    counts = ask_missing(
        settings, scorer, unique.items(), store, judge=judge, total=len(unique), read=read
    )
    counts["same_text"] += len(keys) - len(unique)
    replies = {key: judge.note(Reply(**row)) for key, row in store.get(KIND, unique).items()}
    return Asked([replies[key] for key in keys], counts)


def ask_missing(
    settings: JudgeSettings,
    scorer: Scorer,
    prompts: Prompts,
    store: RowStore,
    *,
    judge: Judge,
    total: int,
    answered: int = 0,
    read: ReadReply | None = None,
) -> Counter[str]:
    """Store a reply to each prompt that the store holds none to, and return the counts; few prompts
    are in memory at a time.

    They are at most `total`, with those `answered` before that are not even among the prompts.
    """
    earlier_key = key_maker(settings, scorer, judge, noise=None)
    with progress(f"judge ({scorer.name})", total=total) as advance:
        asking = _Asking(
            settings=settings,
            store=store,
            judge=judge,
            advance=advance,
            unshown=answered,
            counts=Counter(answered_before=answered),
            earlier_key=earlier_key if draws_noise(settings, scorer) else None,
            guard=UnscoredGuard(settings=settings, scorer=scorer, read=read),
        )
        missing = asking.missing(prompts)
        try:
            for messages in missing:  # a judge is loaded or reached only where one is missing
                judge.ask(scorer, chain([messages], missing), asking.keep)
        finally:
            store.flush()
            asking.show(time.monotonic())
    if asking.num_drawn_anew:
        log.info(
            f"note: {asking.num_drawn_anew} verdicts that an earlier version sampled are sampled "
            "anew: noise is drawn as the policy's is now. Their stored replies are left as they are"
        )
    if asking.stopped:
        spending = judge.spending
        raise UserError(
            f"judge.max_cost is {settings.max_cost:g} US dollars: {spending.dollars or 0:.4g} are "
            f"spent on {spending.replies} replies, and the next could cost more. All replies are "
            "stored. Raise it and run the same command again"
        )
    return asking.counts


def ask_as_they_come(
    settings: JudgeSettings,
    scorer: Scorer,
    prompts: Prompts,
    store: RowStore,
    *,
    judge: Judge,
    is_over: Callable[[], bool],
) -> Counter[str]:
    """Do as `ask_missing` with prompts that are made while the judge is asked, and show no bar;
    once it `is_over` no more are asked.
    """

    def advance(step: int = 1, *, note: str = "", **counts: int | float | str) -> None:
        """Show nothing: the bar is that of the stage which makes the prompts."""

    asking = _Asking(
        settings=settings,
        store=store,
        judge=judge,
        advance=advance,
        counts=Counter(),
        guard=UnscoredGuard(settings=settings, scorer=scorer),
        is_over=is_over,
    )
    missing = asking.missing(prompts)
    try:
        for messages in missing:
            if messages is NOT_YET:
                time.sleep(NOT_YET_SECONDS)
            else:
                judge.ask(scorer, chain([messages], missing), asking.keep)
    finally:
        store.flush()
    return asking.counts


def statuses_asked_again(settings: JudgeSettings) -> tuple[str, ...]:
    """Return the statuses of stored replies that count as none."""
    return ("failed", "refused") if settings.ask_refused_again else ("failed",)


@dataclass(kw_only=True)
class _Asking:
    """What is known while a judge is asked."""

    settings: JudgeSettings
    store: RowStore
    judge: Judge
    advance: Advance
    counts: Counter[str]
    guard: UnscoredGuard
    is_over: Callable[[], bool] = lambda: False
    """Tells whether no more prompts are to be asked, though there are some."""
    earlier_key: Callable[[Messages], str] | None = None
    """The key under which an earlier version stored the reply to a prompt, drawn otherwise."""
    num_drawn_anew: int = 0
    begun: float = field(default_factory=time.monotonic)
    received: int = 0
    num_new: int = 0
    """Replies received to prompts without a stored reply of any kind."""
    unshown: int = 0
    """Prompts that the bar has not moved on by yet."""
    failures: Counter[str] = field(default_factory=Counter)
    """By reason; refusals too."""
    new_failures: Counter[str] = field(default_factory=Counter)
    """Those of `num_new`: what failed in an earlier run and fails again says nothing about the
    server of today.
    """
    stopped: bool = False
    """The money is spent: no more prompts are asked, those under way are waited for."""
    _pending: dict[int, str] = field(default_factory=dict)
    """Keys of the prompts that were taken and not answered yet, by their index."""
    _again: set[str] = field(default_factory=set)
    """Keys among them whose stored reply is a failure or a refusal."""
    _shown_at: float = 0.0

    def missing(self, prompts: Prompts) -> Iterator[Messages]:
        """Yield the prompts that the store holds no reply to, until the money is spent; NOT_YET
        where the next is still to be made.
        """
        index = 0
        for page in _pages(prompts):
            if not page:
                yield NOT_YET
                continue
            stored = self.store.known(
                KIND, [key for key, _ in page], without=statuses_asked_again(self.settings)
            )
            unsuccessful = self.store.known(
                KIND, [key for key, _ in page if key not in stored], without=()
            )
            pending = set(self._pending.values())  # and what this page has asked
            self._count_drawn_anew(messages for key, messages in page if key not in stored)
            for key, messages in page:
                if key in pending or key in stored:
                    self.counts["answered_before" if key in stored else "same_text"] += 1
                    self._move()
                    continue
                if self.is_over():
                    return
                if self._spent():
                    self.stopped = True
                    return
                self._pending[index] = key
                pending.add(key)
                self._again |= {key} & unsuccessful
                self.counts["asked"] += 1
                yield messages
                index += 1

    def _count_drawn_anew(self, prompts: Iterable[Messages]) -> None:
        if self.earlier_key is not None:
            keys = {self.earlier_key(messages) for messages in prompts}
            self.num_drawn_anew += len(self.store.known(KIND, keys))

    def keep(self, index: int, reply: Reply) -> None:
        """Store a reply; stop the run when too many failed, or give no score."""
        key = self._pending.pop(index)
        self.store.put(KIND, key, asdict(reply))
        self.judge.spending.add(reply)
        self.received += 1
        is_new = key not in self._again
        self._again.discard(key)
        self.num_new += is_new
        if reply.status == "answered":
            self.guard.watch(reply)
        else:
            self.failures[reply.reason] += 1
            self.new_failures[reply.reason] += is_new
        self._move()
        allowed, failed = self.settings.max_failed_fraction, self.new_failures.total()
        if is_new and self.num_new >= COUNTED_FROM and failed > allowed * self.num_new:
            reason, times = self.new_failures.most_common(1)[0]
            raise UserError(
                f"{failed} of {self.num_new} judgments failed, more than "
                f"judge.max_failed_fraction {allowed:g} allows. Most often ({times}): {reason}. "
                "Finished rows are kept; mend it and run the same command again"
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


def _pages(prompts: Prompts) -> Iterator[list[tuple[str, Messages]]]:
    """Yield at most PAGE_SIZE prompts at a time, and an empty page where the next is still to be
    made.
    """
    page: list[tuple[str, Messages]] = []
    for key, messages in prompts:
        if messages is not NOT_YET:
            page.append((key, messages))
        if page and (messages is NOT_YET or len(page) == PAGE_SIZE):
            yield page
            page = []
        if messages is NOT_YET:
            yield []
    if page:
        yield page
