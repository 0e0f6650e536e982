"""Requests to one or several servers of a model: slots, retries, pauses, and servers that go away
and come back.

A request holds a slot only while it is under way: not while it sleeps before its next attempt, nor
while its server wants a pause. Free slots go to the request that waited longest, at the server with
the fewest under way.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from dpo_video.client.endpoint import Endpoint, Service, open_endpoint, require_openai
from dpo_video.client.http_errors import RequestRefused, TransientError
from dpo_video.core.errors import UserError

BACKOFF_SECONDS = 0.5
MOST_DOUBLINGS = 10
MAX_BACKOFF_SECONDS = 30.0
MAX_RETRY_AFTER_SECONDS = 600.0
"""A server that wants a longer pause is out of quota, not busy: the run stops and says so."""
EJECT_AFTER = 3
"""Connections lost one after the other, without a reply between, after which a server is ejected.
"""
BUSY_SECONDS = 600.0
"""A prompt that met nothing but 429s for so long, while no server answered another, is given up."""
REPORT_BUSY_SECONDS = 30.0
"""So long without any answer for 429s, and it is said why nothing moves."""
GARBLED_IN_A_ROW = 3
"""Unreadable replies of a server that has sent none that could be read, after which another is
taken for what it always says: no prompt is asked twice for it.
"""
BUSY_PROMPTS = 3
"""Prompts given up for 429s one after the other, after which the run stops: the servers are out of
quota.
"""

ReplyValue = TypeVar("ReplyValue")
RunResult = TypeVar("RunResult")
Read = Callable[[Endpoint, dict[str, Any]], ReplyValue]
"""Makes a value of a completion's body; may raise TransientError, RequestRefused or UserError."""


class RetriesExhausted(Exception):
    """All attempts failed; the next run may try again."""

    def __init__(self, reason: str, attempts: int) -> None:
        super().__init__(reason)
        self.reason, self.attempts = reason, attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(Generic[ReplyValue]):
    """What a request came to."""

    value: ReplyValue
    seconds: float
    """Of the attempt that succeeded."""
    attempts: int


class _Slot(NamedTuple):
    """Leave for one request."""

    endpoint: Endpoint
    is_probe: bool
    """It finds out whether an ejected server is back."""


