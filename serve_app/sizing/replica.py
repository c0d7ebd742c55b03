"""One engine of the simulator: a batching engine whose steps take what the roofline says, or a token clock. Pure."""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from deployments.engine.scaling import LatencyWindow
from serve_app.sizing.outcome import Gaps
from serve_app.sizing.throughput import StepModel
from serve_app.sizing.workload import Session


@dataclass(frozen=True, slots=True)
class Clock:
    """A token clock, as kind `synthetic`: the first token so long after a seat was free, then one every `token_s`."""

    first_s: float
    token_s: float


@dataclass(frozen=True, slots=True)
class EngineShape:
    """Limits of a replica, as in `configs/`.

    `engine` is how long things take; `cache_tokens` its cache in tokens of context; `chunk` what one prompt takes of a
    step of `step_tokens`; `max_queued` bounds unfinished requests, running ones included.
    """

    engine: StepModel | Clock
    seats: int
    max_queued: int
    step_tokens: int = 8192
    chunk: int = 2048
    cache_tokens: int = 1 << 40


class Request:
    """One request on its way, asked by its client and then given to an engine. Times in seconds.

    `new` tokens are read, `cached` more are in the cache.
    """

    __slots__ = ("asked_s", "cached", "first_s", "given_s", "needs", "new", "output", "session", "took")

    def __init__(self, session: Session, asked_s: float, given_s: float, new: int, cached: int, output: int) -> None:
        self.session = session
        self.asked_s = asked_s
        self.given_s = given_s
        self.new = new
        self.cached = cached
        self.output = output
        self.needs = new + cached + output
        self.took = 0
        self.first_s = -1.0

    @property
    def context(self) -> int:
        """Tokens of its prompt."""
        return self.new + self.cached


Later = Callable[[float, Callable[[], None]], None]
"""Call this after so many seconds."""
Finished = Callable[["Replica", Request], None]


class Replica(Protocol):
    """What the system sees of an engine."""

    number: int
    leaving: bool
    latencies: LatencyWindow

    def submit(self, request: Request) -> bool:
        """Take a request; False where the queue is full."""
        ...

    @property
    def running(self) -> int:
        """Requests that have a seat."""
        ...

    @property
    def waiting(self) -> int:
        """Requests that have none."""
        ...

    @property
    def memory(self) -> float:
        """The share of the cache that is taken, 0..1."""
        ...

    @property
    def tokens_per_s(self) -> float:
        """Of the answers that are being written now."""
        ...


def replica(
    number: int, shape: EngineShape, now: Callable[[], float], later: Later, finished: Finished, gaps: Gaps
) -> "Replica":
    """An engine of this shape."""
    if isinstance(shape.engine, Clock):
        return _Ticking(number, shape, shape.engine, now, later, finished, gaps)
    return _Batching(number, shape, shape.engine, now, later, finished, gaps)


class _Base:
    def __init__(
        self, number: int, shape: EngineShape, now: Callable[[], float], later: Later, finished: Finished, gaps: Gaps
    ) -> None:
        self.number = number
        self.leaving = False
        self.latencies = LatencyWindow()
        self._shape = shape
        self._now = now
        self._later = later
        self._finished = finished
        self._gaps = gaps
        self._queue: deque[Request] = deque()
        self._running = 0
        self._held = 0  # tokens of the cache

    @property
    def running(self) -> int:
        """Requests that have a seat."""
        return self._running

    @property
    def waiting(self) -> int:
        """Requests that have none."""
        return len(self._queue)

    @property
    def memory(self) -> float:
        """The share of the cache that is taken, 0..1."""
        return min(1.0, self._held / self._shape.cache_tokens)

    def _take(self) -> Request | None:
        """The next request that has a seat and room for its whole answer; those behind a large one wait with it."""
        if not self._queue or self._running >= self._shape.seats:
            return None
        needs = self._queue[0].needs
        if self._running and self._held + needs > self._shape.cache_tokens:
            return None
        self._running += 1
        self._held += needs
        return self._queue.popleft()

    def _enter(self, request: Request) -> bool:
        if self._running + len(self._queue) >= self._shape.max_queued:
            return False
        self._queue.append(request)
        return True

    def _first(self, request: Request) -> None:
        request.first_s = self._now()
        self.latencies.add(request.first_s, request.first_s - request.given_s)

    def _leave(self, request: Request) -> None:
        self._running -= 1
        self._held -= request.needs


