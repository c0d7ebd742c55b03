"""Tables of stored responses, and the statements on them. Times are milliseconds, sizes bytes of JSON.

Every statement names the tenant, which is also half of the primary key: an id alone finds nothing. Every move is one
guarded UPDATE, so that several replicas on one PostgreSQL need no other agreement. What a tenant keeps is counted in
`response_totals` by the same transaction that changes a row; rows first and the total last, in every transaction,
which is why two of them never wait for each other.
"""

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    FromClause,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from deployments.errors import PartUnavailable
from deployments.migrations.runner import migrate
from deployments.ports import KeyId, TenantId
from deployments.store import writers_turn

_log = logging.getLogger("gatehouse.responses")

ROW_BYTES = 256
"""What a row costs beside its JSON. A deleted response still costs it: ids without an end would fill the disk."""

_BLOBS_PER_QUERY = 100
_metadata = MetaData()

_responses = Table(
    "responses",
    _metadata,
    Column("tenant", String(128), primary_key=True),
    Column("response_id", String(128), primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("background", Boolean, nullable=False),
    Column("previous_id", String(128)),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("beat_ms", BigInteger, nullable=False),
    Column("turn_bytes", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("frame", LargeBinary, nullable=False),
    Column("output", LargeBinary, nullable=False),
    Column("input", LargeBinary, nullable=False),
    Index("responses_of_tenant", "tenant", "expires_ms"),
    Index("responses_expiring", "expires_ms"),
)

_totals = Table(
    "response_totals",
    _metadata,
    Column("tenant", String(128), primary_key=True),
    Column("responses", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)


class State(StrEnum):
    """State of a row: the six statuses of the API, and two that only the store gives."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SILENT = "silent"
    """Failed, because whoever generated it gave no sign of life."""
    DELETED = "deleted"
    """A tombstone: it answers nothing, and keeps a late writer from bringing the response back."""


LIVE = (State.QUEUED, State.IN_PROGRESS)
"""The states that change."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A response's JSON, compressed: `frame` is the body without its output.

    `turn_bytes` is what the response adds to a conversation, `bytes` what it costs its tenant.
    """

    frame: bytes
    output: bytes
    input: bytes
    turn_bytes: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """One response as it is stored."""

    tenant: TenantId
    response_id: str
    key_id: KeyId
    state: State
    background: bool
    previous_id: str | None
    created_ms: int
    expires_ms: int
    beat_ms: int
    packed: Packed


@dataclass(frozen=True, slots=True)
class Standing:
    """What a writer must know of the row that it replaces."""

    state: State
    expires_ms: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Link:
    """One turn of a conversation, without its text."""

    response_id: str
    previous_id: str | None
    state: State
    background: bool
    beat_ms: int
    turn_bytes: int


@dataclass(frozen=True, slots=True)
class Quota:
    """What a tenant may keep at once."""

    responses: int
    bytes: int


class Written(Enum):
    """How a write ended."""

    DONE = auto()
    RACED = auto()
    """The row is no longer what the writer saw; nothing was changed."""
    FULL = auto()
    """The tenant would keep more than it may; nothing was changed."""


class ResponseRows:
    """The tables on one engine. A database that fails is `PartUnavailable`, and its text is not told."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._turn = writers_turn(engine)

    async def open(self) -> None:
        """Create the tables, or bring them up to this version; `SchemaError` when that cannot be."""
        try:
            await migrate(self._engine, "responses")
        except (SQLAlchemyError, OSError) as error:
            raise _down(error) from None

    async def ready(self) -> bool:
        """True when the database answers."""
        try:
            async with self._engine.connect() as connection:
                await connection.execute(select(_totals.c.tenant).limit(1))
        except (SQLAlchemyError, OSError):
            return False
        return True

    async def close(self) -> None:
        """Give the connections back."""
        await self._engine.dispose()

    async def standing(self, tenant: TenantId, response_id: str) -> Standing | None:
        """What is there under this id: also a tombstone, also what has expired and was not swept yet."""
        query = select(_responses.c.state, _responses.c.expires_ms, _responses.c.bytes)
        async with self._reading() as connection:
            row = (await connection.execute(query.where(*_key(tenant, response_id)))).one_or_none()
        return None if row is None else Standing(State(row.state), row.expires_ms, row.bytes)

    async def row(self, tenant: TenantId, response_id: str, now_ms: int) -> Row | None:
        """One response, unless it is deleted or expired."""
        query = select(_responses).where(*_key(tenant, response_id), *_visible(_responses, now_ms))
        async with self._reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        return Row(
            tenant=TenantId(row.tenant),
            response_id=row.response_id,
            key_id=KeyId(row.key_id),
            state=State(row.state),
            background=row.background,
            previous_id=row.previous_id,
            created_ms=row.created_ms,
            expires_ms=row.expires_ms,
            beat_ms=row.beat_ms,
            packed=Packed(row.frame, row.output, row.input, row.turn_bytes, row.bytes),
        )

    async def put(self, row: Row, before: Standing | None, quota: Quota, now_ms: int) -> Written:
        """Write a row over `before`, which must still be there: nothing, an expired row, or a live one."""
        values = _values(row)
        key = _key(row.tenant, row.response_id)
        try:
            async with self._writing() as connection:
                if before is not None and before.expires_ms > now_ms:
                    moved = await connection.execute(update(_responses).where(*key, *_still(before)).values(**values))
                    if moved.rowcount != 1:
                        return Written.RACED
                    responses = 0
                else:
                    if before is not None:
                        dropped = await connection.execute(delete(_responses).where(*key, *_still(before)))
                        if dropped.rowcount != 1:
                            return Written.RACED
                    await connection.execute(insert(_responses).values(**values))
                    responses = 1 if before is None else 1 - _counted(before.state)
                grown = row.packed.bytes - (0 if before is None else before.bytes)
                if not await _charge(connection, row.tenant, responses, grown, quota):
                    await connection.rollback()
                    return Written.FULL
        except IntegrityError:  # somebody else inserted the same row, or the tenant's first total
            return Written.RACED
        return Written.DONE

    async def move(self, tenant: TenantId, response_id: str, to: State, silent_before_ms: int | None = None) -> None:
        """Give a live response its final state; one that is final already or deleted stays as it is.

        With `silent_before_ms`, only a response whose last sign of life is older than that.
        """
        guard = [*_key(tenant, response_id), _responses.c.state.in_(LIVE)]
        if silent_before_ms is not None:
            guard.append(_responses.c.beat_ms < silent_before_ms)
        async with self._writing() as connection:
            await connection.execute(update(_responses).where(*guard).values(state=to.value))

    async def beat(self, tenant: TenantId, response_id: str, now_ms: int) -> bool:
        """Note a sign of life; False when the response is not live."""
        guard = (*_key(tenant, response_id), _responses.c.expires_ms > now_ms, _responses.c.state.in_(LIVE))
        async with self._writing() as connection:
            noted = await connection.execute(update(_responses).where(*guard).values(beat_ms=now_ms))
            return noted.rowcount == 1

    async def bury(self, tenant: TenantId, response_id: str, before: Standing) -> Written:
        """Turn a row into a tombstone that lasts until the response would have expired."""
        guard = (*_key(tenant, response_id), *_still(before))
        nothing = {"frame": b"", "output": b"", "input": b"", "turn_bytes": 0, "bytes": ROW_BYTES}
        async with self._writing() as connection:
            moved = await connection.execute(
                update(_responses).where(*guard).values(state=State.DELETED.value, **nothing)
            )
            if moved.rowcount != 1:
                return Written.RACED
            await _discharge(connection, tenant, 1, before.bytes - ROW_BYTES)
        return Written.DONE

    async def chain(self, tenant: TenantId, response_id: str, now_ms: int, turns: int) -> Sequence[Link]:
        """A response and those before it, newest first, at most `turns`; ends early where one is missing."""
        first = (
            select(*_link(_responses), literal(1, Integer).label("turn"))
            .where(*_key(tenant, response_id), *_visible(_responses, now_ms))
            .cte("turns", recursive=True)
        )
        older = _responses.alias("older")
        walked = first.union_all(
            select(*_link(older), first.c.turn + 1).where(
                older.c.tenant == tenant,
                older.c.response_id == first.c.previous_id,
                *_visible(older, now_ms),
                first.c.turn < turns,
            )
        )
        async with self._reading() as connection:
            rows = (await connection.execute(select(walked).order_by(walked.c.turn))).all()
        return [
            Link(row.response_id, row.previous_id, State(row.state), row.background, row.beat_ms, row.turn_bytes)
            for row in rows
        ]

    async def turns(
        self, tenant: TenantId, response_ids: Sequence[str], now_ms: int
    ) -> Mapping[str, tuple[bytes, bytes]]:
        """Compressed input and output by id, of those that are still there."""
        found: dict[str, tuple[bytes, bytes]] = {}
        async with self._reading() as connection:
            for start in range(0, len(response_ids), _BLOBS_PER_QUERY):
                some = response_ids[start : start + _BLOBS_PER_QUERY]
                query = select(_responses.c.response_id, _responses.c.input, _responses.c.output).where(
                    _responses.c.tenant == tenant, _responses.c.response_id.in_(some), *_visible(_responses, now_ms)
                )
                found.update({row.response_id: (row.input, row.output) for row in await connection.execute(query)})
        return found

    async def tenant_to_sweep(self, now_ms: int) -> TenantId | None:
        """The tenant of the row that expired first."""
        query = select(_responses.c.tenant).where(_responses.c.expires_ms <= now_ms)
        async with self._reading() as connection:
            tenant = (await connection.execute(query.order_by(_responses.c.expires_ms).limit(1))).scalar_one_or_none()
        return None if tenant is None else TenantId(tenant)

    async def sweep(self, tenant: TenantId, now_ms: int, limit: int) -> int:
        """Remove at most `limit` expired rows of a tenant, tombstones too; the number removed.

        Rows that another replica is just removing are left to it.
        """
        due = (_responses.c.tenant == tenant, _responses.c.expires_ms <= now_ms)
        query = select(_responses.c.response_id).where(*due).order_by(_responses.c.expires_ms).limit(limit)
        async with self._writing() as connection:
            ids = (await connection.execute(query.with_for_update(skip_locked=True))).scalars().all()
            if not ids:
                return 0
            removing = delete(_responses).where(*due, _responses.c.response_id.in_(ids))
            gone = (await connection.execute(removing.returning(_responses.c.state, _responses.c.bytes))).all()
            await _discharge(
                connection, tenant, sum(_counted(State(row.state)) for row in gone), sum(row.bytes for row in gone)
            )
        return len(gone)

    @asynccontextmanager
    async def _reading(self) -> AsyncGenerator[AsyncConnection, None]:
        try:
            async with self._engine.connect() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            raise _down(error) from None

    @asynccontextmanager
    async def _writing(self) -> AsyncGenerator[AsyncConnection, None]:
        """A transaction, committed when the block ends without an error. `IntegrityError` is left to the caller."""
        try:
            async with self._turn, self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except (SQLAlchemyError, OSError) as error:
            raise _down(error) from None


def _down(error: Exception) -> PartUnavailable:
    # The text of a database error holds the values of its statement, and those are what people wrote.
    _log.error("the response store failed: %s", type(error).__name__)
    return PartUnavailable("The response store does not answer.")


def _key(tenant: TenantId, response_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return _responses.c.tenant == tenant, _responses.c.response_id == response_id


def _visible(table: FromClause, now_ms: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return table.c.expires_ms > now_ms, table.c.state != State.DELETED.value


def _still(before: Standing) -> tuple[ColumnElement[bool], ...]:
    """The row is as it was read. Its size belongs to that: the total changes by the difference."""
    return _responses.c.state == before.state.value, _responses.c.bytes == before.bytes


def _link(table: FromClause) -> Sequence[ColumnElement[Any]]:
    return [table.c[name] for name in ("response_id", "previous_id", "state", "background", "beat_ms", "turn_bytes")]


def _values(row: Row) -> Mapping[str, object]:
    return {
        "tenant": row.tenant,
        "response_id": row.response_id,
        "key_id": row.key_id,
        "state": row.state.value,
        "background": row.background,
        "previous_id": row.previous_id,
        "created_ms": row.created_ms,
        "expires_ms": row.expires_ms,
        "beat_ms": row.beat_ms,
        "turn_bytes": row.packed.turn_bytes,
        "bytes": row.packed.bytes,
        "frame": row.packed.frame,
        "output": row.packed.output,
        "input": row.packed.input,
    }


def _counted(state: State) -> int:
    """A tombstone costs its bytes, but is no response."""
    return 0 if state is State.DELETED else 1


async def _charge(connection: AsyncConnection, tenant: TenantId, responses: int, size: int, quota: Quota) -> bool:
    """Add to what a tenant keeps, in either direction; False when what grows would pass the quota."""
    guard = [_totals.c.tenant == tenant]
    if responses > 0:
        guard.append(_totals.c.responses + responses <= quota.responses)
    if size > 0:
        guard.append(_totals.c.bytes + size <= quota.bytes)
    changes = {"responses": _totals.c.responses + responses, "bytes": _totals.c.bytes + size}
    if (await connection.execute(update(_totals).where(*guard).values(**changes))).rowcount == 1:
        return True
    known = await connection.execute(select(_totals.c.tenant).where(_totals.c.tenant == tenant))
    if known.one_or_none() is not None or responses > quota.responses or size > quota.bytes:
        return False
    await connection.execute(insert(_totals).values(tenant=tenant, responses=responses, bytes=size))
    return True


async def _discharge(connection: AsyncConnection, tenant: TenantId, responses: int, size: int) -> None:
    changes = {"responses": _totals.c.responses - responses, "bytes": _totals.c.bytes - size}
    await connection.execute(update(_totals).where(_totals.c.tenant == tenant).values(**changes))
