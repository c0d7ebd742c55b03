"""Limits per minute and at once of keys, teams, tenants and models, over the real ledger."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deployments.clock import FixedClock
from deployments.errors import QuotaExceeded
from deployments.ports import Grant, KeySpec, LimitKind, ModelId, Principal, RateLimits, RequestId, TenantId, Usage
from deployments.store import open_store, sqlite_url
from deployments.tenancy.ledger import KeyLedger
from deployments.tenancy.settings import RateLimitSettings, TeamSettings, TenancySettings, TenantSettings
from deployments.tenancy.store import TenancyStore
from tests.fakes_audit import InMemoryAudit

ACME = TenantId("acme")
SMALL, LARGE = ModelId("demo-20b"), ModelId("demo-120b")
NONE = RateLimits()
SETTINGS = TenancySettings(
    max_concurrent_requests=50,
    grant_ttl_s=60,
    tenants={
        "acme": TenantSettings(
            limits=RateLimitSettings(concurrent_requests=4),
            teams={"web": TeamSettings(requests_per_minute=3), "ops": TeamSettings(concurrent_requests=2)},
            models={"demo-120b": RateLimitSettings(tokens_per_minute=1000)},
        )
    },
)


class World:
    def __init__(self, directory: Path) -> None:
        self.clock = FixedClock()
        self.audit = InMemoryAudit()
        self.store = TenancyStore(open_store(sqlite_url(directory / "tenancy.db")))
        self.ledger = KeyLedger(self.store, b"p" * 32, self.clock, self.audit, SETTINGS)

    async def key(self, team: str | None = None, limits: RateLimits = NONE, tenant: TenantId = ACME) -> Principal:
        created = await self.ledger.create_key(KeySpec(tenant=tenant, name="agent", team=team, limits=limits))
        return await self.ledger.authenticate(created.presented)

    async def admit(self, principal: Principal, tokens: int = 10, model: ModelId = SMALL) -> Grant:
        return await self.ledger.admit(principal, RequestId("req"), model, tokens)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.ledger.open()
    yield world
    await world.ledger.drain()
    await world.store.close()


async def test_a_key_has_its_own_requests_per_minute(world: World) -> None:
    mine, other = await world.key(limits=RateLimits(requests_per_minute=2)), await world.key()
    await world.ledger.settle(await world.admit(mine), Usage())
    await world.ledger.settle(await world.admit(mine), Usage())  # over, and counted all the same
    with pytest.raises(QuotaExceeded) as caught:
        await world.admit(mine)
    assert caught.value.public_message.endswith("Please try again in 30s.")
    assert f"2 requests per minute reached for key {mine.key_id}" in caught.value.public_message
    assert caught.value.retry_after_s == 30
    assert caught.value.limit is not None
    assert (caught.value.limit.kind, caught.value.limit.limit) == (LimitKind.REQUESTS, 2)
    assert caught.value.limit.remaining == 0
    await world.admit(other)
    world.clock.advance(30_000)
    await world.admit(mine)


async def test_tokens_that_were_set_aside_and_not_used_are_free_again(world: World) -> None:
    mine = await world.key(limits=RateLimits(tokens_per_minute=1000))
    grant = await world.admit(mine, 900)
    with pytest.raises(QuotaExceeded):
        await world.admit(mine, 900)
    await world.ledger.settle(grant, Usage(input_tokens=60, output_tokens=40))
    await world.ledger.settle(grant, Usage(input_tokens=60, output_tokens=40))  # twice is once
    again = await world.admit(mine, 900)
    assert [(each.limit, each.remaining) for each in again.limits if each.kind is LimitKind.TOKENS] == [(1000, 0)]
    with pytest.raises(QuotaExceeded):
        await world.admit(mine, 1)


async def test_a_refusal_counts_nowhere(world: World) -> None:
    """A request that the team's limit refuses takes nothing from the key's."""
    mine = await world.key(team="web", limits=RateLimits(requests_per_minute=100))
    for _ in range(3):
        await world.ledger.settle(await world.admit(mine), Usage())
    for _ in range(200):
        with pytest.raises(QuotaExceeded, match="team acme/web"):
            await world.admit(mine)
    world.clock.advance(20_000)
    [limit, *_] = (await world.admit(mine)).limits
    assert (limit.limit, limit.remaining) == (3, 0)


async def test_keys_of_a_team_share_its_limit_and_other_teams_do_not(world: World) -> None:
    first, second, outsider = await world.key("ops"), await world.key("ops"), await world.key("web")
    await world.admit(first)
    await world.admit(second)
    for principal in (first, second):
        with pytest.raises(QuotaExceeded, match="Concurrency limit of 2 requests reached for team acme/ops"):
            await world.admit(principal)
    await world.admit(outsider)
    stranger = await world.key("ops", tenant=TenantId("other"))  # a team of the same name is another one
    for _ in range(3):
        await world.admit(stranger)


async def test_a_tenant_has_a_limit_over_all_its_teams(world: World) -> None:
    keys = [await world.key("ops"), await world.key("web"), await world.key(), await world.key()]
    grants = [await world.admit(each) for each in keys]
    with pytest.raises(QuotaExceeded, match="for tenant acme"):
        await world.admit(keys[2])
    await world.ledger.settle(grants[0], Usage())
    await world.admit(keys[2])


async def test_a_model_has_a_limit_of_its_own(world: World) -> None:
    mine = await world.key()
    await world.ledger.settle(await world.admit(mine, 1000, LARGE), Usage(input_tokens=1000))
    with pytest.raises(QuotaExceeded, match="model demo-120b of tenant acme"):
        await world.admit(mine, 10, LARGE)
    await world.admit(mine, 5000, SMALL)


async def test_open_requests_are_counted_again_after_a_restart(world: World, tmp_path: Path) -> None:
    mine = await world.key("ops")
    kept = await world.admit(mine)
    await world.ledger.settle(await world.admit(mine), Usage())
    await world.ledger.drain()
    again = World(tmp_path)
    again.clock = world.clock
    await again.ledger.open()
    second = await again.admit(mine)
    with pytest.raises(QuotaExceeded, match="team acme/ops"):
        await again.admit(mine)
    await again.ledger.settle(kept, Usage())
    await again.admit(mine)
    await again.ledger.settle(second, Usage())
    await again.ledger.drain()
    await again.store.close()


async def test_what_nobody_settles_stops_counting_as_open(world: World) -> None:
    mine = await world.key("ops")
    await world.admit(mine)
    await world.admit(mine)
    world.clock.advance(59_999)
    with pytest.raises(QuotaExceeded):
        await world.admit(mine)
    world.clock.advance(1)
    await world.admit(mine)


async def test_the_headers_tell_of_the_tightest_limit_of_each_kind(world: World) -> None:
    mine = await world.key("web", RateLimits(requests_per_minute=50, tokens_per_minute=500, concurrent_requests=30))
    grant = await world.admit(mine, 100, LARGE)
    assert [(each.kind, each.limit, each.remaining) for each in grant.limits] == [
        (LimitKind.REQUESTS, 3, 2),
        (LimitKind.TOKENS, 500, 400),
    ]
    assert grant.limits[1].reset_s == 12
