"""The outbox: messages of the gate to people and systems outside, written together with what they tell of.

A message is a row per receiver, inserted in the transaction of the move that it tells of; so none is lost with a crash,
and none tells of a move that never was. What it says is taken from the audit event of the move: never an argument.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from sqlalchemy import Executable, Select, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.gate.database import commit, fetch
from deployments.gate.notice_settings import NoticeSettings
from deployments.gate.schema import notices
from deployments.ports import SYSTEM_TENANT, AuditEvent, JsonValue

WAITING, SENT, FAILED = "waiting", "sent", "failed"
KEPT_MS = 7 * 86_400_000
"""How long sent and failed messages stay to be looked at."""

_TOLD = (
    "approval_id", "gate_call_id", "risk", "tool", "state", "requester_key", "requester_person", "votes_required",
    "votes", "voter", "change_id", "expires_ms", "kind", "severity", "title", "incident_id", "key_id", "reason",
    "action_digest", "roles",
)  # fmt: skip
_MOST = 100


@dataclass(frozen=True, slots=True)
class Notice:
    """One message to one receiver. `body` is what is sent, `tries` how often that was tried."""

    place: int
    notice_id: str
    receiver: str
    body: bytes
    created_ms: int
    next_ms: int
    tries: int


@dataclass(frozen=True, slots=True)
class OutboxState:
    """How many messages wait or have failed, and since when the oldest waits (None: none does)."""

    waiting: int
    oldest_ms: int | None
    failed: int


class Outbox:
    """The table of messages."""

    def __init__(self, engine: AsyncEngine, settings: NoticeSettings) -> None:
        self._engine = engine
        self._settings = settings

    def of(self, event: AuditEvent, now_ms: int) -> list[Executable]:
        """Statements that tell everybody who hears of such events; they belong to the transaction of the move."""
        if event.tenant == SYSTEM_TENANT and event.name.startswith("approval."):
            return []  # the canary's: nobody has to do anything about it
        hearing = [name for name, each in self._settings.receivers.items() if event.name in each.events]
        if not hearing:
            return []
        body = json.dumps(message(event), ensure_ascii=True, separators=(",", ":"))
        return [
            insert(notices).values(
                notice_id=f"msg_{event.event_id}"[:128],
                receiver=name,
                state=WAITING,
                created_ms=now_ms,
                next_ms=now_ms,
                tries=0,
                body=body,
            )
            for name in hearing
        ]

    async def take(self, now_ms: int, lease_ms: int) -> Sequence[Notice]:
        """Messages that are due, oldest first, which nobody else gets for `lease_ms`."""
        rows = await fetch(
            self._engine,
            select(notices)
            .where(notices.c.state == WAITING, notices.c.next_ms <= now_ms)
            .order_by(notices.c.next_ms, notices.c.place)
            .limit(_MOST),
        )
        taken: list[Notice] = []
        for row in rows:
            lease = (
                update(notices)
                .where(notices.c.place == row.place, notices.c.state == WAITING, notices.c.next_ms == row.next_ms)
                .values(next_ms=now_ms + lease_ms, tries=row.tries + 1)
            )
            if await commit(self._engine, lease) == 1:
                taken.append(
                    Notice(
                        place=row.place,
                        notice_id=row.notice_id,
                        receiver=row.receiver,
                        body=str(row.body).encode(),
                        created_ms=row.created_ms,
                        next_ms=now_ms + lease_ms,
                        tries=row.tries + 1,
                    )
                )
        return taken

    async def sent(self, notice: Notice) -> None:
        """Its receiver has taken it."""
        await self._settle(notice, state=SENT)

    async def again(self, notice: Notice, at_ms: int) -> None:
        """It was not taken; the next try is at `at_ms`."""
        await self._settle(notice, next_ms=at_ms)

    async def failed(self, notice: Notice) -> None:
        """Nobody tries any more."""
        await self._settle(notice, state=FAILED)

    async def prune(self, now_ms: int) -> None:
        """Forget what was settled long ago."""
        old = notices.c.created_ms < now_ms - KEPT_MS
        await commit(self._engine, delete(notices).where(notices.c.state != WAITING, old))

    async def state(self) -> OutboxState:
        """How the messages stand."""
        many, oldest_ms = func.count().label("many"), func.min(notices.c.created_ms).label("oldest_ms")
        query = select(notices.c.state, many, oldest_ms).where(notices.c.state != SENT).group_by(notices.c.state)
        rows = await fetch(self._engine, cast("Select[tuple[object, ...]]", query))
        found = {str(row.state): row for row in rows}
        waiting, failed = found.get(WAITING), found.get(FAILED)
        return OutboxState(
            waiting=0 if waiting is None else int(waiting.many),
            oldest_ms=None if waiting is None else int(waiting.oldest_ms),
            failed=0 if failed is None else int(failed.many),
        )

    async def _settle(self, notice: Notice, **values: object) -> None:
        # Only whoever holds the lease settles it: a slow sender must not undo what a later one has done.
        held = notices.c.next_ms == notice.next_ms
        await commit(
            self._engine,
            update(notices).where(notices.c.place == notice.place, notices.c.state == WAITING, held).values(**values),
        )


def message(event: AuditEvent) -> dict[str, JsonValue]:
    """What receivers are told of an event, in the form of the Standard Webhooks specification."""
    at = datetime.fromtimestamp(event.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    data: dict[str, JsonValue] = {name: event.data[name] for name in _TOLD if event.data.get(name) is not None}
    return {
        "type": event.name,
        "timestamp": at.replace("+00:00", "Z"),
        "data": {"tenant": event.tenant, "principal": event.principal, **data},
    }
