"""How the queue stands."""

from collections.abc import AsyncIterator

import pytest

from deployments.ports import Permit
from tests.unit.gate.desks import TTL_S, World
from tests.unit.gate.test_approvals import AGENT, BOB


@pytest.fixture
async def at(store_url: str) -> AsyncIterator[World]:
    world = await World(store_url).open()
    yield world
    await world.close()


def shell(number: int) -> str:
    return f'{{"command":"kubectl delete namespace n{number}"}}'


async def test_an_empty_queue_is_well(at: World) -> None:
    found = await at.desk.health()
    assert (found.waiting, found.oldest_s, found.approved_unused, found.unreported) == (0, None, 0, 0)
    assert (found.frozen, found.notices_waiting, found.notices_oldest_s, found.problems) == (0, 0, None, ())


async def test_everything_that_waits_is_counted_once(at: World) -> None:
    await at.opened(arguments=shell(1))
    at.clock.advance(30_000)
    await at.planned(arguments=shell(2))
    await at.approved(arguments=shell(3))
    ended = await at.opened(arguments=shell(4))
    await at.desk.cancel(AGENT, ended.approval_id, "")
    await at.approved(arguments=shell(5))
    assert isinstance(await at.emit(arguments=shell(5)), Permit)
    await at.desk.freeze(BOB, AGENT.key_id, "")
    at.clock.advance(10_000)
    found = await at.desk.health()
    assert (found.waiting, found.oldest_s, found.approved_unused) == (2, 40.0, 1)
    assert (found.frozen, found.unreported) == (1, 0)
    assert found.notices_waiting == len(
        [name for name in at.audit.names() if name.startswith(("approval.", "principal.")) and name != "approval.voted"]
    )
    at.clock.advance(at.settings.report_timeout_s * 1000)
    found = await at.desk.health()
    assert (found.waiting, found.oldest_s, found.approved_unused, found.unreported) == (0, None, 0, 1)
    await at.desk.sweep()
    assert (await at.desk.health()).unreported == 1, "an alert is no report"


async def test_a_request_whose_time_is_over_waits_for_nobody(at: World) -> None:
    await at.opened()
    at.clock.advance(TTL_S * 1000)
    assert (await at.desk.health()).waiting == 0


async def test_records_that_the_log_does_not_take_are_a_problem(at: World) -> None:
    at.audit.down = True
    await at.desk.bypass(AGENT, "permit_invalid", {}, "e1")
    assert (await at.desk.health()).problems == ()
    at.clock.advance(61_000)
    problems = (await at.desk.health()).problems
    assert "3 records wait for the audit log, the oldest for 61 s" in problems
    assert "3 messages wait for their receivers, the oldest for 61 s" in problems
    at.audit.down = False
    await at.desk.sweep()
    assert not any("records" in problem for problem in (await at.desk.health()).problems)


async def test_a_record_that_the_log_refuses_is_a_problem(at: World) -> None:
    await at.desk.bypass(AGENT, "no_such_kind", {}, "e1")
    assert "the audit log refused 1 records" in (await at.desk.health()).problems


async def test_messages_that_nobody_takes_are_a_problem(at: World) -> None:
    await at.opened()
    for notice in await at.desk.outbox.take(at.clock.now_ms(), 1000):
        await at.desk.outbox.failed(notice)
    found = await at.desk.health()
    assert (found.notices_failed, found.notices_waiting) == (1, 0)
    assert found.problems == ("1 messages were taken by no receiver",)
