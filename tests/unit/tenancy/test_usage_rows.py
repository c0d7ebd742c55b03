"""Reports and exports of a ledger that is settling requests meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deployments.clock import FixedClock
from deployments.ports import Grant, KeyId, KeySpec, ModelId, Principal, RequestId, Scope, Served, TenantId, Tier, Usage
from deployments.store import open_store, sqlite_url
from deployments.tenancy.grants import GrantWriter
from deployments.tenancy.ledger import KeyLedger
from deployments.tenancy.reports import UsageReports
from deployments.tenancy.settings import TenancySettings
from deployments.tenancy.store import Settled, TenancyStore
from deployments.usage import Dimension, Place, UsageQuery, UsageRow, UsageSum
from tests.fakes_audit import InMemoryAudit

BASE, STRONG = ModelId("gpt-oss-20b"), ModelId("gpt-oss-120b")
SETTINGS = TenancySettings.model_validate(
    {
        "max_concurrent_requests": 1_000,
        "prices": {
            "models": {
                BASE: {"input": "0.05", "cached_input": "0.01", "output": "0.2"},
                STRONG: {"input": "0.15", "output": "0.6"},
            }
        },
    }
)
EVERYBODY = UsageQuery(None)


class World:
    def __init__(self, directory: Path) -> None:
        self.clock = FixedClock()
        self.store = TenancyStore(open_store(sqlite_url(directory / "tenancy.db")))
        self.ledger = KeyLedger(self.store, b"p" * 32, self.clock, InMemoryAudit(), SETTINGS, strong=STRONG)

    async def principal(self, tenant: str = "acme") -> Principal:
        spec = KeySpec(TenantId(tenant), "agent", scopes=frozenset({Scope.INFERENCE}), team="web")
        return await self.ledger.authenticate((await self.ledger.create_key(spec)).presented)

    async def settled(self, principal: Principal, number: int) -> Grant:
        """A request of so many tokens, from admission to settlement."""
        grant = await self.ledger.admit(principal, RequestId(f"req_{number}"), ModelId("auto"), 10_000)
        served = Served(BASE, Tier.BASE, "easy", "completed")
        await self.ledger.settle(grant, Usage(1_000 + number, number, 10, 5), served)
        return grant

    async def export(self, after: Place | None, limit: int = 7) -> tuple[list[UsageRow], Place]:
        """All pages of an export, and where the next one begins."""
        rows, complete_ms = list[UsageRow](), None
        while True:
            page = await self.ledger.usage_rows(EVERYBODY, after, complete_ms, limit)
            rows += page.rows
            complete_ms = page.complete_ms
            if not page.more:
                return rows, Place(complete_ms)
            after = Place(page.rows[-1].settled_ms, page.rows[-1].grant_id)
            await asyncio.sleep(0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.ledger.open()
    yield world
    await world.ledger.drain()
    await world.store.close()


async def test_a_report_has_what_was_settled_and_what_it_cost(world: World) -> None:
    acme, rival = await world.principal(), await world.principal("rival")
    for number in range(3):
        await world.settled(acme, number)
    await world.settled(rival, 9)
    report = await world.ledger.usage_report(UsageQuery("acme"), (Dimension.TEAM, Dimension.SERVED_MODEL))
    # 1000 fresh tokens, up to 2 cached ones and 10 of output: 52.00, 52.01 and 52.02 millionths, each rounded up
    assert report.total == UsageSum(3, 3_003, 3, 30, 15, 52 + 53 + 53)
    assert [line.group for line in report.lines] == [("web", BASE)]
    assert report.saving is not None
    assert (report.saving.compared_with, report.saving.cost_micros) == (STRONG, 158)
    assert report.saving.would_have_cost_micros == 469  # 3003 x 0.15 + 30 x 0.6, rounded up once


async def test_exports_one_after_the_other_have_every_settlement_once(world: World) -> None:
    """Requests are settled at once and while pages are read; the clock moves when it pleases."""
    principal, place = await world.principal(), None
    rows, tasks = list[UsageRow](), list[asyncio.Task[Grant]]()
    for number in range(12):
        tasks += [asyncio.create_task(world.settled(principal, 30 * number + each)) for each in range(30)]
        if number % 3:
            world.clock.advance(1)
        found, place = await world.export(place)
        rows += found
    while not rows:  # a disk that is slower than all these exports
        await asyncio.wait([each for each in tasks if not each.done()] or tasks, return_when=asyncio.FIRST_COMPLETED)
        world.clock.advance(1)
        found, place = await world.export(place)
        rows += found
    grants = await asyncio.gather(*tasks)
    world.clock.advance(1)
    found, _ = await world.export(place)
    rows += found
    assert sorted(row.grant_id for row in rows) == sorted(grant.grant_id for grant in grants)
    assert [(row.settled_ms, row.grant_id) for row in rows] == sorted((row.settled_ms, row.grant_id) for row in rows)


class SlowStore(TenancyStore):
    """Writes when it is told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(open_store(sqlite_url(path)))
        self.writes = asyncio.Event()
        self.asked = asyncio.Event()

    async def write(self, grants: object, settlements: object) -> object:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.asked.set()
        await self.writes.wait()
        return await super().write(grants, settlements)  # pyright: ignore[reportArgumentType]


async def test_no_moment_is_complete_while_something_of_it_is_being_written(tmp_path: Path) -> None:
    store = SlowStore(tmp_path / "tenancy.db")
    await store.create_tables()
    writer = GrantWriter(store, lambda _: None)

    def settle(name: str, at_ms: int) -> "asyncio.Task[None]":
        grant = Grant(name, TenantId("acme"), KeyId("key_1"), 10, RequestId("r"), BASE)
        return asyncio.create_task(writer.settle(Settled(grant, Usage(1, 0, 1), None, 0, at_ms)))

    assert writer.complete_ms(100) == 100
    first = settle("grant_1", 150)
    await store.asked.wait()
    second = settle("grant_2", 160)
    await asyncio.sleep(0)
    assert writer.complete_ms(200) == 150
    store.writes.set()
    await asyncio.gather(first, second)
    await writer.drain()
    assert writer.complete_ms(200) == 200
    await settle("grant_3", 190)  # the clock was set back
    assert writer.complete_ms(195) == 200
    reports = UsageReports(store.engine, SETTINGS.prices.to_table(), None)
    assert (await reports.rows(EVERYBODY, Place(200), 201)).rows[0].grant_id == "grant_3"
    await writer.drain()
    await store.close()
