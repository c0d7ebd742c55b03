from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from sqlalchemy import text

from deployments.difficulty.memory import Decided
from deployments.difficulty.store import Explained, RouteRows, Told
from deployments.ports import (
    Effort,
    Feedback,
    FeedbackSource,
    FeedbackVerdict,
    KeyId,
    RequestId,
    Risk,
    RouteExplanation,
    RouteId,
    SessionId,
    TenantId,
    Tier,
)
from deployments.store import open_store
from tests.fakes_difficulty import DECISION

ACME, OTHER = TenantId("acme"), TenantId("other")


@pytest.fixture
async def rows(any_store_url: str) -> AsyncIterator[RouteRows]:
    made = RouteRows(open_store(any_store_url))
    await made.open()
    yield made
    await made.close()


async def keep(rows: RouteRows, tenant: TenantId, number: int) -> None:
    route = RouteId(f"route_{number}")
    explanation = RouteExplanation(
        replace(DECISION, route_id=route), RequestId("r"), number, "general", Risk.R0, (), (), ()
    )
    turn = Decided(tenant, SessionId("s"), route, Tier.BASE, Effort.MEDIUM)
    await rows.apply([turn], [Explained(tenant, SessionId("s"), explanation)], 1_000)


def verdict(tenant: TenantId, number: int, event: str) -> Feedback:
    return Feedback(
        event, tenant, KeyId("k"), RouteId(f"route_{number}"), FeedbackVerdict.WRONG, FeedbackSource.TOOL, 0.5
    )


async def everything(rows: RouteRows, limit: int, tenant: TenantId | None = None) -> list[Told]:
    found: list[Told] = []
    after: tuple[TenantId, RouteId] | None = None
    while page := await rows.history(after, limit, tenant):
        assert len(page) <= limit
        found += page
        after = (page[-1].tenant, page[-1].route_id)
    return found


async def test_every_decision_is_read_once_whatever_the_size_of_a_page(rows: RouteRows):
    for number in range(7):
        await keep(rows, ACME, number)
        await keep(rows, OTHER, number)
    keys = [(str(tenant), f"route_{number}") for tenant in (ACME, OTHER) for number in range(7)]
    for limit in (1, 3, 5, 14, 100):
        assert [(each.tenant, each.route_id) for each in await everything(rows, limit)] == keys


async def test_verdicts_stand_with_their_own_turn_and_tenant_alone(rows: RouteRows):
    for tenant in (ACME, OTHER):
        await keep(rows, tenant, 1)
        await keep(rows, tenant, 2)
    second = verdict(ACME, 2, "late")
    for said, at_ms in ((second, 20), (verdict(ACME, 2, "early"), 10), (verdict(OTHER, 1, "late"), 30)):
        assert await rows.add_feedback(said, at_ms)
    found = {(each.tenant, each.route_id): [said.event_id for said in each.said] for each in await everything(rows, 2)}
    assert found == {
        ("acme", "route_1"): [], ("acme", "route_2"): ["early", "late"],
        ("other", "route_1"): ["late"], ("other", "route_2"): [],
    }  # fmt: skip
    own = await everything(rows, 2, OTHER)
    assert [(each.tenant, each.route_id) for each in own] == [("other", "route_1"), ("other", "route_2")]
    assert own[0].said[0].tenant == OTHER


async def test_what_another_version_wrote_is_passed_over(rows: RouteRows, any_store_url: str):
    await keep(rows, ACME, 1)
    await keep(rows, ACME, 2)
    engine = open_store(any_store_url)
    async with engine.begin() as connection:
        await connection.execute(text("update route_decisions set explanation = '{}' where route_id = 'route_1'"))
    await engine.dispose()
    first, second = await everything(rows, 10)
    assert first.explained is None
    assert second.explained is not None
    assert second.explained.explanation.at_ms == 2
