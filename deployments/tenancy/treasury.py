"""Budgets in force: set and removed while requests come in, told of in time, and freed of requests nobody settles."""

import asyncio
import logging
import secrets
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from deployments.clock import Clock
from deployments.errors import BudgetExceeded, GatehouseError, InvalidRequest, NotFound
from deployments.ports import (
    Audit,
    AuditEvent,
    Budget,
    BudgetState,
    Grant,
    JsonValue,
    Limit,
    Served,
    TenantId,
    Usage,
)
from deployments.tasks import Tasks
from deployments.tenancy.admission import bearer_names
from deployments.tenancy.budgets import OF_KEY, Account, Alert, Booking, Budgets, Cost
from deployments.tenancy.grants import GrantWriter
from deployments.tenancy.store import LOST, Settled, TenancyStore

_log = logging.getLogger("gatehouse.tenancy")
_SWEEP_MS = 60_000
_SWEPT_AT_ONCE = 500


class Treasury:
    """The budgets of one ledger. `check` and `reserve` await nothing: what is asked at once is counted one by one."""

    def __init__(
        self, store: TenancyStore, writer: GrantWriter, clock: Clock, audit: Audit, grant_ttl_s: int, currency: str
    ) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._audit = audit
        self._grant_ttl_ms = grant_ttl_s * 1000
        self._budgets = Budgets(currency)
        self._tasks = Tasks()
        self._swept_ms = 0
        self._changes = asyncio.Lock()
        # Cleared while a budget is set: what it counts must not change meanwhile.
        self._still = asyncio.Event()
        self._still.set()

    async def open(self) -> None:
        """Take over what the books say."""
        self._swept_ms = self._clock.now_ms()
        self._budgets.put(await self._store.budgets.accounts(self._clock.now_ms()))

    async def steady(self) -> None:
        """Return when no budget is being set; before every admission."""
        await self._still.wait()
        now_ms = self._clock.now_ms()
        if now_ms - self._swept_ms >= min(_SWEEP_MS, self._grant_ttl_ms):
            self._swept_ms = now_ms
            self._tasks.begin(self._estimate_lost(now_ms - self._grant_ttl_ms))

    def check(self, grant: Grant) -> None:
        """Raise `BudgetExceeded` when one of the budgets of a grant does not hold it."""
        names, cost = _names(grant), _cost(grant)
        try:
            self._budgets.check(names, cost, grant.admitted_ms)
        except BudgetExceeded:
            self._tell(self._budgets.refusing(names, cost, grant.admitted_ms))
            raise

    def reserve(self, grant: Grant) -> tuple[Limit, ...]:
        """Set aside what was checked in the same step; where budgets of tokens stand now."""
        return self._budgets.reserve(_names(grant), grant.grant_id, _cost(grant), grant.admitted_ms)

    def plenty(self, grant: Grant) -> bool:
        """True when the budgets of a grant have room for many more like it."""
        return self._budgets.plenty(_names(grant), _cost(grant), grant.admitted_ms)

    def give_back(self, grant: Grant) -> None:
        """Nothing of what was set aside for a grant was used."""
        self._budgets.give_back(_names(grant), grant.grant_id, self._clock.now_ms())

    def book(self, booking: Booking) -> None:
        """Follow the books: what was used takes the place of what was set aside."""
        self._tell(self._budgets.book(_names(booking.grant), booking, self._clock.now_ms()))

    def begin(self, budget: Budget) -> None:
        """Count for a key that is not good yet."""
        self._budgets.put([Account.opened(budget, self._clock.now_ms())])

    async def put(self, budget: Budget, actor: str) -> BudgetState:
        """Set a budget, in place of the one with its id; what was used in its window, and is open, counts at once."""
        if budget.budget_id.startswith(OF_KEY):
            raise InvalidRequest("Budgets of this name are what keys were created with.", "budget_id")
        now_ms = self._clock.now_ms()
        await self._record("budget.set", budget, actor, now_ms)

        async def put() -> BudgetState:
            await self._store.budgets.put(budget)
            account = await self._store.budgets.account(budget, now_ms)
            return self._budgets.put([account])[0]

        async with self._changes:
            self._still.clear()
            try:
                return await self._writer.alone(put)
            finally:
                self._still.set()

    async def remove(self, budget_id: str, actor: str) -> None:
        """End a budget; `NotFound` for an unknown id, `InvalidRequest` for what a key was created with."""
        now_ms = self._clock.now_ms()
        state = self._budgets.state(budget_id, now_ms)
        if state is None:
            raise NotFound(f"No budget '{budget_id}'.")
        if budget_id.startswith(OF_KEY):
            raise InvalidRequest("This is what the key was created with, and ends with the key.")
        await self._record("budget.removed", state.budget, actor, now_ms)
        await self._store.budgets.remove(budget_id)
        self._budgets.remove(budget_id)

    def states(self, tenant: TenantId | None) -> Sequence[BudgetState]:
        """Where the budgets of a tenant, or of everybody, stand."""
        found = self._budgets.states(self._clock.now_ms())
        return [each for each in found if tenant is None or each.budget.tenant == tenant]

    async def drain(self) -> None:
        """Return when everything that was begun is done."""
        await self._tasks.drain()

    async def _estimate_lost(self, before_ms: int) -> None:
        """Charge what was set aside for requests that were never settled; a settlement that still comes replaces it."""
        try:
            while lost := await self._store.unsettled(before_ms, _SWEPT_AT_ONCE):
                _log.warning("%d requests were never settled: they are charged what was set aside for them", len(lost))
                now_ms = self._clock.now_ms()
                await asyncio.gather(*(self._writer.settle(_estimated(grant, now_ms)) for grant in lost))
        except (SQLAlchemyError, OSError, GatehouseError) as error:
            _log.error("requests that were never settled were not looked for: %s", type(error).__name__)

    def _tell(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            self._tasks.begin(self._alert(alert))

    async def _alert(self, alert: Alert) -> None:
        """Once a window: on record first, then remembered as told."""
        state, now_ms = alert.state, self._clock.now_ms()
        budget = state.budget
        _log.warning("the budget %s of %s has reached %d %%", budget.budget_id, budget.bearer, alert.percent)
        data: dict[str, JsonValue] = {
            **_told_of(budget),
            "percent": alert.percent,
            "used": state.used,
            "reserved": state.reserved,
            "window_start_ms": state.start_ms,
        }
        event_id = f"budget.alert:{budget.budget_id}:{budget.created_ms}:{state.start_ms}:{alert.percent}"
        event = AuditEvent(event_id, "budget.alert", now_ms, TenantId(budget.tenant), "system", data=data)
        try:
            await self._audit.append([event])
            await self._store.budgets.told(alert, now_ms)
        except (SQLAlchemyError, OSError, GatehouseError) as error:
            _log.error("nobody was told of the budget %s: %s", budget.budget_id, type(error).__name__)
            self._budgets.untold(alert)

    async def _record(self, name: str, budget: Budget, actor: str, now_ms: int) -> None:
        # A fresh id per attempt: when the store fails after the record, the second attempt is a second event.
        event_id = f"{name}:{budget.budget_id}:{secrets.token_hex(8)}"
        event = AuditEvent(event_id, name, now_ms, TenantId(budget.tenant), actor, data=_told_of(budget))
        await self._audit.append([event])


def _names(grant: Grant) -> tuple[str, ...]:
    """Whose budgets a request is charged to."""
    return bearer_names(grant.key_id, grant.tenant, grant.team, grant.model)


def _cost(grant: Grant) -> Cost:
    return Cost(grant.reserved_tokens, grant.reserved_micros)


def _estimated(grant: Grant, now_ms: int) -> Settled:
    """A request that was never settled has used what was set aside for it, as far as anybody knows."""
    usage = Usage(output_tokens=grant.reserved_tokens, estimated=True)
    return Settled(grant, usage, Served(grant.model, None, "", LOST), grant.reserved_micros, now_ms)


def _told_of(budget: Budget) -> dict[str, JsonValue]:
    return {
        "budget_id": budget.budget_id,
        "team": budget.team,
        "key_id": budget.key_id,
        "unit": budget.unit.value,
        "amount": budget.amount,
        "window": budget.window.value,
        "every_s": budget.every_s,
        "anchor_ms": budget.anchor_ms,
        "alerts": " ".join(str(percent) for percent in budget.alerts),
        "hard": budget.hard,
    }
