"""What lies between a client and the engines: ingress replicas, each with one core for all who are there. Pure.

An ingress is one event loop. It works on all requests that are being opened in turns, a little of each, so that of
several that come at once none is through before nearly all are: processor sharing, not a queue. The tokens of answers
that are being streamed take their part of the same core.
"""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass

_LEAST_SPEED = 0.02  # of an ingress whose tokens would need it whole


@dataclass(frozen=True, slots=True)
class PathShape:
    """The way to an engine, in seconds.

    Each request waits `calls_s` for calls between processes, however many there are, and takes `request_s` of the core
    of one of `servers` ingress replicas. Each token of an answer takes `token_s` of them.
    """

    calls_s: float = 0.0
    request_s: float = 0.0
    token_s: float = 0.0
    servers: int = 1

    def __post_init__(self) -> None:
        if min(self.calls_s, self.request_s, self.token_s) < 0 or self.servers < 1:
            raise ValueError("a path has times that are not negative, and at least one ingress")


class Path:
    """All ingress replicas; requests go to them in turns."""

    def __init__(
        self,
        shape: PathShape,
        now: Callable[[], float],
        later: Callable[[float, Callable[[], None]], None],
        tokens_per_s: Callable[[], float],
    ) -> None:
        """`tokens_per_s` is of all answers, now; it is asked whenever a request comes to an ingress or leaves it."""
        self._shape = shape
        self._later = later
        self._servers = [_Sharing(shape, now, later, tokens_per_s) for _ in range(shape.servers)]
        self._turn = itertools.cycle(self._servers)

    def enter(self, then: Callable[[], None]) -> None:
        """Call `then` when a request that comes now is through."""
        shape = self._shape
        if not shape.request_s:
            if shape.calls_s:
                self._later(shape.calls_s, then)
            else:
                then()
            return
        server = next(self._turn)
        self._later(shape.calls_s, lambda: server.enter(then))


class _Sharing:
    """One ingress: each of `n` requests gets an n-th of what tokens leave of its core."""

    def __init__(
        self,
        shape: PathShape,
        now: Callable[[], float],
        later: Callable[[float, Callable[[], None]], None],
        tokens_per_s: Callable[[], float],
    ) -> None:
        self._shape = shape
        self._now = now
        self._later = later
        self._tokens_per_s = tokens_per_s
        self._open: list[tuple[float, int, Callable[[], None]]] = []  # by what each will have got at its end
        self._order = itertools.count()
        self._got_s = 0.0  # of the core, by a request that has been here all the time
        self._seen_s = 0.0
        self._speed = 1.0
        self._plan = 0

    def enter(self, then: Callable[[], None]) -> None:
        """A request comes."""
        self._catch_up()
        heapq.heappush(self._open, (self._got_s + self._shape.request_s, next(self._order), then))
        self._next()

    def _catch_up(self) -> None:
        now_s = self._now()
        if self._open:
            self._got_s += (now_s - self._seen_s) * self._speed / len(self._open)
        self._seen_s = now_s

    def _next(self) -> None:
        """Come back when the next one is through, as things are."""
        self._plan += 1
        if not self._open:
            return
        shape, plan = self._shape, self._plan
        self._speed = max(_LEAST_SPEED, 1.0 - shape.token_s * self._tokens_per_s() / shape.servers)
        left_s = max(0.0, self._open[0][0] - self._got_s) * len(self._open) / self._speed
        self._later(left_s, lambda: self._through(plan))

    def _through(self, plan: int) -> None:
        if plan != self._plan:
            return  # others came meanwhile, and it was planned anew
        self._catch_up()
        self._got_s = max(self._got_s, self._open[0][0])
        done: list[Callable[[], None]] = []
        while self._open and self._open[0][0] <= self._got_s:
            done.append(heapq.heappop(self._open)[2])
        self._next()
        for then in done:
            then()
