"""Rows of grants and settlements, written together: nothing on the path of a first token waits for a disk.

A grant counts from the moment it is given. Its row follows with the next commit, so a crash forgets the grants of its
last few milliseconds; what they used is not lost, because a settlement carries the whole grant and is acknowledged
only after its commit.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from deployments.errors import PartUnavailable
from deployments.tenancy.budgets import Booking
from deployments.tenancy.store import Entry, Settled, TenancyStore

_log = logging.getLogger("gatehouse.tenancy")
_BATCH = 512
_QUEUE = 100_000
_RETRY_S = 1.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is to be written, and who waits for the commit."""

    settled: Settled
    committed: "asyncio.Future[None]" = field(compare=False)


class GrantWriter:
    """Writes grants and settlements in the order they came, many to a transaction.

    `booked` hears of every settlement as soon as it is on disk, also when nobody waits for it any more.
    """

    def __init__(self, store: TenancyStore, booked: Callable[[Booking], None]) -> None:
        self._store = store
        self._booked = booked
        self._entries: deque[Entry] = deque()
        self._settlements: deque[Settlement] = deque()
        self._writing: Sequence[Settlement] = ()
        self._complete_ms = 0
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    def enter(self, entry: Entry) -> None:
        """Write soon what became of a grant."""
        if len(self._entries) < _QUEUE:  # without its row a grant is only missing from the books of open ones
            self._entries.append(entry)
        self._wake()

    async def settle(self, settled: Settled) -> None:
        """Return when the usage is on disk; raises the store's error when it could not be written."""
        if settled.at_ms < self._complete_ms:  # the clock was set back
            settled = replace(settled, at_ms=self._complete_ms)
        settlement = Settlement(settled, asyncio.get_running_loop().create_future())
        self._settlements.append(settlement)
        self._wake()
        await settlement.committed

    def complete_ms(self, now_ms: int) -> int:
        """A moment of which no earlier settlement is written from now on: `now_ms`, or before what is being written."""
        waiting = [each.settled.at_ms for each in (*self._writing, *self._settlements)]
        self._complete_ms = max(self._complete_ms, min([now_ms, *waiting]))
        return self._complete_ms

    async def alone(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do `work` while the books stand still: what became of grants is in them, and nothing is written meanwhile.

        What `work` does after its last `await` happens before the next booking. Raises the store's error.
        """
        async with self._turn:
            while self._entries:
                entries = [self._entries[i] for i in range(min(_BATCH, len(self._entries)))]
                await self._store.write(entries, [])
                for _ in entries:
                    self._entries.popleft()
            return await work()

    async def drain(self) -> None:
        """Return when everything that was handed in has been written, or failed."""
        while self._task is not None and not self._task.done():
            await asyncio.wait({self._task})

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._entries or self._settlements:
            async with self._turn:
                await self._batch()

    async def _batch(self) -> None:
        entries = [self._entries[i] for i in range(min(_BATCH, len(self._entries)))]
        settlements = [self._settlements.popleft() for _ in range(min(_BATCH, len(self._settlements)))]
        self._writing = settlements
        try:
            await self._write(entries, settlements)
        except Exception as error:  # whatever it is, nobody may wait for ever behind it
            _log.error("the ledger's store failed: %s", type(error).__name__)
            await self._write_singly(entries, settlements)
        else:
            for _ in entries:
                self._entries.popleft()
        finally:
            self._writing = ()

    async def _write(self, entries: Sequence[Entry], settlements: Sequence[Settlement]) -> None:
        bookings = await self._store.write(entries, [each.settled for each in settlements])
        for booking in bookings:
            self._booked(booking)
        for each in settlements:
            if not each.committed.done():
                each.committed.set_result(None)

    async def _write_singly(self, entries: Sequence[Entry], settlements: Sequence[Settlement]) -> None:
        """After a failed batch: one row that the store does not take must not keep the others from it.

        While the store is away grants wait for it, and whoever settles learns of the failure.
        """
        if not await self._answers():
            for each in settlements:
                if not each.committed.done():
                    each.committed.set_exception(PartUnavailable("The ledger's store does not answer."))
            await asyncio.sleep(_RETRY_S)
            return
        for entry in entries:
            self._entries.popleft()
            try:
                await self._write([entry], [])
            except Exception as error:  # its settlement brings all that usage has to say
                _log.critical("the row of a grant cannot be written: %s", type(error).__name__)
        for each in settlements:
            try:
                await self._write([], [each])
            except Exception as error:
                _log.critical("a settlement cannot be written: %s", type(error).__name__)
                if not each.committed.done():
                    each.committed.set_exception(PartUnavailable("The ledger's store did not take the usage."))

    async def _answers(self) -> bool:
        try:
            await self._store.ping()
        except Exception:
            return False
        return True
