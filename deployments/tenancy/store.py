"""Tables of keys, grants and usage, and the statements on them. Integers only; times are milliseconds.

Every method is one transaction and is durable when it returns.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    bindparam,
    exists,
    func,
    insert,
    inspect,
    literal,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import CreateColumn

from deployments.ports import (
    GateProfile,
    Grant,
    KeyId,
    KeyRecord,
    ModelId,
    RateLimits,
    Scope,
    TenantId,
    Usage,
)
from deployments.tenancy.admission import OpenRequest, bearer_names
from deployments.tenancy.budgets import Account, Booking

_metadata = MetaData()

_facts = Table(
    "tenancy_facts",
    _metadata,
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

_keys = Table(
    "keys",
    _metadata,
    Column("key_id", String(64), primary_key=True),
    Column("prefix", String(16), nullable=False, unique=True),
    Column("digest", LargeBinary, nullable=False),
    Column("tenant", String(128), nullable=False, index=True),
    Column("name", String(256), nullable=False),
    Column("person", String(256)),
    Column("scopes", String(256), nullable=False),
    Column("models", String),  # null: all models
    Column("gate_profile", String(32), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
    Column("hold_s", Integer, nullable=False, server_default=text("0")),
    Column("budget_tokens", BigInteger),  # null: no budget
    Column("roles", String(4096), nullable=False, server_default=text("''")),  # one a line
    Column("team", String(128)),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("concurrent_requests", BigInteger),
    Column("rotated_ms", BigInteger),
    # The text before the last rotation, good for a while; null: there is none.
    Column("previous_prefix", String(16), index=True),
    Column("previous_digest", LargeBinary),
    Column("previous_until_ms", BigInteger),
)

_grants = Table(
    "grants",
    _metadata,
    Column("grant_id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("model", String(256), nullable=False),
    Column("reserved_tokens", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("settled_ms", BigInteger),
    Index("grants_open", "key_id", "settled_ms", "created_ms"),
)

_usage = Table(
    "usage",
    _metadata,
    Column("grant_id", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False, index=True),
    Column("key_id", String(64), nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("model", String(256), nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("settled_ms", BigInteger, nullable=False),
)

_tokens = _usage.c.input_tokens + _usage.c.output_tokens
# A settlement may be written before the row of its grant, which then stays open in its own table only.
_is_open = _grants.c.settled_ms.is_(None) & ~exists().where(_usage.c.grant_id == _grants.c.grant_id)


@dataclass(frozen=True, slots=True)
class UsageTotal:
    """What one key used of one model. `estimated_requests` were never confirmed by the engine."""

    tenant: TenantId
    key_id: KeyId
    model: ModelId
    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    estimated_requests: int


class TenancyStore:
    """The tables of tenancy on one engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def create_tables(self) -> None:
        """Create what is missing: tables, and columns that a file of an earlier version lacks. Nothing is dropped."""
        async with self._engine.begin() as connection:
            await connection.run_sync(_metadata.create_all)
            await connection.run_sync(_add_columns)

    async def ping(self) -> None:
        """Return when the database answers, else raise its error."""
        async with self._engine.connect() as connection:
            await connection.execute(select(literal(1)))

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def remember(self, name: str, value: bytes) -> bytes:
        """The value stored under `name`; `value` itself when there was none."""
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(_facts).values(name=name, value=value))
        except IntegrityError:
            async with self._engine.connect() as connection:
                return (await connection.execute(select(_facts.c.value).where(_facts.c.name == name))).scalar_one()
        return value

    async def add_key(self, record: KeyRecord, prefix: str, digest: bytes) -> None:
        """Store a new key."""
        values = {
            "key_id": record.key_id,
            "prefix": prefix,
            "digest": digest,
            "created_ms": record.created_ms,
            "revoked_ms": record.revoked_ms,
            **_rights(record),
        }
        async with self._engine.begin() as connection:
            await connection.execute(insert(_keys).values(values))

    async def change_key(self, record: KeyRecord) -> None:
        """Store what a key may do now, unless it was revoked."""
        statement = update(_keys).where(_keys.c.key_id == record.key_id, _keys.c.revoked_ms.is_(None))
        async with self._engine.begin() as connection:
            await connection.execute(statement.values(_rights(record)))

    async def key_by_prefix(self, prefix: str, now_ms: int) -> tuple[KeyRecord, bytes] | None:
        """The key whose text, or whose text before its rotation, has this prefix, and the digest of that text."""
        previous = (_keys.c.previous_prefix == prefix) & (_keys.c.previous_until_ms > now_ms)
        async with self._engine.connect() as connection:
            row = (await connection.execute(select(_keys).where((_keys.c.prefix == prefix) | previous))).one_or_none()
        if row is None:
            return None
        return _record(row), row.digest if row.prefix == prefix else row.previous_digest

    async def key(self, key_id: KeyId) -> KeyRecord | None:
        """The key with this id."""
        async with self._engine.connect() as connection:
            row = (await connection.execute(select(_keys).where(_keys.c.key_id == key_id))).one_or_none()
        return None if row is None else _record(row)

    async def some_keys(self, key_ids: Collection[KeyId]) -> list[KeyRecord]:
        """Those of the keys that exist, in no order."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(_keys).where(_keys.c.key_id.in_(key_ids)))
            return [_record(row) for row in rows]

    async def keys(self, tenant: TenantId | None) -> list[KeyRecord]:
        """Keys of a tenant or of all, oldest first."""
        query = select(_keys).order_by(_keys.c.created_ms, _keys.c.key_id)
        if tenant is not None:
            query = query.where(_keys.c.tenant == tenant)
        async with self._engine.connect() as connection:
            return [_record(row) for row in await connection.execute(query)]

    async def revoke(self, key_id: KeyId, now_ms: int) -> None:
        """Mark a key revoked, unless it is."""
        statement = update(_keys).where(_keys.c.key_id == key_id, _keys.c.revoked_ms.is_(None))
        async with self._engine.begin() as connection:
            await connection.execute(statement.values(revoked_ms=now_ms))

    async def rotate(self, key_id: KeyId, prefix: str, digest: bytes, now_ms: int, until_ms: int) -> bool:
        """Replace a key's text; the one it had is good until `until_ms`, an older one no more.

        False when the key was revoked or has expired meanwhile.
        """
        statement = (
            update(_keys)
            .where(_keys.c.key_id == key_id, _keys.c.revoked_ms.is_(None))
            .where(_keys.c.expires_ms.is_(None) | (_keys.c.expires_ms > now_ms))
            .values(
                previous_prefix=_keys.c.prefix,
                previous_digest=_keys.c.digest,
                previous_until_ms=until_ms,
                prefix=prefix,
                digest=digest,
                rotated_ms=now_ms,
            )
        )
        async with self._engine.begin() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def expire(self, key_id: KeyId, expires_ms: int | None) -> None:
        """Set when a key ends, unless it was revoked."""
        statement = update(_keys).where(_keys.c.key_id == key_id, _keys.c.revoked_ms.is_(None))
        async with self._engine.begin() as connection:
            await connection.execute(statement.values(expires_ms=expires_ms))

    async def open_grants(self, since_ms: int) -> list[OpenRequest]:
        """The grants that began after `since_ms` and are not settled, oldest first."""
        query = (
            select(_grants, _keys.c.team)
            .join(_keys, _keys.c.key_id == _grants.c.key_id, isouter=True)
            .where(_is_open, _grants.c.created_ms > since_ms)
            .order_by(_grants.c.created_ms)
        )
        async with self._engine.connect() as connection:
            return [
                OpenRequest(
                    row.grant_id,
                    bearer_names(KeyId(row.key_id), TenantId(row.tenant), row.team, ModelId(row.model)),
                    row.created_ms,
                )
                for row in await connection.execute(query)
            ]

    async def accounts(self) -> dict[KeyId, Account]:
        """What every key with a budget used, and what is set aside for its open grants, however old."""
        budgets = select(_keys.c.key_id, _keys.c.budget_tokens).where(_keys.c.budget_tokens.is_not(None))
        limited = select(_keys.c.key_id).where(_keys.c.budget_tokens.is_not(None))
        used = select(_usage.c.key_id, func.sum(_tokens)).where(_usage.c.key_id.in_(limited)).group_by(_usage.c.key_id)
        reserved = select(_grants.c.key_id, _grants.c.grant_id, _grants.c.reserved_tokens).where(
            _grants.c.key_id.in_(limited), _is_open
        )
        async with self._engine.connect() as connection:
            found = {key_id: int(budget) for key_id, budget in await connection.execute(budgets)}
            if not found:
                return {}
            spent = {key_id: int(tokens) for key_id, tokens in await connection.execute(used)}
            held: dict[str, dict[str, int]] = {}
            for key_id, grant_id, tokens in await connection.execute(reserved):
                held.setdefault(key_id, {})[grant_id] = int(tokens)
        return {
            KeyId(key_id): Account(budget, spent.get(key_id, 0), held.get(key_id, {}))
            for key_id, budget in found.items()
        }

    async def write(
        self, grants: Sequence[tuple[Grant, int]], settlements: Sequence[tuple[Grant, Usage, int]]
    ) -> list[Booking]:
        """Store grants with their times, then close others and store their usage; of two settlements the first counts.

        A settlement needs no row of its grant: it brings all that usage has to say. The answer says of every grant that
        was settled, once, what the books have of it now.
        """
        opened = [
            {
                "grant_id": grant.grant_id,
                "tenant": grant.tenant,
                "key_id": grant.key_id,
                "request_id": grant.request_id,
                "model": grant.model,
                "reserved_tokens": grant.reserved_tokens,
                "created_ms": at_ms,
            }
            for grant, at_ms in grants
        ]
        first: dict[str, tuple[Grant, Usage, int]] = {}
        for settlement in settlements:
            first.setdefault(settlement[0].grant_id, settlement)
        async with self._engine.begin() as connection:
            if opened:
                await connection.execute(insert(_grants), opened)
            if not first:
                return []
            known = select(_usage.c.grant_id, _tokens).where(_usage.c.grant_id.in_(first))
            settled = {grant_id: int(tokens) for grant_id, tokens in await connection.execute(known)}
            rows = [
                {
                    "grant_id": grant.grant_id,
                    "tenant": grant.tenant,
                    "key_id": grant.key_id,
                    "request_id": grant.request_id,
                    "model": grant.model,
                    "input_tokens": usage.input_tokens,
                    "cached_tokens": usage.cached_tokens,
                    "output_tokens": usage.output_tokens,
                    "reasoning_tokens": usage.reasoning_tokens,
                    "estimated": usage.estimated,
                    "settled_ms": at_ms,
                }
                for grant, usage, at_ms in first.values()
                if grant.grant_id not in settled
            ]
            if rows:
                await connection.execute(insert(_usage), rows)
                await connection.execute(
                    update(_grants).where(_grants.c.grant_id == bindparam("closed")).values(settled_ms=bindparam("at")),
                    [{"closed": row["grant_id"], "at": row["settled_ms"]} for row in rows],
                )
        return [
            Booking(grant, settled.get(grant_id, usage.input_tokens + usage.output_tokens), grant_id not in settled)
            for grant_id, (grant, usage, _) in first.items()
        ]

    async def usage(self, tenant: TenantId | None) -> list[UsageTotal]:
        """Totals per key and model, of a tenant or of all, ordered by tenant, key and model."""
        group = (_usage.c.tenant, _usage.c.key_id, _usage.c.model)
        query = (
            select(
                *group,
                func.count(),
                func.sum(_usage.c.input_tokens),
                func.sum(_usage.c.cached_tokens),
                func.sum(_usage.c.output_tokens),
                func.sum(_usage.c.reasoning_tokens),
                func.sum(_usage.c.estimated.cast(Integer)),
            )
            .group_by(*group)
            .order_by(*group)
        )
        if tenant is not None:
            query = query.where(_usage.c.tenant == tenant)
        async with self._engine.connect() as connection:
            return [UsageTotal(*row) for row in await connection.execute(query)]


def missing_columns(present: Mapping[str, Collection[str]], dialect: Dialect) -> list[str]:
    """The statements that add to tables, given with the columns they have, those that this version has more.

    A new column is nullable or has a default: rows can do without it, and so can an earlier version that writes again.
    """
    quote = dialect.identifier_preparer
    return [
        f"ALTER TABLE {quote.format_table(table)} ADD COLUMN {CreateColumn(column).compile(dialect=dialect)}"
        for table in _metadata.sorted_tables
        for column in table.columns
        if table.name in present and column.name not in present[table.name]
    ]


def _add_columns(connection: Connection) -> None:
    inspector = inspect(connection)
    present = {name: [column["name"] for column in inspector.get_columns(name)] for name in _metadata.tables}
    for statement in missing_columns(present, connection.dialect):
        connection.execute(DDL(statement))
    for table in _metadata.sorted_tables:
        for index in table.indexes:
            index.create(connection, checkfirst=True)


def _rights(record: KeyRecord) -> dict[str, object]:
    return {
        "tenant": record.tenant,
        "name": record.name,
        "person": record.person,
        "scopes": " ".join(sorted(record.scopes)),
        "models": None if record.models is None else "\n".join(sorted(record.models)),
        "gate_profile": record.gate_profile.value,
        "expires_ms": record.expires_ms,
        "hold_s": record.hold_s,
        "budget_tokens": record.budget_tokens,
        "roles": "\n".join(sorted(record.roles)),
        "team": record.team,
        "requests_per_minute": record.limits.requests_per_minute,
        "tokens_per_minute": record.limits.tokens_per_minute,
        "concurrent_requests": record.limits.concurrent_requests,
    }


def _record(row: "Row[tuple[object, ...]]") -> KeyRecord:
    return KeyRecord(
        key_id=KeyId(row.key_id),
        tenant=TenantId(row.tenant),
        name=row.name,
        person=row.person,
        scopes=frozenset(Scope(scope) for scope in row.scopes.split()),
        models=None if row.models is None else frozenset(ModelId(model) for model in row.models.split("\n") if model),
        gate_profile=GateProfile(row.gate_profile),
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        revoked_ms=row.revoked_ms,
        hold_s=row.hold_s,
        budget_tokens=row.budget_tokens,
        roles=frozenset(row.roles.split("\n")) - {""},
        team=row.team,
        limits=RateLimits(row.requests_per_minute, row.tokens_per_minute, row.concurrent_requests),
        rotated_ms=row.rotated_ms,
        previous_until_ms=row.previous_until_ms,
    )
