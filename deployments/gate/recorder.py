"""The audit log as the gate's moves need it: a record within its time, or no move.

A move writes without committing, records, and commits. So whoever loses a race records nothing, a record that fails
rolls the move back, and no move is visible before its record is on disk.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from deployments.errors import AuditInDoubt, AuditUnavailable, GatehouseError, GateUnavailable, NotFound
from deployments.ports import Audit, AuditEvent, StoredRecord

_M = TypeVar("_M")


class Recorder:
    """Records events and looks them up; no answer within `timeout_s` is none."""

    def __init__(self, audit: Audit, timeout_s: float) -> None:
        self._audit = audit
        self._timeout_s = timeout_s

    async def record(self, events: Sequence[AuditEvent]) -> None:
        """Return once the events are on disk. An event that is there already, with the same content, stays as it is.

        `AuditInDoubt` when the log may have them or not, `AuditUnavailable` when it has not.
        """
        if not events:
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._audit.append(events)
        except TimeoutError:
            raise AuditInDoubt("The audit log did not acknowledge in time; nothing is released.") from None
        except AuditUnavailable:
            raise
        except GatehouseError as error:
            raise GateUnavailable("The audit log failed; nothing is released.") from error

    async def find(self, event_id: str) -> StoredRecord | None:
        """The record of an event as the log has it, None when it has none; `AuditUnavailable` when it does not say."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._audit.find(event_id)
        except NotFound:
            return None
        except TimeoutError:
            raise AuditUnavailable("The audit log does not say what became of this before.") from None

    async def made(
        self,
        moving: AbstractAsyncContextManager[_M | None],
        events: Sequence[AuditEvent],
        *,
        final: bool,
        then: Callable[[_M], Awaitable[object]] | None = None,
    ) -> bool:
        """Make a move together with its record; False, and no record, when `moving` says that somebody was faster.

        `moving` is a transaction that has written and commits when left without an error. `then` belongs to it once the
        log has acknowledged. Without an acknowledgement nothing changes, with one exception, for a `final` state: when
        the log may hold the record, the move stays. What may be recorded as used must not be used again, and the log
        would contradict whatever happened next. The caller still gets the error, so nothing is released.
        """
        doubt: AuditInDoubt | None = None
        async with moving as move:
            if move is None:
                return False
            try:
                await self.record(events)
            except AuditInDoubt as error:
                if not final:
                    raise
                doubt = error
            else:
                if then is not None:
                    await then(move)
        if doubt is not None:
            raise doubt
        return True
