"""Moves of approvals, made together with their records; see `recorder.py` for what that means.

A move that was begun is brought to its end although whoever asked for it goes away meanwhile: between the record and
the commit nothing may be left half done.
"""

from collections.abc import Sequence

from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncConnection

from deployments.clock import Clock
from deployments.gate import states
from deployments.gate.notices import Outbox
from deployments.gate.recorder import Recorder
from deployments.gate.store import ApprovalStore, Stored
from deployments.ports import Approval, Audit, AuditEvent
from deployments.tasks import to_its_end


class Moves:
    """Opens and moves approvals. `audit_timeout_s`: no record in this time, no move."""

    def __init__(
        self, store: ApprovalStore, audit: Audit, outbox: Outbox, clock: Clock, audit_timeout_s: float
    ) -> None:
        self._store = store
        self._recorder = Recorder(audit, audit_timeout_s)
        self._outbox = outbox
        self._clock = clock

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

        A final state stays when the log may have its record.
        """
        return await to_its_end(self._make(stored, after, events, also, last))

    async def recorded(self, event_id: str) -> bool:
        """True when the log has this event; `AuditUnavailable` when it does not say."""
        return await self._recorder.find(event_id) is not None

    async def _open(
        self, approval: Approval, subject: str, events: Sequence[AuditEvent], also: Sequence[Executable]
    ) -> bool:
        adding = self._store.adding(approval, subject, (*also, *self._told(events)))
        return await self._recorder.made(adding, events, final=False)

    async def _make(
        self,
        stored: Stored,
        after: Approval,
        events: Sequence[AuditEvent],
        also: Sequence[Executable],
        last: Executable | None,
    ) -> bool:
        async def then(move: AsyncConnection) -> None:
            if last is not None:
                await move.execute(last)

        moving = self._store.moving(stored, after, (*also, *self._told(events)))
        return await self._recorder.made(moving, events, final=after.state not in states.OPEN, then=then)

    def _told(self, events: Sequence[AuditEvent]) -> list[Executable]:
        now_ms = self._clock.now_ms()
        return [notice for event in events for notice in self._outbox.of(event, now_ms)]