class Pool:
    """The servers of a service. Open it with `async with Pool(service, say=...)`, then await
    `complete` many times.
    """

    def __init__(self, service: Service, *, say: Callable[[str], None]) -> None:
        self.service, self._say = service, say
        self.endpoints: Sequence[Endpoint] = [open_endpoint(service, url) for url in service.urls]
        self._waiting: deque[asyncio.Future[_Slot]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._answered_at = float("-inf")
        self._busy = 0
        """Prompts given up for 429s since the last answer."""
        self._reported_busy = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for endpoint in self.endpoints:
            await endpoint.close()

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return sum(endpoint.in_flight for endpoint in self.endpoints)

    @property
    def verified(self) -> bool:
        """True once a server has answered with all that was asked for."""
        return any(endpoint.verified for endpoint in self.endpoints)

    @property
    def max_in_flight(self) -> int:
        """Requests that may ever be under way at once."""
        return self.service.concurrency * len(self.endpoints)

    async def complete(
        self, request: Mapping[str, Any], read: Read[ReplyValue]
    ) -> Done[ReplyValue]:
        """Return what `read` makes of the completion; raise RequestRefused,
        RetriesExhausted or UserError.

        Of a server that has not answered yet only one prompt is asked, with all its attempts, until
        one is answered: a wrong address, key, model or missing capability costs one request.
        """
        reserved: Endpoint | None = None
        try:
            failed, throttled, since = 0, 0, float("inf")
            while True:
                endpoint, is_probe = slot = await self._slot(reserved)
                reserved = endpoint if endpoint.verifying else None
                begin = time.monotonic()
                try:
                    value = read(endpoint, await endpoint.post(request))
                    self._settles(endpoint)
                    endpoint.verified, endpoint.garbled = True, 0
                    endpoint.concurrency.on_success(endpoint.in_flight - 1)
                    return Done(
                        value=value,
                        seconds=time.monotonic() - begin,
                        attempts=failed + throttled + 1,
                    )
                except RequestRefused:
                    self._settles(endpoint)
                    raise
                # noted before the slot is free, so that no waiting request slips through
                except TransientError as error:
                    self._note(slot, error)
                    endpoint.garbled = endpoint.garbled + 1 if error.kind == "garbled" else 0
                    always_garbled = not endpoint.verified and endpoint.garbled > GARBLED_IN_A_ROW
                    busy = error.kind == "throttled"
                    throttled += busy
                    failed += (
                        not busy and not is_probe
                    )  # a server busy or not back yet is not the prompt's fault
                    since = min(since, begin) if busy else since
                    if (
                        failed > self.service.retries
                        or always_garbled
                        or (busy and self._is_stuck(endpoint, error, since))
                    ):
                        raise RetriesExhausted(
                            f"{error.reason} ({failed + throttled} attempts)", failed + throttled
                        ) from None
                finally:
                    endpoint.in_flight -= 1
                    self._hand_out()
                doublings = min(max(failed + throttled - 1, 0), MOST_DOUBLINGS)
                backoff = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2.0**doublings)
                await asyncio.sleep(
                    random.uniform(0, backoff)
                )  # full jitter: retries of many do not meet again
        finally:
            if reserved is not None:
                reserved.verifying = False
                self._hand_out()

    async def _slot(self, reserved: Endpoint | None) -> _Slot:
        """Return a slot, taken; at the reserved endpoint, unless it was ejected meanwhile."""
        if reserved is not None:
            while not reserved.ejected:
                pause = reserved.not_before - time.monotonic()
                if pause <= 0:
                    return _take(reserved)
                await asyncio.sleep(pause)
            reserved.verifying = False
        leave: asyncio.Future[_Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(leave)
        self._hand_out()
        try:
            return await leave
        except asyncio.CancelledError:
            if (
                leave.done() and not leave.cancelled()
            ):  # handed out in the same moment: give it back
                leave.result().endpoint.in_flight -= 1
                leave.result().endpoint.verifying = False
                self._hand_out()
            raise

    def _hand_out(self) -> None:
        """Give free slots to those that wait; where only time is missing, set the clock."""
        while self._waiting:
            now = time.monotonic()
            free = [
                endpoint
                for endpoint in self.endpoints
                if _free(endpoint) and endpoint.not_before <= now
            ]
            if not free:
                break
            leave = self._waiting.popleft()
            if not leave.done():
                endpoint = min(free, key=lambda endpoint: (endpoint.in_flight, endpoint.started))
                leave.set_result(_take(endpoint))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            times = [endpoint.not_before for endpoint in self.endpoints if _free(endpoint)]
            if times:
                pause = max(0.0, min(times) - time.monotonic())
                self._timer = asyncio.get_running_loop().call_later(pause, self._hand_out)

    def _answers(self, endpoint: Endpoint) -> None:
        """Note an HTTP reply of any kind: the server is there."""
        endpoint.connection_failures = 0
        if endpoint.ejected:
            endpoint.ejected, endpoint.probe_failures = False, 0
            self._say(f"{endpoint.url} answers again")

    def _settles(self, endpoint: Endpoint) -> None:
        """Note that a prompt was answered or refused: the server is there, and not only busy."""
        self._answers(endpoint)
        self._answered_at, self._busy, self._reported_busy = time.monotonic(), 0, False

    def _is_stuck(self, endpoint: Endpoint, error: TransientError, since: float) -> bool:
        """Return whether to give up a prompt that has met 429s since a time; UserError where it is
        not the only one.

        A busy server answers others meanwhile. One that answers nobody is out of quota; or the
        prompt is the last one, and too much for its quota.
        """
        silent = time.monotonic() - max(since, self._answered_at)
        if silent >= REPORT_BUSY_SECONDS and not self._reported_busy:
            self._reported_busy = True
            self._say(
                f"{endpoint.url} has answered nothing but {error.reason.split(':')[0]} for "
                f"{silent:.0f} s; it is "
                "asked again, more and more seldom"
            )
        if silent < BUSY_SECONDS:
            return False
        self._busy += 1
        if self._busy >= BUSY_PROMPTS:
            raise UserError(
                f"{endpoint.url} has answered nothing but HTTP 429 for {silent:.0f} s: "
                f"{error.reason}. "
                "Replies so far are stored; run the same command later, or with another server"
            ) from None
        return True

    def _note(self, slot: _Slot, error: TransientError) -> None:
        """Note what a failed attempt says about its server; raise UserError where the run cannot go
        on.
        """
        endpoint = slot.endpoint
        if error.wait > MAX_RETRY_AFTER_SECONDS:
            raise UserError(
                f"{endpoint.url} asks to come back in {error.wait:.4g} s: {error.reason}. Replies "
                "so far are stored; run the same command later, or with another server"
            ) from None
        endpoint.not_before = max(endpoint.not_before, time.monotonic() + error.wait)
        if error.kind == "throttled":
            endpoint.concurrency.on_rate_limit(time.monotonic(), endpoint.in_flight - 1)
        else:
            endpoint.concurrency.on_error()
        if error.kind == "away" or (
            error.kind == "slow" and (endpoint.ejected or not endpoint.verified)
        ):
            self._lose(slot, error)
        elif error.kind != "slow":
            self._answers(endpoint)

    def _lose(self, slot: _Slot, error: TransientError) -> None:
        """Count a lost connection; eject the server after EJECT_AFTER, and stop the run when none
        is left.

        Only a probe says that an ejected server is still away. All others were sent before it was
        ejected: many of them can be lost in the same moment.
        """
        endpoint, is_probe = slot
        endpoint.connection_failures += 1
        if endpoint.ejected and not is_probe:
            return
        if endpoint.connection_failures < (
            EJECT_AFTER if endpoint.verified else min(EJECT_AFTER, self.service.retries + 1)
        ):
            return
        first = not endpoint.ejected
        endpoint.ejected = True
        endpoint.probe_failures += not first
        backoff = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2.0**endpoint.probe_failures)
        pause = random.uniform(0.5, 1.0) * backoff
        endpoint.not_before = max(endpoint.not_before, time.monotonic() + pause)
        enough = max(1, self.service.retries)
        if all(
            peer.ejected and (peer.probe_failures >= enough or not peer.verified)
            for peer in self.endpoints
        ):
            urls, several = ", ".join(peer.url for peer in self.endpoints), len(self.endpoints) > 1
            stored = (
                " Replies so far are stored."
                if any(peer.verified for peer in self.endpoints)
                else ""
            )
            name = self.service.section if self.service.section == "judge" else "server"
            raise UserError(
                f"cannot reach the {name} at {urls}: {error.reason}.{stored} "
                f"{'Are' if several else 'Is'} "
                f"the server{'s' * several} running, and is {self.service.setting('base_url')} "
                f"{'their addresses' if several else 'its address'} (most end in /v1)?"
            ) from None
        if first:
            num_left = sum(not peer.ejected for peer in self.endpoints)
            self._say(
                f"{endpoint.url} is away ({error.reason}); {num_left} of {len(self.endpoints)} "
                f"servers "
                f"are left, and "
                "it is tried again from time to time"
            )


