"""A circuit breaker: stops asking a server that does not answer, and finds out cheaply when it does again. Pure.

    CLOSED --(enough failures in the window, or told so)--> OPEN --(open_s over, or a good probe)--> HALF_OPEN
    HALF_OPEN --(one failure)--> OPEN          HALF_OPEN --(`probes` successes)--> CLOSED

Times are seconds on a monotonic clock and come from the caller.
"""

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from deployments.engine.settings import Settings

_BUCKETS = 10  # of the window: results are counted per bucket, so that memory does not grow with traffic
_LONGEST_WAIT_S = 60


class BreakerSettings(Settings):
    """When to stop asking, and how to begin again.

    It opens at `failures` failures within `window_s` seconds, if they are at least `share` (0..1) of what ended in that
    time. After `open_s` seconds `probes` requests are let through, and their success closes it.
    """

    failures: int = Field(default=5, ge=1)
    window_s: float = Field(default=30.0, gt=0)
    share: float = Field(default=0.5, gt=0, le=1)
    open_s: float = Field(default=10.0, gt=0, le=60)
    probes: int = Field(default=1, ge=1, le=16)


class BreakerState(StrEnum):
    """See the drawing above."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Ticket:
    """Leave to send one request: hand it back with `succeeded`, `failed` or `released`.

    An answer that breaks after it began is `failed` after `succeeded`. `era` tells results that come
    too late to matter.
    """

    era: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Not now; trying again after `retry_after_s` (1..60) makes sense."""

    retry_after_s: int


class Breaker:
    """The state of one server, as one replica sees it."""

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._state = BreakerState.CLOSED
        self._era = 0
        self._opened_s = 0.0
        self._held = False
        self._probing = 0
        self._passed = 0
        self._buckets: deque[list[float]] = deque()  # [start, successes, failures]

    def state(self, now_s: float) -> BreakerState:
        """Where it stands now."""
        if self._state is BreakerState.OPEN and not self._held and now_s >= self._opened_s + self._settings.open_s:
            self._turn(BreakerState.HALF_OPEN)
        return self._state

    def admit(self, now_s: float) -> Ticket | Refused:
        """Leave to send a request, or when to ask again."""
        match self.state(now_s):
            case BreakerState.CLOSED:
                return Ticket(self._era)
            case BreakerState.HALF_OPEN if self._probing + self._passed < self._settings.probes:
                self._probing += 1
                return Ticket(self._era)
            case BreakerState.HALF_OPEN:
                return Refused(1)
            case BreakerState.OPEN:
                left_s = self._opened_s + self._settings.open_s - now_s
                return Refused(max(1, min(_LONGEST_WAIT_S, math.ceil(left_s))))

    def succeeded(self, ticket: Ticket, now_s: float) -> None:
        """The server answered."""
        if ticket.era != self._era:
            return
        if self._state is BreakerState.HALF_OPEN:
            self._probing -= 1
            self._passed += 1
            if self._passed >= self._settings.probes:
                self._turn(BreakerState.CLOSED)
        else:
            self._count(now_s, 1)

    def failed(self, ticket: Ticket, now_s: float) -> None:
        """The server did not answer, or not properly."""
        if ticket.era != self._era:
            return
        if self._state is BreakerState.HALF_OPEN:
            self._open(now_s, held=False)
            return
        self._count(now_s, 2)
        failures = sum(bucket[2] for bucket in self._buckets)
        total = failures + sum(bucket[1] for bucket in self._buckets)
        if failures >= self._settings.failures and failures >= self._settings.share * total:
            self._open(now_s, held=False)

    def released(self, ticket: Ticket) -> None:
        """The request ended without telling anything about the server, for example because the client hung up."""
        if ticket.era == self._era and self._state is BreakerState.HALF_OPEN:
            self._probing -= 1

    def hold(self, now_s: float) -> None:
        """A probe beside the requests failed: stay open, however long, until one succeeds."""
        self._open(now_s, held=True)

    def release(self) -> None:
        """A probe beside the requests succeeded: end what `hold` began, and let requests try."""
        if self._held:
            self._turn(BreakerState.HALF_OPEN)

    def _count(self, now_s: float, column: int) -> None:
        oldest_s = now_s - self._settings.window_s
        while self._buckets and self._buckets[0][0] <= oldest_s:
            self._buckets.popleft()
        width_s = self._settings.window_s / _BUCKETS
        if not self._buckets or now_s >= self._buckets[-1][0] + width_s:
            self._buckets.append([now_s, 0, 0])
        self._buckets[-1][column] += 1

    def _open(self, now_s: float, held: bool) -> None:
        self._turn(BreakerState.OPEN)
        self._opened_s, self._held = now_s, held

    def _turn(self, state: BreakerState) -> None:
        self._state = state
        self._era += 1
        self._held = False
        self._probing = self._passed = 0
        self._buckets.clear()
