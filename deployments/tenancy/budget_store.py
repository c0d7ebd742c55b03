"""Tables of budgets, and what the books say that was used and is set aside of each in its present window."""

from collections.abc import Sequence

from sqlalchemy import Column, ColumnElement, Row, delete, func, insert, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from deployments.limits import Budget, Unit, Window
from deployments.ports import KeyId
from deployments.tenancy.budgets import Account, Alert, Cost, budget_of_key
from deployments.tenancy.tables import budget_alerts as _alerts
from deployments.tenancy.tables import budgets as _budgets
from deployments.tenancy.tables import grants as _grants
from deployments.tenancy.tables import is_open, used_micros, used_tokens
from deployments.tenancy.tables import keys as _keys
from deployments.tenancy.tables import usage as _usage

_MANY = 500  # names in one statement


class BudgetStore:
    """What budgets there are. Every method is one transaction and is durable when it returns."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def put(self, budget: Budget) -> None:
        """Store a budget in place of the one with its id; whom that one told of what is forgotten."""
        async with self._engine.begin() as connection:
            await _forget(connection, budget.budget_id)
            await connection.execute(insert(_budgets).values(_row(budget)))

    async def remove(self, budget_id: str) -> None:
        """Forget a budget."""
        async with self._engine.begin() as connection:
            await _forget(connection, budget_id)

    async def told(self, alert: Alert, at_ms: int) -> None:
        """Remember that somebody was told."""
        values = {
            "budget_id": alert.state.budget.budget_id,
            "start_ms": alert.state.start_ms,
            "percent": alert.percent,
            "at_ms": at_ms,
        }
        try:
            async with self._engine.begin() as connection:
                await connection.execute(insert(_alerts).values(values))
        except IntegrityError:
            return  # it is remembered

    async def accounts(self, now_ms: int) -> list[Account]:
        """Where every budget stands, those that keys were created with among them."""
        of_keys = select(_keys.c.key_id, _keys.c.tenant, _keys.c.budget_tokens).where(
            _keys.c.budget_tokens.is_not(None)
        )
        async with self._engine.connect() as connection:
            found = [_budget(row) for row in await connection.execute(select(_budgets))]
            for row in await connection.execute(of_keys):
                found.append(budget_of_key(KeyId(row.key_id), row.tenant, row.budget_tokens))
            return await _standing(connection, found, now_ms)

    async def account(self, budget: Budget, now_ms: int) -> Account:
        """Where one budget stands, whether or not it is stored."""
        async with self._engine.connect() as connection:
            (account,) = await _standing(connection, [budget], now_ms)
        return account


async def _standing(connection: AsyncConnection, budgets: Sequence[Budget], now_ms: int) -> list[Account]:
    """Accounts of budgets, with one pair of queries for all of a kind whose windows begin at the same moment."""
    accounts = [Account.opened(each, now_ms) for each in budgets]
    alike: dict[tuple[tuple[str, ...], int], list[Account]] = {}
    for account in accounts:
        alike.setdefault((_kind(account.budget), account.start_ms), []).append(account)
    for (kind, start_ms), same in alike.items():
        for at in range(0, len(same), _MANY):
            part = same[at : at + _MANY]
            wanted = list({_name(each.budget): None for each in part})
            used = await _used(connection, kind, start_ms, wanted)
            held = await _held(connection, kind, start_ms, wanted)
            for account in part:
                name, unit = _name(account.budget), account.budget.unit
                account.used = used.get(name, Cost(0, 0)).of(unit)
                for grant_id, cost in held.get(name, {}).items():
                    account.reserve(grant_id, cost.of(unit))
    told = await connection.execute(select(_alerts.c.budget_id, _alerts.c.percent, _alerts.c.start_ms))
    windows = {(each.budget.budget_id, each.start_ms): each for each in accounts}
    for row in told:
        account = windows.get((row.budget_id, row.start_ms))
        if account is not None:
            account.told.add(row.percent)
    return accounts


def _kind(budget: Budget) -> tuple[str, ...]:
    """The columns by which usage is a budget's."""
    if budget.key_id is not None:
        return ("key_id",)
    return ("tenant",) if budget.team is None else ("tenant", "team")


def _name(budget: Budget) -> tuple[str, ...]:
    """What those columns hold for it."""
    if budget.key_id is not None:
        return (budget.key_id,)
    return (budget.tenant,) if budget.team is None else (budget.tenant, budget.team)


def _among(columns: Sequence[Column[str]], names: Sequence[tuple[str, ...]]) -> ColumnElement[bool]:
    if len(columns) == 1:
        return columns[0].in_([name[0] for name in names])
    return or_(*[(columns[0] == tenant) & (columns[1] == team) for tenant, team in names])


async def _used(
    connection: AsyncConnection, kind: tuple[str, ...], start_ms: int, names: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], Cost]:
    columns = [_usage.c[column] for column in kind]
    # Rows of earlier versions do not say when they were admitted.
    admitted = (_usage.c.admitted_ms >= start_ms) | (_usage.c.admitted_ms.is_(None) & (_usage.c.settled_ms >= start_ms))
    query = (
        select(*columns, func.sum(used_tokens), func.sum(used_micros))
        .where(_among(columns, names), admitted)
        .group_by(*columns)
    )
    rows = [tuple(row) for row in await connection.execute(query)]
    return {row[: len(kind)]: Cost(*map(int, row[len(kind) :])) for row in rows}


async def _held(
    connection: AsyncConnection, kind: tuple[str, ...], start_ms: int, names: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], dict[str, Cost]]:
    columns = [_grants.c[column] for column in kind]
    query = select(*columns, _grants.c.grant_id, _grants.c.reserved_tokens, _grants.c.reserved_micros).where(
        _among(columns, names), is_open, _grants.c.created_ms >= start_ms
    )
    found: dict[tuple[str, ...], dict[str, Cost]] = {}
    for row in [tuple(row) for row in await connection.execute(query)]:
        grant_id, tokens, micros = row[len(kind) :]
        found.setdefault(row[: len(kind)], {})[grant_id] = Cost(int(tokens), int(micros))
    return found


async def _forget(connection: AsyncConnection, budget_id: str) -> None:
    await connection.execute(delete(_budgets).where(_budgets.c.budget_id == budget_id))
    await connection.execute(delete(_alerts).where(_alerts.c.budget_id == budget_id))


def _row(budget: Budget) -> dict[str, object]:
    return {
        "budget_id": budget.budget_id,
        "tenant": budget.tenant,
        "team": budget.team,
        "key_id": budget.key_id,
        "unit": budget.unit.value,
        "amount": budget.amount,
        "window": budget.window.value,
        "anchor_ms": budget.anchor_ms,
        "every_s": budget.every_s,
        "alerts": " ".join(str(percent) for percent in budget.alerts),
        "hard": budget.hard,
        "created_ms": budget.created_ms,
    }


def _budget(row: "Row[tuple[object, ...]]") -> Budget:
    return Budget(
        budget_id=row.budget_id,
        tenant=row.tenant,
        team=row.team,
        key_id=row.key_id,
        unit=Unit(row.unit),
        amount=row.amount,
        window=Window(row.window),
        anchor_ms=row.anchor_ms,
        every_s=row.every_s,
        alerts=tuple(int(percent) for percent in row.alerts.split()),
        hard=row.hard,
        created_ms=row.created_ms,
    )