def ask_servers(
    service: Service,
    ask: Callable[[Pool], Awaitable[RunResult]],
    *,
    setting: str,
    say: Callable[[str], None],
) -> RunResult:
    """Run `ask` on the pool of a service in an event loop of its own; return what it returns.

    The first error of its tasks ends all of them and is raised as it is, not as a group of one.

    Args:
        service: the servers.
        ask: awaits `pool.complete` as often as it likes, from as many tasks as it likes.
        setting: what asks for a server, for the error that the openai package is missing.
        say: gets a line where a server goes away, comes back or stays busy.
    """
    require_openai(setting)

    async def run() -> RunResult:
        async with Pool(service, say=say) as pool:
            return await ask(pool)

    try:
        return asyncio.run(run())
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def _free(endpoint: Endpoint) -> bool:
    """Return whether the endpoint has a slot, pauses aside."""
    if endpoint.verifying:
        return False
    if endpoint.ejected or not endpoint.verified:
        return endpoint.in_flight == 0
    return endpoint.in_flight < endpoint.concurrency.allowed


def _take(endpoint: Endpoint) -> _Slot:
    if not endpoint.verified:
        endpoint.verifying = True
    endpoint.in_flight += 1
    endpoint.started += 1
    endpoint.concurrency.on_start(endpoint.in_flight)
    return _Slot(endpoint, is_probe=endpoint.ejected)
