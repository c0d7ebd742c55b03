"""Waiting for a seat at an engine: the tasks around `fair.py`. One instance per replica.

A request enters the engine when it has a seat, and gives it back when its reply has ended, however that was. Whoever is
refused has not begun: nothing of it was sent, and its client gets a status.
"""

import asyncio
import math
import re
from collections.abc import Callable
from typing import Protocol

from deployments.clock import Clock
from deployments.engine.fair import Asked, Bounds, Entered, FairQueue, Room, Spent, Ticket
from deployments.engine.settings import ENGINE_PATHS, FairSettings
from deployments.errors import EngineOverloaded, EngineTimeout
from deployments.limits import Priority
from deployments.ports import EngineCall, EngineItem

SEATED_PATHS = ENGINE_PATHS - {"/v1/chat/completions/render", "/tokenize", "/detokenize"}
"""What the engine itself works on. The others are the tokeniser's, and answered at once."""

_ANSWERLESS = frozenset({"/v1/embeddings"})
_BYTES_PER_TOKEN = 4  # of a request's JSON, roughly
_TAIL_BYTES = 2048  # of a reply, in which its counts are
_LEAST_WAIT_S, _MOST_WAIT_S = 2, 60  # what a client is told
_LEARN = 0.1  # how much the newest request counts in the mean time of one

# A quotation mark inside a string is escaped, so these are never words of an answer.
_PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,9})')
_OUTPUT = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,9})')
_CACHED = re.compile(rb'"(?:cached_tokens|cache_read_input_tokens)"\s*:\s*(\d{1,9})')


class QueueMeter(Protocol):
    """Counts what happens in a queue, and what is given up behind it.

    Priorities are its only names: tenants stay out of metrics.
    """

    def waiting(self, priority: Priority, change: int) -> None:
        """The number of waiting requests changed by `change`."""
        ...

    def remind(self) -> None:
        """Say again how many wait; called every few seconds."""
        ...

    def waited(self, priority: Priority, seconds: float) -> None:
        """A request has its seat, after `seconds`."""
        ...

    def refused(self, priority: Priority) -> None:
        """A request was refused because the queue was full."""
        ...

    def aborted(self, seconds: float) -> None:
        """The engine has ended the work on a request that nobody waits for, so long after it learnt of that."""
        ...


class NoMeter:
    """Counts nothing."""

    def waiting(self, priority: Priority, change: int) -> None:
        """Nothing."""

    def remind(self) -> None:
        """Nothing."""

    def waited(self, priority: Priority, seconds: float) -> None:
        """Nothing."""

    def refused(self, priority: Priority) -> None:
        """Nothing."""

    def aborted(self, seconds: float) -> None:
        """Nothing."""


