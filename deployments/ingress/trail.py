"""The audit trail of one request: what must be recorded, and what happens when it cannot be.

Text does not depend on the log: an event that the sink does not take in time is kept in a bounded backlog and appended
when the sink answers again; what does not fit is counted, never silently forgotten. Tool calls do depend on it, and
the gate sees to that itself.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from deployments.clock import Clock
from deployments.errors import AuditRefused, GatehouseError
from deployments.ports import Audit, AuditEvent, Receipt

_log = logging.getLogger("gatehouse.audit")
_BACKLOG = 10_000
_BATCH = 256


class Recorder:
    """Appends the events of requests, one replica's worth of them."""

    def __init__(self, audit: Audit, clock: Clock, timeout_s: float) -> None:
        self._audit = audit
        self._clock = clock
        self._timeout_s = timeout_s
        self._backlog: deque[AuditEvent] = deque()
        self._down_until_s = 0.0
        self._flusher: asyncio.Task[None] | None = None
        self._waiting: deque[tuple[AuditEvent, asyncio.Future[Receipt | None]]] = deque()
        self._appending: asyncio.Task[None] | None = None
        self.dropped = 0

    @property
    def backlog(self) -> int:
        """Events that wait for the sink."""
        return len(self._backlog)

    async def record(self, event: AuditEvent) -> Receipt | None:
        """The receipt, or None when the sink is down: the event is then kept for later.

        Events that come while an append is under way leave together with the next one, in the order they came.
        """
        if self._clock.monotonic_s() < self._down_until_s:
            self._keep(event)
            return None
        waiting: asyncio.Future[Receipt | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, waiting))
        if self._appending is None or self._appending.done():
            self._appending = asyncio.create_task(self._append())
        return await waiting

    async def _append(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                async with asyncio.timeout(self._timeout_s):
                    receipts: Sequence[Receipt | None] = await self._audit.append([event for event, _ in batch])
            except AuditRefused as error:
                receipts = [None] * len(batch)
                if len(batch) == 1:
                    self._refused(batch[0][0], error)
                else:  # one of them is refused: the backlog finds out which, and loses none of the others
                    for event, _ in batch:
                        self._keep(event)
            except (GatehouseError, TimeoutError) as error:
                _log.error("audit sink does not acknowledge; keeping events: %s", type(error).__name__)
                receipts = [None] * len(batch)
                self._down_until_s = self._clock.monotonic_s() + 1.0
                for event, _ in batch:
                    self._keep(event)
            except Exception as error:  # a bug: whoever waits must learn of it, not wait for ever
                for _, waiting in batch:
                    if not waiting.done():
                        waiting.set_exception(error)
                continue
            for (_, waiting), receipt in zip(batch, receipts, strict=True):
                if not waiting.done():
                    waiting.set_result(receipt)

    def _refused(self, event: AuditEvent, error: AuditRefused) -> None:
        """The log will never take this event: a bug of ours, and no reason to try again for ever."""
        self.dropped += 1
        _log.critical("the audit log refuses %s (%s): %s", event.name, event.event_id, error)

    def _keep(self, event: AuditEvent) -> None:
        if len(self._backlog) >= _BACKLOG:
            self.dropped += 1
            _log.critical("audit backlog is full: %d events dropped", self.dropped)
            return
        self._backlog.append(event)
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        """Append the backlog in order. Event ids make a batch that was acknowledged too late harmless."""
        size = _BATCH
        while self._backlog:
            batch = [self._backlog[i] for i in range(min(size, len(self._backlog)))]
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._audit.append(batch)
            except AuditRefused as error:
                if len(batch) > 1:
                    size = 1  # one of them is refused: find out which
                    continue
                self._refused(batch[0], error)
            except (GatehouseError, TimeoutError):
                await asyncio.sleep(1.0)
                continue
            for _ in batch:
                self._backlog.popleft()
        self._down_until_s = 0.0
