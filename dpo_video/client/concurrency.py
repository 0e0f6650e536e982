"""How many requests a server gets at once: fewer when it says that it is busy, more again while it
keeps up.

As in TCP (RFC 5681): doubling at first, additive growth after the first cut, multiplicative
decrease.
"""

from dataclasses import dataclass, field

START = 32
"""Requests in flight at first, where `limit` allows more."""
GROWTH_STEPS = 16
"""After the first cut, a round that ends well adds `limit` / GROWTH_STEPS; before it, it
doubles.
"""
SATURATED = 0.8
"""Share of the allowed requests that a round must have had in flight for more to make sense."""
SHRINK = 0.8
COOL_DOWN_SECONDS = 15.0
"""After a cut, further 429s cut nothing before a round has ended, or for so long: those of requests
sent before it say nothing new."""


@dataclass(kw_only=True, slots=True)
class AdaptiveConcurrency:
    """A round is as many replies as requests were allowed at once when it began."""

    limit: int
    allowed: int = field(init=False)
    """Requests that may be in flight now."""
    _cut_at: float = float("-inf")
    _settled: bool = True
    """A round has ended since the last cut."""
    _replies: int = 0
    _busiest: int = 0
    _clean: bool = True

    def __post_init__(self) -> None:
        self.allowed = min(self.limit, START)

    def on_start(self, in_flight: int) -> None:
        """Note a request's start; `in_flight` counts it."""
        self._busiest = max(self._busiest, in_flight)

    def on_success(self, in_flight: int) -> None:
        """Note a reply; `in_flight` are those still under way. A clean, saturated round ends with
        growth.
        """
        self._replies += 1
        if self._replies < self.allowed:
            return
        if self._clean and self._busiest >= SATURATED * self.allowed:
            growth = self.allowed if self._cut_at < 0 else max(1, self.limit // GROWTH_STEPS)
            self.allowed = min(self.limit, self.allowed + growth)
        self._settled = True
        self._begin_round(in_flight)

    def on_error(self) -> None:
        """Note a 5xx, a timeout or a lost connection: this round ends without growth, and nothing
        shrinks.
        """
        self._clean = False

    def on_rate_limit(self, now: float, in_flight: int) -> None:
        """Note a 429 at `now` (monotonic seconds): the only thing that shrinks."""
        self._clean = False
        if self._settled or now - self._cut_at >= COOL_DOWN_SECONDS:
            self._cut_at, self._settled = now, False
            self.allowed = max(1, int(SHRINK * self.allowed))
            self._begin_round(in_flight)
            self._clean = False

    def _begin_round(self, in_flight: int) -> None:
        self._replies, self._busiest, self._clean = 0, in_flight, True
