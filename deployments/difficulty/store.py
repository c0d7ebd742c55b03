"""Tables of the router: sessions, explained decisions, feedback, budgets. Times are milliseconds since the epoch.

Every statement names the tenant, which is half of each primary key. A session changes only under its row's lock, so
that replicas on one PostgreSQL agree; SQLite has one writer anyway. No word of a prompt is stored.
"""

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    MetaData,
    Row,
    String,
    Table,
    Text,
    delete,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from deployments.difficulty.memory import Decided, Evidence, Session, unpack
from deployments.errors import PartUnavailable
from deployments.migrations.runner import migrate
from deployments.ports import (
    CascadeReport,
    Feedback,
    FeedbackSource,
    FeedbackVerdict,
    KeyId,
    RouteExplanation,
    RouteId,
    SessionId,
    TenantId,
)
from deployments.store import writers_turn

_log = logging.getLogger("gatehouse.router")
_metadata = MetaData()
_SWEEP_ROWS: Final = 1_000
_EXPLANATION: Final = TypeAdapter(RouteExplanation)
_CASCADE: Final = TypeAdapter(CascadeReport)

_sessions = Table(
    "route_sessions",
    _metadata,
    Column("tenant", String(128), primary_key=True),
    Column("session", String(64), primary_key=True),
    Column("seen_ms", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Index("route_sessions_idle", "seen_ms"),
)

_decisions = Table(
    "route_decisions",
    _metadata,
    Column("tenant", String(128), primary_key=True),
    Column("route_id", String(64), primary_key=True),
    Column("session", String(64), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("explanation", Text, nullable=False),
    Index("route_decisions_old", "at_ms"),
)

# Beside the decision, not in it: whichever replica is told first writes, in any order.
_cascades = Table(
    "route_cascades",
    _metadata,
    Column("tenant", String(128), primary_key=True),
    Column("route_id", String(64), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("report", Text, nullable=False),
    Index("route_cascades_old", "at_ms"),
)

_feedback = Table(
    "route_feedback",
    _metadata,
    Column("tenant", String(128), primary_key=True),
    Column("event_id", String(128), primary_key=True),
    Column("route_id", String(64), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("source", String(16), nullable=False),
    Column("weight", Float, nullable=False),
    Column("score", Float),
    Column("at_ms", BigInteger, nullable=False),
    Index("route_feedback_of_route", "tenant", "route_id"),
    Index("route_feedback_of_key", "key_id", "at_ms"),
)

_budgets = Table(
    "route_budgets",
    _metadata,
    Column("tenant", String(128), primary_key=True),
    Column("replica", String(64), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Explained:
    """A decision to be kept, and the session it belongs to."""

    tenant: TenantId
    session: SessionId
    explanation: RouteExplanation


@dataclass(frozen=True, slots=True)
class Told:
    """A decision, what a cascade did after it, and all that was said of the answer, the oldest first.

    `explained` is None where another version wrote what this one cannot read.
    """

    tenant: TenantId
    route_id: RouteId
    explained: Explained | None
    said: tuple[Feedback, ...]
    cascade: CascadeReport | None = None


@dataclass(frozen=True, slots=True)
class Counted:
    """What a replica has counted of a tenant's budget, and when it wrote that."""

    replica: str
    at_ms: int
    state: str


class RouteRows:
    """The tables on one engine. A database that fails is `PartUnavailable`, and its text is not told."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.shared = engine.dialect.name != "sqlite"
        self._turn = writers_turn(engine)

    async def open(self) -> None:
        """Create the tables, or bring them up to this version; `SchemaError` when that cannot be."""
        try:
            await migrate(self._engine, "difficulty")
        except (SQLAlchemyError, OSError) as error:
            raise _down(error) from None

    async def close(self) -> None:
        """Give the connections back."""
        await self._engine.dispose()

    async def ready(self) -> bool:
        """True when the database answers."""
        try:
            async with self._engine.connect() as connection:
                await connection.execute(select(_sessions.c.tenant).limit(1))
        except (SQLAlchemyError, OSError):
            return False
        return True

    async def session(self, tenant: TenantId, session: SessionId, newer_than_ms: int) -> Session | None:
        """A session that was seen after `newer_than_ms`."""
        query = select(_sessions.c.state, _sessions.c.seen_ms).where(
            _sessions.c.tenant == tenant, _sessions.c.session == session, _sessions.c.seen_ms > newer_than_ms
        )
        async with self._reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _read(row.state, row.seen_ms)

    async def apply(
        self, changes: Sequence[Decided | Evidence], explained: Sequence[Explained], idle_release_ms: int
    ) -> Mapping[tuple[TenantId, SessionId], Session]:
        """Write changes of sessions, in order, and decisions, in one transaction; the sessions as they are then.

        Replicas that change the same sessions at once take turns. One that was idle for `idle_release_ms` starts anew.
        """
        by_key: dict[tuple[TenantId, SessionId], list[Decided | Evidence]] = {}
        for change in changes:
            by_key.setdefault((change.tenant, change.session), []).append(change)
        after: dict[tuple[TenantId, SessionId], Session] = {}
        async with self._writing() as connection:
            for tenant, session in sorted(by_key):  # one order for all replicas: no deadlock
                known = await self._locked(connection, by_key[tenant, session][0], idle_release_ms)
                for change in by_key[tenant, session]:
                    known.change(change)
                where = (_sessions.c.tenant == tenant, _sessions.c.session == session)
                await connection.execute(
                    update(_sessions).where(*where).values(state=known.pack(), seen_ms=known.last_seen_ms)
                )
                after[tenant, session] = known
            for each in explained:
                found = each.explanation
                await self._insert_once(
                    connection,
                    _decisions,
                    tenant=each.tenant,
                    route_id=found.decision.route_id,
                    session=each.session,
                    at_ms=found.at_ms,
                    explanation=_EXPLANATION.dump_json(found).decode(),
                )
        return after

    async def decision(self, tenant: TenantId, route_id: RouteId) -> Explained | None:
        """One decision of a tenant."""
        query = select(_decisions.c.session, _decisions.c.explanation).where(
            _decisions.c.tenant == tenant, _decisions.c.route_id == route_id
        )
        async with self._reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        return Explained(tenant, SessionId(row.session), _EXPLANATION.validate_json(row.explanation))

    async def add_cascade(self, tenant: TenantId, report: CascadeReport, now_ms: int) -> None:
        """Write what a cascade did; once for each decision."""
        text = _CASCADE.dump_json(report).decode()
        async with self._writing() as connection:
            await self._insert_once(
                connection, _cascades, tenant=tenant, route_id=report.route_id, at_ms=now_ms, report=text
            )

    async def cascade(self, tenant: TenantId, route_id: RouteId) -> CascadeReport | None:
        """What a cascade did after a decision of a tenant; None where there was none."""
        query = select(_cascades.c.report).where(_cascades.c.tenant == tenant, _cascades.c.route_id == route_id)
        async with self._reading() as connection:
            text = (await connection.execute(query)).scalar_one_or_none()
        return None if text is None else _CASCADE.validate_json(text)

    async def feedback(self, tenant: TenantId, event_id: str) -> Feedback | None:
        """What was said under this id."""
        query = select(_feedback).where(_feedback.c.tenant == tenant, _feedback.c.event_id == event_id)
        async with self._reading() as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else _said(row)

    async def history(
        self, after: tuple[TenantId, RouteId] | None, limit: int, tenant: TenantId | None = None
    ) -> Sequence[Told]:
        """The next `limit` decisions after a key, in the order of tenant and route id; of one tenant or of all.

        For reading everything in short transactions: a store that is in use is not kept from writing.
        """
        query = select(_decisions).order_by(_decisions.c.tenant, _decisions.c.route_id).limit(limit)
        if tenant is not None:
            query = query.where(_decisions.c.tenant == tenant)
        if after is not None:
            query = query.where(tuple_(_decisions.c.tenant, _decisions.c.route_id) > tuple_(*after))
        verdicts: dict[tuple[str, str], list[Feedback]] = {}
        cascades: dict[tuple[str, str], CascadeReport] = {}
        async with self._reading() as connection:
            rows = (await connection.execute(query)).all()
            for owner in sorted({row.tenant for row in rows}):
                ids = [row.route_id for row in rows if row.tenant == owner]
                about = select(_feedback).where(_feedback.c.tenant == owner, _feedback.c.route_id.in_(ids))
                for said in await connection.execute(about.order_by(_feedback.c.at_ms, _feedback.c.event_id)):
                    verdicts.setdefault((owner, said.route_id), []).append(_said(said))
                after_them = select(_cascades).where(_cascades.c.tenant == owner, _cascades.c.route_id.in_(ids))
                for row in await connection.execute(after_them):
                    cascades[owner, row.route_id] = _CASCADE.validate_json(row.report)
        return [
            Told(
                TenantId(row.tenant),
                RouteId(row.route_id),
                _readable(row),
                tuple(verdicts.get((row.tenant, row.route_id), ())),
                cascades.get((row.tenant, row.route_id)),
            )
            for row in rows
        ]

    async def add_feedback(self, said: Feedback, now_ms: int) -> bool:
        """Write what was said; False when its id is there already."""
        async with self._writing() as connection:
            return await self._insert_once(
                connection,
                _feedback,
                tenant=said.tenant,
                event_id=said.event_id,
                route_id=said.route_id,
                key_id=said.key_id,
                verdict=said.verdict,
                source=said.source,
                weight=said.weight,
                score=said.score,
                at_ms=now_ms,
            )

    async def feedback_since(self, key_id: KeyId, since_ms: int) -> int:
        """How often a key has spoken since then."""
        query = select(func.count()).where(_feedback.c.key_id == key_id, _feedback.c.at_ms > since_ms)
        async with self._reading() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def budgets(self, tenant: TenantId) -> Sequence[Counted]:
        """What each replica has counted for a tenant, the newest first."""
        query = select(_budgets.c.replica, _budgets.c.at_ms, _budgets.c.state).where(_budgets.c.tenant == tenant)
        async with self._reading() as connection:
            rows = await connection.execute(query.order_by(_budgets.c.at_ms.desc()))
            return [Counted(row.replica, row.at_ms, row.state) for row in rows]

    async def put_budgets(self, replica: str, states: Mapping[TenantId, str], now_ms: int) -> None:
        """Replace what a replica has counted."""
        async with self._writing() as connection:
            for tenant, state in sorted(states.items()):
                where = (_budgets.c.tenant == tenant, _budgets.c.replica == replica)
                values = {"state": state, "at_ms": now_ms}
                if not await self._insert_once(connection, _budgets, tenant=tenant, replica=replica, **values):
                    await connection.execute(update(_budgets).where(*where).values(**values))

    async def sweep(self, sessions_before_ms: int, decisions_before_ms: int) -> int:
        """Remove some of what is too old; how much. Feedback stays as long as the decision it is about."""
        removed = 0
        async with self._writing() as connection:
            for table, column, before in (
                (_sessions, _sessions.c.seen_ms, sessions_before_ms),
                (_decisions, _decisions.c.at_ms, decisions_before_ms),
                (_cascades, _cascades.c.at_ms, decisions_before_ms),
                (_feedback, _feedback.c.at_ms, decisions_before_ms),
                (_budgets, _budgets.c.at_ms, sessions_before_ms),
            ):
                keys = list(table.primary_key.columns)
                old = select(*keys).where(column <= before).order_by(column).limit(_SWEEP_ROWS)
                for row in (await connection.execute(old)).all():
                    same = [key == value for key, value in zip(keys, row, strict=True)]
                    removed += (await connection.execute(delete(table).where(*same, column <= before))).rowcount
        return removed

    async def _locked(self, connection: AsyncConnection, first: Decided | Evidence, idle_release_ms: int) -> Session:
        tenant, session, at_ms = first.tenant, first.session, first.at_ms
        new = Session(last_seen_ms=at_ms)
        if await self._insert_once(
            connection, _sessions, tenant=tenant, session=session, seen_ms=at_ms, state=new.pack()
        ):
            return new
        query = select(_sessions.c.state, _sessions.c.seen_ms).where(
            _sessions.c.tenant == tenant, _sessions.c.session == session
        )
        row = (await connection.execute(query.with_for_update())).one()
        if row.seen_ms <= at_ms - idle_release_ms:
            return new
        return _read(row.state, row.seen_ms) or new

    async def _insert_once(self, connection: AsyncConnection, table: Table, **values: object) -> bool:
        kind = postgresql if self.shared else sqlite
        statement = kind.insert(table).values(**values).on_conflict_do_nothing()
        done = await connection.execute(statement, execution_options={"preserve_rowcount": True})
        return done.rowcount == 1

    @asynccontextmanager
    async def _reading(self) -> AsyncGenerator[AsyncConnection, None]:
        try:
            async with self._engine.connect() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            raise _down(error) from None

    @asynccontextmanager
    async def _writing(self) -> AsyncGenerator[AsyncConnection, None]:
        """A transaction, committed when the block ends without an error."""
        try:
            async with self._turn, self._engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            raise _down(error) from None


def _said(row: Row[Any]) -> Feedback:
    return Feedback(
        event_id=row.event_id,
        tenant=TenantId(row.tenant),
        key_id=KeyId(row.key_id),
        route_id=RouteId(row.route_id),
        verdict=FeedbackVerdict(row.verdict),
        source=FeedbackSource(row.source),
        weight=row.weight,
        score=row.score,
    )


def _readable(row: Row[Any]) -> Explained | None:
    try:
        found = _EXPLANATION.validate_json(row.explanation)
    except ValidationError:
        return None
    return Explained(TenantId(row.tenant), SessionId(row.session), found)


def _read(state: str, seen_ms: int) -> Session | None:
    try:
        return unpack(state, seen_ms)
    except ValueError:
        # Written by a newer version that is being rolled back: what it knew is lost, and the session starts anew.
        _log.warning("a stored session could not be read")
        return None


def _down(error: Exception) -> PartUnavailable:
    # The text of a database error holds the values of its statement.
    _log.error("the router's store failed: %s", type(error).__name__)
    return PartUnavailable("The router's store does not answer.")