class Seating:
    """The queue in front of one engine. On one event loop."""

    def __init__(
        self,
        settings: FairSettings,
        bounds: Bounds,
        room: Callable[[], Room],
        clock: Clock,
        meter: QueueMeter | None = None,
    ) -> None:
        """`room` says what the engine can take now; it is asked whenever somebody might get a seat."""
        self._enabled = settings.enabled
        self._queue = FairQueue(settings, bounds)
        self._room = room
        self._clock = clock
        self._meter = meter or NoMeter()
        self._waiters: dict[Ticket, asyncio.Future[None]] = {}
        self._mean_s = 1.0

    @property
    def waiting(self) -> int:
        """Requests that have no seat yet."""
        return self._queue.waiting

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens of those, estimated."""
        return self._queue.waiting_tokens

    def remind(self) -> None:
        """Tell the meter again how many wait."""
        self._meter.remind()

    def seat(self, call: EngineCall, deadline_s: float) -> "Seat":
        """A seat for as long as the block of `async with` lasts, which begins when it is this call's turn."""
        return Seat(self, call, deadline_s)

    async def take(self, call: EngineCall, deadline_s: float) -> Ticket | None:
        """Wait for a seat; None where none is needed. For `Seat`, which gives it back."""
        if not self._enabled or call.path not in SEATED_PATHS:
            return None
        priority, began_s = call.share.priority, self._clock.monotonic_s()
        entered = self._queue.enter(asked_of(call), began_s)
        if not isinstance(entered, Entered):
            self._meter.refused(priority)
            raise self._overloaded(call)
        for victim in entered.refused:
            self._refuse(victim)
        ticket = entered.ticket
        waiter = self._waiters[ticket] = asyncio.get_running_loop().create_future()
        self._meter.waiting(priority, 1)
        try:
            self._fill()
            async with asyncio.timeout(deadline_s):
                await waiter
        except BaseException as error:
            self._waiters.pop(ticket, None)
            self.give_back(ticket, None)
            if isinstance(error, TimeoutError):
                raise EngineTimeout("The model did not begin in time.") from None
            if isinstance(error, _Refused):
                self._meter.refused(priority)
                raise self._overloaded(call) from None
            raise
        finally:
            self._meter.waiting(priority, -1)
        self._meter.waited(priority, self._clock.monotonic_s() - began_s)
        return ticket

    def heard(self, ticket: Ticket, tokens: int) -> None:
        """`tokens` more of an answer have come."""
        self._queue.heard(ticket, tokens)
        if self._queue.engine_full:  # it may have room again without anybody leaving
            self._fill()

    def give_back(self, ticket: Ticket, spent: Spent | None, seconds: float | None = None) -> None:
        """The request has ended; `seconds` in its seat, None where its reply was cut."""
        if seconds is not None:
            self._mean_s += _LEARN * (seconds - self._mean_s)
        self._queue.leave(ticket, self._clock.monotonic_s(), spent, cut=seconds is None)
        self._fill()

    def now_s(self) -> float:
        """The queue's clock."""
        return self._clock.monotonic_s()

    def _fill(self) -> None:
        """Give away every seat that may be taken."""
        while self._queue.waiting and (ticket := self._queue.seat(self._room(), self._clock.monotonic_s())) is not None:
            waiter = self._waiters.pop(ticket)
            if not waiter.done():  # else its task was cancelled and gives the seat back in a moment
                waiter.set_result(None)

    def _refuse(self, ticket: Ticket) -> None:
        waiter = self._waiters.pop(ticket)
        if not waiter.done():
            waiter.set_exception(_Refused())

    def _overloaded(self, call: EngineCall) -> EngineOverloaded:
        ahead = self._queue.waiting_of(call.tenant)
        wait_s = math.ceil(self._mean_s * ahead / max(1, self._room().seats))
        wait_s = max(_LEAST_WAIT_S, min(_MOST_WAIT_S, wait_s))
        return EngineOverloaded(f"The model is busy. Please try again in {wait_s}s.", wait_s)


class Seat:
    """A place in the engine, told what comes of the reply, so that its tenant is charged as it comes.

    Entering raises `EngineOverloaded` when the request is the one that a full queue refuses, at once or later, and
    `EngineTimeout` when there was no seat within the deadline.
    """

    def __init__(self, seating: Seating, call: EngineCall, deadline_s: float) -> None:
        self._seating = seating
        self._call = call
        self._deadline_s = deadline_s
        self._ticket: Ticket | None = None
        self._seated_s = 0.0
        self._tail = b""

    async def __aenter__(self) -> "Seat":
        self._ticket = await self._seating.take(self._call, self._deadline_s)
        self._seated_s = self._seating.now_s()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if self._ticket is None:
            return
        if kind is None:
            self._seating.give_back(self._ticket, self._spent(), self._seating.now_s() - self._seated_s)
        else:
            self._seating.give_back(self._ticket, None)

    def hear(self, item: EngineItem) -> None:
        """The next item of the reply."""
        if self._ticket is None or not isinstance(item, bytes):
            return
        self._tail = (self._tail + item)[-_TAIL_BYTES:]
        events = item.count(b"data: ")  # one token each, or a few where the engine is busy: the end puts it right
        if events:
            self._seating.heard(self._ticket, events)

    def _spent(self) -> Spent | None:
        """What the end of the reply says it took; None where it says nothing."""
        prompt = _last(_PROMPT, self._tail)
        if prompt is None:
            return None
        return Spent(prompt, _last(_CACHED, self._tail) or 0, _last(_OUTPUT, self._tail) or 0)


def asked_of(call: EngineCall) -> Asked:
    """What the queue needs to know of a call."""
    return Asked(
        tenant=call.tenant,
        share=call.share,
        prompt_tokens=max(1, len(call.body) // _BYTES_PER_TOKEN),
        lane=call.lane,
        patient=call.patient,
        answers=call.path not in _ANSWERLESS,
    )


class _Refused(Exception):
    """Wakes a request that had to leave for another one."""


def _last(pattern: re.Pattern[bytes], text: bytes) -> int | None:
    found = pattern.findall(text)
    return int(found[-1]) if found else None