class _Ticking(_Base):
    def __init__(
        self, number: int, shape: EngineShape, clock: Clock, now: Callable[[], float], later: Later,
        finished: Finished, gaps: Gaps,
    ) -> None:  # fmt: skip
        super().__init__(number, shape, now, later, finished, gaps)
        self._clock = clock
        self._writing = 0

    def submit(self, request: Request) -> bool:
        """Take a request; False where the queue is full."""
        taken = self._enter(request)
        self._fill()
        return taken

    @property
    def tokens_per_s(self) -> float:
        """Of the answers that are being written now."""
        return self._writing / self._clock.token_s if self._clock.token_s else 0.0

    def _fill(self) -> None:
        while (request := self._take()) is not None:
            self._later(self._clock.first_s, lambda request=request: self._answer(request))

    def _answer(self, request: Request) -> None:
        self._first(request)
        self._writing += 1
        self._gaps.add(self._clock.token_s, request.output - 1)
        self._later((request.output - 1) * self._clock.token_s, lambda: self._end(request))

    def _end(self, request: Request) -> None:
        self._writing -= 1
        self._leave(request)
        self._fill()
        self._finished(self, request)


class _Batching(_Base):
    """Continuous batching with chunked prefill: running answers first, then prompts in the order of their coming."""

    def __init__(
        self, number: int, shape: EngineShape, step: StepModel, now: Callable[[], float], later: Later,
        finished: Finished, gaps: Gaps,
    ) -> None:  # fmt: skip
        super().__init__(number, shape, now, later, finished, gaps)
        self._step = step
        self._prompts: list[Request] = []
        self._answers: list[tuple[int, int, Request]] = []  # by the step that ends them
        self._steps = 0
        self._entered = 0
        self._context = 0  # of all running answers
        self._busy = False
        self._step_s = 0.0  # of the newest step

    def submit(self, request: Request) -> bool:
        """Take a request; False where the queue is full."""
        taken = self._enter(request)
        if not self._busy:
            self._begin()
        return taken

    @property
    def tokens_per_s(self) -> float:
        """Of the answers that are being written now."""
        return len(self._answers) / self._step_s if self._busy and self._step_s else 0.0

    def _begin(self) -> None:
        """Begin the next step, if there is anything to do."""
        while (request := self._take()) is not None:
            self._prompts.append(request)
        decodes = len(self._answers)
        if not decodes and not self._prompts:
            self._busy = False
            return
        self._busy = True
        budget = max(0, self._shape.step_tokens - decodes)
        read, context, parts = 0, 0.0, list[tuple[Request, int]]()
        for request in self._prompts:
            size = min(request.new - request.took, self._shape.chunk, budget)
            if size <= 0:
                break
            budget -= size
            read += size
            context += size * (request.cached + request.took + size / 2)
            parts.append((request, size))
        seconds = self._step_s = self._step.time(read, context, len(parts), decodes, self._context)
        self._later(seconds, lambda: self._end(parts, decodes, seconds))

    def _end(self, parts: list[tuple[Request, int]], decodes: int, seconds: float) -> None:
        self._steps += 1
        self._context += decodes
        self._gaps.add(seconds, decodes)
        done: list[Request] = []
        while self._answers and self._answers[0][0] <= self._steps:
            request = heapq.heappop(self._answers)[2]
            self._context -= request.context + request.output
            done.append(request)
        for request, size in parts:
            request.took += size
            if request.took >= request.new:
                self._prompts.remove(request)
                self._first(request)
                if request.output <= 1:
                    done.append(request)
                    continue
                self._entered += 1
                self._context += request.context + 1
                heapq.heappush(self._answers, (self._steps + request.output - 1, self._entered, request))
        for request in done:
            self._leave(request)
        self._begin()
        for request in done:
            self._finished(self, request)
