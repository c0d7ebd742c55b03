"""The audit trail of one request: what must be recorded, and what happens when it cannot be.

Text does not depend on the log: an event that the sink does not take in time is kept in a bounded backlog and appended
when the sink answers again; what does not fit is counted, never silently forgotten. Tool calls do depend on it, and
the gate sees to that itself.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from deployments.clock import Clock
from deployments.errors import AuditRefused, GatehouseError
from deployments.ports import Audit, AuditEvent, Body, Receipt

_log = logging.getLogger("gatehouse.audit")
_BACKLOG = 10_000
_BATCH = 256
_BATCH_BODY_BYTES = 8 * 2**20
_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An event on its way to the sink. `told` is None when nobody waits for its receipt any more."""

    event: AuditEvent
    body_bytes: int
    told: "asyncio.Future[Receipt | None] | None"


class Recorder:
    """Appends the events of requests, one replica's worth of them.

    One queue and one worker, so that the order of the log is the order in which events came, also over an outage: from
    the first append that fails until the queue is empty again, nobody waits and nobody overtakes. Typed back-pressure
    (`AuditOverloaded`, `AuditDiskFull`) is an outage like any other; `AuditRefused` is the end of one event.
    """

    def __init__(self, audit: Audit, clock: Clock, timeout_s: float, kept_body_bytes: int = 64 * 2**20) -> None:
        """`kept_body_bytes`: what waiting events may hold of bodies; beyond it an event keeps its digests alone."""
        self._audit = audit
        self._clock = clock
        self._timeout_s = timeout_s
        self._kept_body_bytes = kept_body_bytes
        self._queue: deque[_Waiting] = deque()
        self._body_bytes = 0
        self._alone = 0  # so many events at the front are offered one by one, because one of them is refused
        self._down_since_s: float | None = None
        self._failure = ""
        self._worker: asyncio.Task[None] | None = None
        self.dropped = 0

    @property
    def backlog(self) -> int:
        """Events that are kept until the sink answers again."""
        return 0 if self._down_since_s is None else len(self._queue)

    async def record(self, event: AuditEvent) -> Receipt | None:
        """The receipt, or None when the sink is down: the event is then kept for later.

        Events that come while an append is under way leave together with the next one, in the order they came.
        """
        told = None if self._down_since_s is not None else asyncio.get_running_loop().create_future()
        if len(self._queue) >= _BACKLOG:
            self._drop(1, f"{_BACKLOG} events wait already")
            return None
        self._add(event, told)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return None if told is None else await told

    async def drain(self) -> None:
        """Return when nothing waits any more. Endless while the sink is down: give it a deadline."""
        while self._worker is not None and not self._worker.done():
            await asyncio.wait({self._worker})

    def _add(self, event: AuditEvent, told: "asyncio.Future[Receipt | None] | None") -> None:
        held = sum(len(body.data) for body in event.bodies.values() if body.data is not None)
        if held and self._body_bytes + held > self._kept_body_bytes:
            # Never offered before, so its first form in the log is this one.
            event = replace(event, bodies={field: Body(body.digest) for field, body in event.bodies.items()})
            held = 0
            _log.warning("too much text waits for the audit sink: %s is recorded without it", event.name)
        self._queue.append(_Waiting(event, held, told))
        self._body_bytes += held

    async def _work(self) -> None:
        """Append what waits, oldest first. Event ids make a batch that was acknowledged too late harmless."""
        while self._queue:
            batch = self._batch()
            try:
                async with asyncio.timeout(self._timeout_s):
                    receipts = await self._audit.append([waiting.event for waiting in batch])
                if len(receipts) != len(batch):
                    raise RuntimeError("the audit sink answered with another number of receipts")
            except AuditRefused as error:
                if len(batch) > 1:  # one of them is refused: find out which, and lose none of the others
                    self._alone = len(batch)
                    continue
                # The log will never take this event: a bug of ours, and no reason to try again for ever.
                event = batch[0].event
                _log.critical("the audit log refuses %s (%s): %s", event.name, event.event_id, error)
                self.dropped += 1
                self._settle(batch, [None])
            except (GatehouseError, TimeoutError) as error:
                self._fail(error)
                await asyncio.sleep(_RETRY_S)
            except Exception as error:  # a bug: whoever waits must learn of it, not wait for ever
                self._drop(len(batch), type(error).__name__)
                self._settle(batch, error)
            else:
                self._settle(batch, receipts)
        if self._down_since_s is not None:
            _log.warning("audit sink answers again after %.0f s", self._clock.monotonic_s() - self._down_since_s)
            self._down_since_s, self._failure = None, ""

    def _batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        held = 0
        for waiting in islice(self._queue, 1 if self._alone else _BATCH):
            held += waiting.body_bytes
            if batch and held > _BATCH_BODY_BYTES:
                break
            batch.append(waiting)
        return batch

    def _settle(self, batch: Sequence[_Waiting], outcome: "Sequence[Receipt | None] | Exception") -> None:
        """Take `batch` from the queue and tell whoever waits."""
        for number, waiting in enumerate(batch):
            self._queue.popleft()
            self._body_bytes -= waiting.body_bytes
            if waiting.told is None or waiting.told.done():
                continue
            if isinstance(outcome, Exception):
                waiting.told.set_exception(outcome)
            else:
                waiting.told.set_result(outcome[number])
        self._alone = max(0, self._alone - len(batch))

    def _fail(self, error: Exception) -> None:
        """Keep everything, in order, and let nobody wait for it."""
        failure = type(error).__name__
        if failure != self._failure:
            _log.error("audit sink does not acknowledge (%s): keeping %d events", failure, len(self._queue))
        self._failure = failure
        if self._down_since_s is None:
            self._down_since_s = self._clock.monotonic_s()
        for waiting in self._queue:
            if waiting.told is not None and not waiting.told.done():
                waiting.told.set_result(None)

    def _drop(self, count: int, why: str) -> None:
        if self.dropped % 1_000 + count >= 1_000 or self.dropped == 0:  # the first, then now and then
            _log.critical("audit events are lost (%s): %d so far", why, self.dropped + count)
        self.dropped += count
