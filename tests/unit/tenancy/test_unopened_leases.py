"""Leases that nobody opened cost nothing, however long the ledger or its database was away."""

from pathlib import Path

import pytest

from deployments.clock import FixedClock
from deployments.limits import Budget, Unit, Window
from deployments.ports import Grant, KeySpec, ModelId, Principal, RequestId, TenantId
from deployments.store import open_store, sqlite_url
from deployments.tenancy.ledger import KeyLedger
from deployments.tenancy.settings import TenancySettings
from deployments.tenancy.store import TenancyStore
from tests.fakes_audit import InMemoryAudit

ACME, MODEL, TTL_S = TenantId("acme"), ModelId("auto"), 100


class House:
    """Ledgers over one file, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.store = TenancyStore(open_store(sqlite_url(folder / "ledger.db")))
        self.clock = FixedClock()

    async def ledger(self) -> KeyLedger:
        ledger = KeyLedger(self.store, b"p" * 32, self.clock, InMemoryAudit(), TenancySettings(grant_ttl_s=TTL_S))
        await ledger.open()
        return ledger

    async def asked(self, ledger: KeyLedger, principal: Principal) -> Grant:
        """A request, after which everything is written."""
        grant = await ledger.admit(principal, RequestId("later"), MODEL, 10)
        await ledger.drain()
        return grant


@pytest.mark.parametrize("opened", [False, True])
async def test_what_a_dead_ledger_had_leased_comes_back_and_what_was_opened_is_charged(
    tmp_path: Path, opened: bool
) -> None:
    house = House(tmp_path)
    first = await house.ledger()
    created = await first.create_key(KeySpec(ACME, "agent"))
    await first.put_budget(Budget("b", ACME, None, None, Unit.TOKENS, 10_000, Window.TOTAL))
    principal = await first.authenticate(created.presented)
    leased = await first.lease(principal, MODEL, 100, 50, 4)
    assert len(leased) == 4
    if opened:
        await first.opened(leased[:1])
    await first.drain()

    house.clock.advance((TTL_S + 1) * 1000)
    second = await house.ledger()
    await house.asked(second, principal)
    house.clock.advance((TTL_S + 1) * 1000)
    later = await house.asked(second, principal)

    totals = await house.store.usage(ACME)
    (state,) = await second.budgets(ACME)
    lost = 100 * opened + 10  # the first of the two requests was never settled, either
    assert sum(total.output_tokens for total in totals) == lost
    assert (state.used, state.reserved) == (lost, later.reserved_tokens)
    await second.drain()
    await house.store.close()
