"""The statements on what follows a verdict: consumed permits, held calls, and records that the log must get.

A change and the record that tells of it are written in one transaction; the record then waits here until the log has
it. So a crash between the two neither loses a record nor makes a second one.
What follows from a record, an incident or a frozen key, is written in the same transaction, once.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from sqlalchemy import (
    BigInteger,
    Executable,
    Row,
    Select,
    Update,
    exists,
    func,
    insert,
    literal,
    null,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from deployments.gate.database import changed, fetch, insert_once, writing
from deployments.gate.schema import announced, approvals, consumptions, held_calls, told
from deployments.gate.told import from_text, to_text
from deployments.ports import (
    ActionOutcome,
    ApprovalId,
    ApprovalState,
    AuditEvent,
    Conclusion,
    RollbackOutcome,
)
from deployments.tasks import to_its_end

MAX_AT_ONCE = 500
_WAITING, _RECORDED, _REFUSED = "waiting", "recorded", "refused"


@dataclass(frozen=True, slots=True)
class Consumed:
    """A consumed permit with what is known of its call. `rollbacks` counts the attempts to take it back."""

    conclusion: Conclusion
    call_key: str
    rollbacks: int


@dataclass(frozen=True, slots=True)
class HeldCall:
    """A call that was held, by the id of the call and of the request that it waits for."""

    gate_call_id: str
    approval_id: ApprovalId


@dataclass(frozen=True, slots=True)
class Consequence:
    """A record that follows from another one: told if it was not before, and if each of its changes changes a row."""

    event: AuditEvent
    changes: tuple[Executable, ...] = ()


@dataclass(frozen=True, slots=True)
class Backlog:
    """Records that the log has not acknowledged (`oldest_ms`: since when), and those that it will never take."""

    waiting: int
    oldest_ms: int | None
    refused: int


@dataclass(frozen=True, slots=True)
class Announced:
    """The digest that was announced last; `generation` counts the announcements."""

    digest: str | None
    generation: int


# --- statements that belong to a move of an approval, or to a record -------------------------------------------------


def consumed(approval_id: ApprovalId, call_key: str, gate_call_id: str, now_ms: int) -> Executable:
    """From now on a report of this call is waited for."""
    return insert(consumptions).values(
        approval_id=approval_id, call_key=call_key, gate_call_id=gate_call_id, consumed_ms=now_ms, rollbacks=0
    )


def held(approval_id: ApprovalId, call_key: str, gate_call_id: str) -> Executable:
    """From now on a result of this call is a bypass."""
    return insert(held_calls).values(approval_id=approval_id, call_key=call_key, gate_call_id=gate_call_id)


def reported(before: Consumed, outcome: ActionOutcome, now_ms: int) -> Update:
    """The call was reported, if nobody has done so meanwhile."""
    known = before.conclusion.reported
    column = consumptions.c.reported
    return (
        _of(before.conclusion.approval_id)
        .where(column.is_(None) if known is None else column == known.value)
        .values(reported=outcome.value, reported_ms=now_ms)
    )


def rolled_back(before: Consumed, outcome: RollbackOutcome) -> Update:
    """One more attempt to take the call back."""
    return (
        _of(before.conclusion.approval_id)
        .where(consumptions.c.rollbacks == before.rollbacks)
        .values(rollback=outcome.value, rollbacks=before.rollbacks + 1)
    )


def alerted(before: Consumed, now_ms: int) -> Update:
    """Somebody is told that no report came."""
    return (
        _of(before.conclusion.approval_id)
        .where(consumptions.c.reported_ms.is_(None), consumptions.c.alerted_ms.is_(None))
        .values(alerted_ms=now_ms)
    )


def announcing(name: str, before: Announced, digest: str) -> Executable:
    """`digest` is announced, if nobody has announced anything meanwhile."""
    if before.generation == 0:
        return insert(announced).values(name=name, digest=digest, generation=1)
    return (
        update(announced)
        .where(announced.c.name == name, announced.c.generation == before.generation)
        .values(digest=digest, generation=before.generation + 1)
    )


def _of(approval_id: ApprovalId) -> Update:
    return update(consumptions).where(consumptions.c.approval_id == approval_id)


Notices: TypeAlias = Callable[[AuditEvent, int], Sequence[Executable]]
"""The messages to people outside that an event at a time causes, as statements of its transaction."""


class AftermathStore:
    """The gate's tables beside the approvals. Any failure of the database is `GateUnavailable`."""

    def __init__(self, engine: AsyncEngine, notices: Notices) -> None:
        self._engine = engine
        self._notices = notices

    @property
    def engine(self) -> AsyncEngine:
        """The database, for statements that belong to a record."""
        return self._engine

    async def adopt(self, now_ms: int) -> None:
        """Wait for the reports of permits that an older version let be consumed, from now on."""
        known = exists().where(consumptions.c.approval_id == approvals.c.approval_id)
        missing = select(
            approvals.c.approval_id, literal(""), approvals.c.gate_call_id, literal(now_ms, BigInteger), literal(0)
        ).where(approvals.c.state == ApprovalState.CONSUMED.value, ~known)
        columns = ["approval_id", "call_key", "gate_call_id", "consumed_ms", "rollbacks"]
        async with writing(self._engine) as connection:
            try:
                await connection.execute(insert(consumptions).from_select(columns, missing))
            except IntegrityError:  # another replica adopts them at this moment
                await connection.rollback()

    async def tell(
        self, event: AuditEvent, now_ms: int, *changes: Executable, follows: Sequence[Consequence] = ()
    ) -> Sequence[AuditEvent]:
        """Make the changes, and let the record and what follows from it wait for the log: all that is told now.

        Nothing, and no change either, when somebody was faster. An event id that was told before is never told again.
        """
        return await to_its_end(self._tell(event, now_ms, changes, follows))

    async def _tell(
        self, event: AuditEvent, now_ms: int, changes: tuple[Executable, ...], follows: Sequence[Consequence]
    ) -> Sequence[AuditEvent]:
        async with writing(self._engine) as connection:
            try:
                first = await self._told(connection, Consequence(event, changes), now_ms)
            except IntegrityError:
                first = False
            if not first:
                await connection.rollback()
                return []
            return [
                event, *[each.event for each in follows if await self._told(connection, each, now_ms)]
            ]  # fmt: skip

    async def _told(self, connection: AsyncConnection, what: Consequence, now_ms: int) -> bool:
        for change in what.changes:
            if await changed(connection, change) != 1:
                return False
        event = what.event
        row = insert_once(
            self._engine, told, event_id=event.event_id, state=_WAITING, created_ms=now_ms, body=to_text(event)
        )
        if await changed(connection, row) != 1:
            return False
        for notice in self._notices(event, now_ms):
            await connection.execute(notice)
        return True

    async def backlog(self) -> Backlog:
        """How far the log is behind."""
        many, oldest_ms = func.count().label("many"), func.min(told.c.created_ms).label("oldest_ms")
        query = select(told.c.state, many, oldest_ms).where(told.c.state != _RECORDED).group_by(told.c.state)
        found = {str(row.state): row for row in await fetch(self._engine, cast("Select[tuple[object, ...]]", query))}
        waiting, refused = found.get(_WAITING), found.get(_REFUSED)
        return Backlog(
            waiting=0 if waiting is None else int(waiting.many),
            oldest_ms=None if waiting is None else int(waiting.oldest_ms),
            refused=0 if refused is None else int(refused.many),
        )

    async def waiting(self, prefix: str = "") -> Sequence[AuditEvent]:
        """Records that the log has not acknowledged, oldest first; at most 500. `prefix` is one of their ids."""
        query = select(told.c.body).where(told.c.state == _WAITING).order_by(told.c.place)
        if prefix:
            query = query.where(told.c.event_id.startswith(prefix, autoescape=True))
        return [from_text(str(row.body)) for row in await fetch(self._engine, query.limit(MAX_AT_ONCE))]

    async def recorded(self, event_ids: Sequence[str], refused: bool = False) -> None:
        """The log has these; or it will never take them."""
        state = _REFUSED if refused else _RECORDED
        values = {"state": state} if refused else {"state": state, "body": ""}
        await to_its_end(self._write(update(told).where(told.c.event_id.in_(event_ids)).values(**values)))

    async def _write(self, statement: Executable) -> None:
        async with writing(self._engine) as connection:
            await connection.execute(statement)

    async def consumed(self, approval_id: ApprovalId) -> Consumed | None:
        """The consumption of a permit."""
        found = await fetch(self._engine, select(consumptions).where(consumptions.c.approval_id == approval_id))
        return _consumed(found[0]) if found else None

    async def consumed_by(self, call_keys: Collection[str]) -> Mapping[str, Consumed]:
        """Consumptions by the key of their call; the newest where a session has used an id again."""
        if not call_keys:
            return {}
        query = select(consumptions).where(consumptions.c.call_key.in_(call_keys)).order_by(consumptions.c.consumed_ms)
        return {each.call_key: each for each in map(_consumed, await fetch(self._engine, query))}

    async def held_by(self, call_keys: Collection[str]) -> Mapping[str, HeldCall]:
        """Calls that were held, by their key."""
        if not call_keys:
            return {}
        query = select(held_calls).where(held_calls.c.call_key.in_(call_keys))
        return {
            str(row.call_key): HeldCall(str(row.gate_call_id), ApprovalId(str(row.approval_id)))
            for row in await fetch(self._engine, query)
        }

    async def unreported(self, before_ms: int) -> Sequence[Consumed]:
        """Permits consumed at or before `before_ms` without a report or an alert, oldest first; at most 500."""
        query = (
            select(consumptions)
            .where(
                consumptions.c.reported_ms.is_(null()),
                consumptions.c.alerted_ms.is_(null()),
                consumptions.c.consumed_ms <= before_ms,
            )
            .order_by(consumptions.c.consumed_ms, consumptions.c.approval_id)
        )
        return [_consumed(row) for row in await fetch(self._engine, query.limit(MAX_AT_ONCE))]

    async def count_unreported(self, before_ms: int) -> int:
        """How many permits consumed at or before `before_ms` have no report, with or without an alert."""
        late = consumptions.c.reported_ms.is_(null()), consumptions.c.consumed_ms <= before_ms
        query = select(func.count().label("many")).select_from(consumptions).where(*late)
        return int((await fetch(self._engine, cast("Select[tuple[object, ...]]", query)))[0].many)

    async def announced(self, name: str) -> Announced:
        """What was announced last under `name`."""
        found = await fetch(self._engine, select(announced).where(announced.c.name == name))
        return Announced(str(found[0].digest), int(found[0].generation)) if found else Announced(None, 0)


def _consumed(row: "Row[tuple[object, ...]]") -> Consumed:
    return Consumed(
        conclusion=Conclusion(
            approval_id=ApprovalId(row.approval_id),
            gate_call_id=row.gate_call_id,
            consumed_ms=row.consumed_ms,
            reported=None if row.reported is None else ActionOutcome(row.reported),
            reported_ms=row.reported_ms,
            alerted_ms=row.alerted_ms,
            rollback=None if row.rollback is None else RollbackOutcome(row.rollback),
        ),
        call_key=row.call_key,
        rollbacks=row.rollbacks,
    )
