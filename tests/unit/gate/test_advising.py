"""Reviews by a model: kept beside a request, counted for nothing."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from deployments.errors import ApprovalConflict, AuditUnavailable, NotFound
from deployments.ports import Advice, ApprovalId, ApprovalState, BodyField, Effort, ModelId, RollbackPlan, TenantId
from tests.unit.gate.desks import World
from tests.unit.gate.test_approvals import AGENT, PLAN

ADVICE = Advice(ModelId("demo-120b"), Effort.HIGH, 5, "it deletes it", ("no backup", "no way back"), PLAN)


@pytest.fixture
async def at(store_url: str) -> AsyncIterator[World]:
    world = await World(store_url).open()
    yield world
    await world.close()


async def test_a_review_comes_back_as_it_went_in_and_a_later_one_takes_its_place(at: World) -> None:
    approval = await at.planned()
    assert await at.desk.advice(None, approval.approval_id) is None
    for advice in (ADVICE, replace(ADVICE, at_ms=6, summary="on second thought", plan=None)):
        await at.desk.advise(approval.approval_id, advice)
        assert await at.desk.advice(None, approval.approval_id) == advice
    assert await at.desk.get(None, approval.approval_id) == approval, "it changes nothing"
    first, second = at.audit.named("approval.advised")
    assert (first.data["model"], first.data["effort"]) == ("demo-120b", "high")
    assert first.bodies[BodyField.OUTPUT].data is None
    assert first.bodies[BodyField.OUTPUT] != second.bodies[BodyField.OUTPUT]
    assert at.broken_rules() == {}


async def test_a_review_that_is_not_on_record_is_told_when_the_log_is_back(at: World) -> None:
    approval = await at.opened()
    at.audit.down = True
    with pytest.raises(AuditUnavailable):
        await at.desk.advise(approval.approval_id, ADVICE)
    at.audit.down = False
    await at.desk.sweep()
    assert len(at.audit.named("approval.advised")) == 1


async def test_only_open_requests_are_reviewed(at: World) -> None:
    approval = await at.opened()
    await at.desk.cancel(AGENT, approval.approval_id, "")
    with pytest.raises(ApprovalConflict, match=ApprovalState.CANCELLED.value):
        await at.desk.advise(approval.approval_id, ADVICE)
    with pytest.raises(NotFound):
        await at.desk.advise(ApprovalId("apr_nobody"), ADVICE)


async def test_a_review_belongs_to_its_tenant(at: World) -> None:
    approval = await at.opened()
    await at.desk.advise(approval.approval_id, ADVICE)
    with pytest.raises(NotFound):
        await at.desk.advice(TenantId("other"), approval.approval_id)


async def test_what_a_model_writes_is_bounded(at: World) -> None:
    approval = await at.opened()
    long = replace(
        ADVICE,
        summary="x" * 100_000,
        concerns=("y" * 100_000,) * 100,
        plan=RollbackPlan(("z" * 100_000,), "v"),
        model=ModelId("m" * 1000),
    )
    await at.desk.advise(approval.approval_id, long)
    found = await at.desk.advice(None, approval.approval_id)
    assert found is not None
    assert (len(found.summary), len(found.concerns), len(found.concerns[0])) == (4000, 50, 4000)
    assert found.plan is None


async def test_two_reviews_at_once_leave_one(at: World) -> None:
    approval = await at.opened()
    desks = (at.desk, at.another())
    reviews = [replace(ADVICE, at_ms=number) for number in range(10)]
    done = await asyncio.gather(
        *(desks[n % 2].advise(approval.approval_id, each) for n, each in enumerate(reviews)), return_exceptions=True
    )
    failed = [each for each in done if each is not None]
    assert all(isinstance(each, ApprovalConflict) for each in failed)
    assert len(at.audit.named("approval.advised")) == 10 - len(failed)
    assert await at.desk.advice(None, approval.approval_id) in reviews
