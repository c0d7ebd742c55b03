"""Moves of approvals, made together with their records: write without committing, record, commit.

Whoever loses a race records nothing, a record that fails rolls the move back, and no move is visible before its record
is on disk. A move that was begun is brought to its end although whoever asked for it goes away meanwhile: between the
record and the commit nothing may be left half done.
"""

import asyncio
from collections.abc import Sequence

from sqlalchemy import Executable

from deployments.clock import Clock
from deployments.errors import AuditInDoubt, AuditUnavailable, NotFound
from deployments.gate import states
from deployments.gate.database import to_its_end
from deployments.gate.notices import Outbox
from deployments.gate.store import ApprovalStore, Stored
from deployments.ports import Approval, Audit, AuditEvent


class Moves:
    """Opens and moves approvals. `audit_timeout_s`: no record in this time, no move."""

    def __init__(
        self, store: ApprovalStore, audit: Audit, outbox: Outbox, clock: Clock, audit_timeout_s: float
    ) -> None:
        self._store = store
        self._audit = audit
        self._outbox = outbox
        self._clock = clock
        self._audit_timeout_s = audit_timeout_s

    async def open(
        self, approval: Approval, subject: str, events: Sequence[AuditEvent], also: Sequence[Executable]
    ) -> bool:
        """Make a request for a call; False when an open one is there already. `also` belongs to it."""
        return await to_its_end(self._open(approval, subject, events, also))

    async def make(
        self,
        stored: Stored,
        after: Approval,
        events: Sequence[AuditEvent],
        *also: Executable,
        last: Executable | None = None,
    ) -> bool:
        """Change a request; False when somebody was faster. `last` is changed once the log has acknowledged.

        Without an acknowledgement nothing changes, with one exception. When the log may hold the record of a final
        state, the state stays final: a permit that may be recorded as consumed must not be consumed again, and the log
        would contradict whatever happened next. The caller still gets the error, so nothing is released.
        """
        return await to_its_end(self._make(stored, after, events, also, last))

    async def recorded(self, event_id: str) -> bool:
        """True when the log has this event; `AuditUnavailable` when it does not say."""
        try:
            async with asyncio.timeout(self._audit_timeout_s):
                await self._audit.find(event_id)
        except NotFound:
            return False
        except TimeoutError:
            raise AuditUnavailable("The audit log does not say whether the approval was used.") from None
        return True

    async def _open(
        self, approval: Approval, subject: str, events: Sequence[AuditEvent], also: Sequence[Executable]
    ) -> bool:
        async with self._store.adding(approval, subject, (*also, *self._told(events))) as added:
            if added:
                await self._record(events)
        return added

    async def _make(
        self,
        stored: Stored,
        after: Approval,
        events: Sequence[AuditEvent],
        also: Sequence[Executable],
        last: Executable | None,
    ) -> bool:
        doubt: AuditInDoubt | None = None
        async with self._store.moving(stored, after, (*also, *self._told(events))) as move:
            if move is not None:
                try:
                    await self._record(events)
                except AuditInDoubt as error:
                    if after.state in states.OPEN:
                        raise
                    doubt = error
                else:
                    if last is not None:
                        await move.execute(last)
        if doubt is not None:
            raise doubt
        return move is not None

    def _told(self, events: Sequence[AuditEvent]) -> list[Executable]:
        now_ms = self._clock.now_ms()
        return [notice for event in events for notice in self._outbox.of(event, now_ms)]

    async def _record(self, events: Sequence[AuditEvent]) -> None:
        if not events:
            return
        try:
            async with asyncio.timeout(self._audit_timeout_s):
                await self._audit.append(events)
        except TimeoutError:
            raise AuditInDoubt("The audit log did not acknowledge in time; nothing is released.") from None
