"""Statements on the tables of keys, grants and usage. Integers only; times are milliseconds.

Every method is one transaction and is durable when it returns.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from sqlalchemy import (
    Integer,
    Row,
    bindparam,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.migrations.runner import migrate
from deployments.ports import (
    GateProfile,
    Grant,
    KeyId,
    KeyRecord,
    ModelId,
    RateLimits,
    RequestId,
    Scope,
    Served,
    TenantId,
    Usage,
)
from deployments.tenancy.admission import OpenRequest, bearer_names
from deployments.tenancy.budget_store import BudgetStore
from deployments.tenancy.budgets import Booking, Cost
from deployments.tenancy.tables import facts as _facts
from deployments.tenancy.tables import grants as _grants
from deployments.tenancy.tables import is_open, used_micros, used_tokens
from deployments.tenancy.tables import keys as _keys
from deployments.tenancy.tables import usage as _usage

LOST = "lost"
"""The outcome of a request of which nobody ever said what became of it."""


class Became(Enum):
    """What became of a grant."""

    GIVEN = auto()
    OPENED = auto()
    RETURNED = auto()


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the books: a grant was given (as part of a lease until then, or None), opened, or returned unused."""

    grant: Grant
    became: Became = Became.GIVEN
    leased_until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What a grant used, who did the work, what that costs, and when it was said."""

    grant: Grant
    usage: Usage
    served: Served | None
    micros: int
    at_ms: int

    @property
    def cost(self) -> Cost:
        """What it takes of budgets."""
        return Cost(self.usage.input_tokens + self.usage.output_tokens, self.micros)

    @property
    def is_lost(self) -> bool:
        """True for an estimate of what a request used that was never settled."""
        return self.served is not None and self.served.outcome == LOST


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
        self.budgets = BudgetStore(engine)

    @property
    def engine(self) -> AsyncEngine:
        """For reports, which only read."""
        return self._engine

    async def create_tables(self) -> None:
        """Create the tables, or bring them up to this version; `SchemaError` when that cannot be."""
        await migrate(self._engine, "tenancy")

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
            .where(is_open, _grants.c.created_ms > since_ms)
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

    async def unsettled(self, before_ms: int, most: int) -> list[Grant]:
        """Grants that began before `before_ms` and were never settled, oldest first, `most` at a time.

        Without those of leases that nobody opened: they come back, and cost nothing.
        """
        query = (
            select(_grants)
            .where(is_open, _grants.c.leased_until_ms.is_(None), _grants.c.created_ms <= before_ms)
            .order_by(_grants.c.created_ms)
            .limit(most)
        )
        async with self._engine.connect() as connection:
            return [_grant(row) for row in await connection.execute(query)]

    async def leased(self) -> list[tuple[Grant, int]]:
        """Grants that nobody has opened, and until when somebody may, the oldest first."""
        query = select(_grants).where(is_open, _grants.c.leased_until_ms.is_not(None)).order_by(_grants.c.created_ms)
        async with self._engine.connect() as connection:
            return [(_grant(row), row.leased_until_ms) for row in await connection.execute(query)]

    async def write(self, entries: Sequence[Entry], settlements: Sequence[Settled]) -> list[Booking]:
        """Store what became of grants, then close others and store their usage; of two settlements the first counts.

        One that was made for a request that was thought lost is no more than an estimate: the next takes its place. A
        settlement needs no row of its grant: it brings all that usage has to say. The answer says of every grant that
        was settled, once, what the books have of it now.
        """
        first: dict[str, Settled] = {}
        for each in settlements:
            if each.grant.grant_id not in first or first[each.grant.grant_id].is_lost:
                first[each.grant.grant_id] = each
        async with self._engine.begin() as connection:
            given = [_grant_row(each) for each in entries if each.became is Became.GIVEN]
            if given:
                await connection.execute(insert(_grants), given)
            for each in entries:  # after what was given: a grant is given once, and before all else
                own = _grants.c.grant_id == each.grant.grant_id
                if each.became is Became.OPENED:
                    opened = {"leased_until_ms": None, "request_id": each.grant.request_id}
                    await connection.execute(update(_grants).where(own).values(opened))
                elif each.became is Became.RETURNED:
                    await connection.execute(delete(_grants).where(own, is_open))
            if not first:
                return []
            query = select(
                _usage.c.grant_id, used_tokens.label("tokens"), used_micros.label("micros"), _usage.c.outcome
            )
            known = {row.grant_id: row for row in await connection.execute(query.where(_usage.c.grant_id.in_(first)))}
            new = [each for grant_id, each in first.items() if grant_id not in known]
            mended = [
                each
                for grant_id, each in first.items()
                if grant_id in known and known[grant_id].outcome == LOST and not each.is_lost
            ]
            if new:
                await connection.execute(insert(_usage), [_usage_row(each) for each in new])
                await connection.execute(
                    update(_grants).where(_grants.c.grant_id == bindparam("closed")).values(settled_ms=bindparam("at")),
                    [{"closed": each.grant.grant_id, "at": each.at_ms} for each in new],
                )
            for each in mended:
                own = _usage.c.grant_id == each.grant.grant_id
                await connection.execute(update(_usage).where(own).values(_usage_row(each)))
        bookings = list[Booking]()
        for grant_id, each in first.items():
            before = known.get(grant_id)
            if before is None:
                bookings.append(Booking(each.grant, each.cost, new=True))
            elif each in mended:
                more = Cost(each.cost.tokens - int(before.tokens), each.cost.micros - int(before.micros))
                bookings.append(Booking(each.grant, more, new=True))
            else:
                bookings.append(Booking(each.grant, Cost(int(before.tokens), int(before.micros)), new=False))
        return bookings

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


def _grant(row: "Row[tuple[object, ...]]") -> Grant:
    return Grant(
        grant_id=row.grant_id,
        tenant=TenantId(row.tenant),
        key_id=KeyId(row.key_id),
        reserved_tokens=row.reserved_tokens,
        request_id=RequestId(row.request_id),
        model=ModelId(row.model),
        team=row.team,
        reserved_micros=row.reserved_micros,
        admitted_ms=row.created_ms,
    )


def _grant_row(entry: Entry) -> dict[str, object]:
    grant = entry.grant
    return {
        "leased_until_ms": entry.leased_until_ms,
        "grant_id": grant.grant_id,
        "tenant": grant.tenant,
        "team": grant.team,
        "key_id": grant.key_id,
        "request_id": grant.request_id,
        "model": grant.model,
        "reserved_tokens": grant.reserved_tokens,
        "reserved_micros": grant.reserved_micros,
        "created_ms": grant.admitted_ms,
    }


def _usage_row(each: Settled) -> dict[str, object]:
    grant, usage, served = each.grant, each.usage, each.served
    return {
        "grant_id": grant.grant_id,
        "tenant": grant.tenant,
        "team": grant.team,
        "key_id": grant.key_id,
        "request_id": grant.request_id,
        "model": grant.model,
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "estimated": usage.estimated,
        "admitted_ms": grant.admitted_ms,
        "settled_ms": each.at_ms,
        "cost_micros": each.micros,
        "served_model": None if served is None or each.is_lost else served.model,
        "tier": None if served is None or served.tier is None else served.tier.value,
        "reason": None if served is None else served.reason[:128],
        "outcome": None if served is None else served.outcome[:32],
    }


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
