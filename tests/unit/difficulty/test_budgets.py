import random

import pytest

from deployments.difficulty.budgets import Budgets
from deployments.difficulty.store import RouteRows
from deployments.ports import TenantId
from deployments.store import open_store
from router.policy import Budget

ACME, OTHER = TenantId("acme"), TenantId("other")
FIFTH = Budget(target=0.2)


async def opened(url: str) -> RouteRows:
    rows = RouteRows(open_store(url))
    await rows.open()
    return rows


def turns(budgets: Budgets, draw: random.Random, count: int, centre: float, tenant: TenantId = ACME) -> int:
    """`count` turns with scores around `centre`; how many were above the threshold."""
    hits = 0
    for _ in range(count):
        view = budgets.view(tenant, FIFTH, 0)
        assert view is not None
        hit = draw.gauss(centre, 1.0) >= view.threshold
        budgets.decided(tenant, FIFTH, hit)
        hits += hit
    return hits


async def test_without_a_budget_nothing_is_proposed_or_counted(store_url: str):
    rows = await opened(store_url)
    budgets = Budgets(rows, "a")
    budgets.decided(ACME, None, True)
    budgets.spent(ACME, None, 1e9, 0)
    assert budgets.view(ACME, None, 0) is None
    await budgets.meet(0)
    assert await rows.budgets(ACME) == []
    await rows.close()


async def test_four_replicas_hold_one_share_when_the_traffic_shifts(any_store_url: str):
    rows = await opened(any_store_url)
    replicas = [Budgets(rows, f"r{number}") for number in range(4)]
    draw = random.Random(1)
    now_ms = 0
    for centre in (0.0, 3.0, -2.0):
        hits = 0
        for _ in range(25):
            now_ms += 5_000
            for each in replicas:
                hits += turns(each, draw, 12, centre)
            for each in replicas:
                await each.meet(now_ms)
        assert hits / (25 * 4 * 12) == pytest.approx(0.2, abs=0.03)
    await rows.close()


async def test_a_new_replica_starts_where_the_newest_stands(store_url: str):
    rows = await opened(store_url)
    old, new = Budgets(rows, "old"), Budgets(rows, "new")
    turns(old, random.Random(2), 400, 4.0)
    await old.meet(1)
    learned = old.view(ACME, FIFTH, 1)
    turns(new, random.Random(3), 1, -9.0)
    await new.meet(10_000_000_000)  # long after the old one is gone
    started = new.view(ACME, FIFTH, 1)
    assert learned is not None
    assert started is not None
    assert started.threshold == learned.threshold > 3
    await rows.close()


async def test_tenants_have_budgets_of_their_own(store_url: str):
    rows = await opened(store_url)
    budgets = Budgets(rows, "a")
    turns(budgets, random.Random(4), 300, 5.0)
    other = budgets.view(OTHER, FIFTH, 0)
    assert other is not None
    assert other.threshold == 0.0
    await rows.close()


async def test_the_cap_on_time_drains_and_fills_again(store_url: str):
    rows = await opened(store_url)
    budgets = Budgets(rows, "a")
    capped = Budget(target=0.2, strong_seconds_per_hour=3_600, burst_seconds=10)
    budgets.spent(ACME, capped, 9_999, 0)
    assert not budgets.view(ACME, capped, 0).drained
    budgets.spent(ACME, capped, 1_001, 0)
    assert budgets.view(ACME, capped, 0).drained
    assert budgets.view(ACME, capped, 999).drained
    assert not budgets.view(ACME, capped, 2_001).drained
    await rows.close()


async def test_another_target_goes_on_from_the_same_threshold(store_url: str):
    rows = await opened(store_url)
    budgets = Budgets(rows, "a")
    turns(budgets, random.Random(5), 300, 5.0)
    before = budgets.view(ACME, FIFTH, 0)
    after = budgets.view(ACME, Budget(target=0.5), 0)
    assert before is not None
    assert after is not None
    assert (after.target, after.threshold) == (0.5, before.threshold)
    await rows.close()


async def test_what_a_newer_version_wrote_is_passed_over(store_url: str):
    rows = await opened(store_url)
    await rows.put_budgets("newer", {ACME: '{"target": 0.2, "spin": 1}'}, 5)
    budgets = Budgets(rows, "a")
    turns(budgets, random.Random(6), 30, 0.0)
    await budgets.meet(6)
    assert [each.replica for each in await rows.budgets(ACME)] == ["a", "newer"]
    await rows.close()
