"""The queue, cut to a page: whatever does not belong on it takes nobody's place, on SQLite and PostgreSQL."""

from collections.abc import AsyncIterator

import pytest

from deployments.gate import states, store
from deployments.ports import Approval, ApprovalState
from tests.unit.gate.desks import TTL_S, World
from tests.unit.gate.test_approvals import AGENT, CAROL

PAGE = 3


@pytest.fixture(name="world")
async def _world(store_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(store, "MAX_LISTED", PAGE)
    world = await World(store_url).open()
    yield world
    await world.close()


async def _cancelled(world: World, number: int) -> Approval:
    approval = await world.opened(arguments=f'{{"command":"rm {number}"}}')
    world.clock.advance(1)
    return await world.desk.cancel(AGENT, approval.approval_id, "")


async def _waiting(world: World, number: int) -> Approval:
    approval = await world.opened(arguments=f'{{"command":"rm {number}"}}')
    world.clock.advance(1)
    return approval


async def test_newer_ones_in_another_state_take_no_place(world: World) -> None:
    older = [await _waiting(world, number) for number in range(2)]
    for number in range(2, 2 + 2 * PAGE):
        await _cancelled(world, number)
    found = await world.desk.list_approvals(None, ApprovalState.NEEDS_PLAN)
    assert [each.approval_id for each in found] == [each.approval_id for each in reversed(older)]
    assert {each.state for each in found} == {ApprovalState.NEEDS_PLAN}


async def test_a_page_is_full_of_what_was_asked_for(world: World) -> None:
    gone = [await _cancelled(world, number) for number in range(2 * PAGE)]
    for number in range(2 * PAGE, 4 * PAGE):
        await _waiting(world, number)
    found = await world.desk.list_approvals(AGENT.tenant, ApprovalState.CANCELLED)
    assert [each.approval_id for each in found] == [each.approval_id for each in reversed(gone)][:PAGE]


async def test_every_state_finds_its_own(world: World) -> None:
    planned = await world.planned(arguments='{"command":"rm a"}')
    approved = await world.approved(arguments='{"command":"rm b"}')
    waiting = await _waiting(world, 1)
    cancelled = await _cancelled(world, 2)
    rejected = await world.vote(await world.planned(arguments='{"command":"rm c"}'), CAROL, approve=False)
    expected = {each.state: each.approval_id for each in (planned, approved, waiting, cancelled, rejected)}
    assert len(expected) == 5
    for state in ApprovalState:
        found = await world.desk.list_approvals(None, state)
        assert [each.approval_id for each in found] == ([expected[state]] if state in expected else [])


@pytest.mark.parametrize("log_is_down", [False, True], ids=["recorded", "not-recorded"])
async def test_at_its_end_a_request_is_listed_as_expired_and_as_nothing_else(world: World, log_is_down: bool) -> None:
    approval = await _waiting(world, 1)
    world.clock.advance(TTL_S * 1000 - 2)  # a millisecond has passed already: this is the last one
    assert len(await world.desk.list_approvals(None, ApprovalState.NEEDS_PLAN)) == 1
    assert await world.desk.list_approvals(None, ApprovalState.EXPIRED) == []
    world.clock.advance(1)
    world.audit.down = log_is_down
    assert await world.desk.list_approvals(None, ApprovalState.NEEDS_PLAN) == []
    (found,) = await world.desk.list_approvals(None, ApprovalState.EXPIRED)
    assert found.approval_id == approval.approval_id
    assert found.state is states.as_of(approval, world.clock.now_ms()).state is ApprovalState.EXPIRED
