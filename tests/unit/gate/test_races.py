"""Races at the desk, over both stores: one winner, one end, one story in the log.

`GATEHOUSE_FULL_RACES=1` runs 10,000 races for the one release; the unit tier a few hundred.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace

import pytest

from deployments.errors import GatehouseError, NotFound
from deployments.gate import states
from deployments.gate.binding import subject_digest
from deployments.ports import (
    Approval,
    ApprovalId,
    ApprovalState,
    AuditEvent,
    Permit,
    Receipt,
    Risk,
    StoredRecord,
)
from tests.unit.gate.desks import BreakableAudit, World
from tests.unit.gate.test_approvals import AGENT, BOB, CAROL, DAN, PLAN, ROOT, proposal, seen

FULL = bool(os.environ.get("GATEHOUSE_FULL_RACES"))
RACES = 10_000 if FULL else 120
WORKERS, REPLICAS = 64, 4
pytestmark = pytest.mark.timeout(4 * 3600 if FULL else 300)
MIXED = 500 if FULL else 25


@pytest.fixture
async def at(store_url: str) -> AsyncIterator[World]:
    world = await World(store_url).open()
    yield world
    await world.close()


class ShortLog(BreakableAudit):
    """A log without proofs, so that what takes time is the store."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []

    async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        await asyncio.sleep(0)
        self.ids += [event.event_id for event in events]
        return [Receipt(len(self.ids), bytes(32)) for _ in events]

    async def find(self, event_id: str) -> StoredRecord:
        if event_id in self.ids[-1000:]:
            return StoredRecord(Receipt(0, bytes(32)), b"")
        raise NotFound("The log has no such event.")


async def approved(world: World, number: int, arguments: str) -> Approval:
    """An approved request, put into the store as its moves would have left it."""
    made = proposal(number, arguments=arguments)
    now_ms = world.clock.now_ms()
    opened = Approval(
        ApprovalId(f"apr_{number}"), ApprovalState.NEEDS_PLAN, made, 1, (), None, None, now_ms, now_ms + 10**9
    )
    waiting = states.planned(opened, AGENT, "CHG-1", PLAN)
    found = states.voted(waiting, BOB, seen(waiting), True, "", now_ms)
    subject = subject_digest(made.tenant, made.requester_key, made.session, made.tool, made.arguments)
    async with world.stores[0].adding(found, subject) as added:
        assert added
    return found


async def test_of_64_workers_exactly_one_gets_each_release(at: World) -> None:
    """The workers share a queue of approved calls: each call is asked for several times, by whoever comes to it."""
    at.audit = log = ShortLog()
    desks = [at.another() for _ in range(REPLICAS)]
    numbers = iter(range(10**6, 10**9))
    for begin in range(0, RACES, WORKERS):
        calls = [f'{{"command":"kubectl delete namespace n{n}"}}' for n in range(begin, min(begin + WORKERS, RACES))]
        won = {(await approved(at, begin + n + 1, each)).approval_id: 0 for n, each in enumerate(calls)}
        asked = [each for each in calls for _ in range(3)]
        random.Random(begin).shuffle(asked)

        async def work(worker: int, asked: list[str], won: dict[ApprovalId, int]) -> None:
            while asked:
                number, arguments = next(numbers), asked.pop()
                made = replace(proposal(number, arguments=arguments), call_id=f"call_{number:08x}")
                found = await desks[worker % REPLICAS].propose(made)
                if isinstance(found, Permit):
                    won[found.approval_id] += 1

        await asyncio.gather(*(work(worker, asked, won) for worker in range(WORKERS)))
        assert set(won.values()) == {1}
    consumed = [each for each in log.ids if each.endswith(".permit.consumed")]
    assert len(consumed) == len(set(consumed)) == RACES


async def test_64_at_once_for_one_release(at: World) -> None:
    desks = [at.another() for _ in range(REPLICAS)]
    for race in range(RACES // 60):
        arguments = f'{{"command":"kubectl delete namespace m{race}"}}'
        approval = await at.approved(Risk.R3, arguments)
        found = await asyncio.gather(
            *(desks[n % REPLICAS].propose(proposal(10_000 + 100 * race + n, Risk.R3, arguments=arguments))
              for n in range(WORKERS))
        )  # fmt: skip
        permits = [each for each in found if isinstance(each, Permit)]
        assert [each.approval_id for each in permits] == [approval.approval_id]
        assert len({each.approval_id for each in found if isinstance(each, Approval)}) <= 1


async def test_votes_ends_and_releases_at_once_leave_one_story(at: World) -> None:
    other = at.another()
    for race in range(MIXED):
        order = random.Random(race)
        arguments = f'{{"command":"kubectl delete namespace v{race}"}}'
        approval = await at.planned(Risk.R3, arguments)
        at_once: list[Awaitable[object]] = [
            at.desk.vote(BOB, approval.approval_id, seen(approval), True, ""),
            other.vote(CAROL, approval.approval_id, seen(approval), True, ""),
            other.vote(DAN, approval.approval_id, seen(approval), order.random() < 0.7, ""),
            at.emit(Risk.R3, arguments=arguments),
            at.emit(Risk.R3, desk=other, arguments=arguments),
        ]
        if order.random() < 0.5:
            at_once.append(other.cancel(AGENT, approval.approval_id, ""))
        if order.random() < 0.5:
            at_once.append(at.desk.expire(BOB, approval.approval_id, ""))
        if order.random() < 0.3:
            at_once.append(at.desk.bypass(AGENT, "permit_invalid", {}, f"e{race}"))
        order.shuffle(at_once)
        done = await asyncio.gather(*at_once, return_exceptions=True)
        unexpected = [each for each in done if isinstance(each, BaseException) and not isinstance(each, GatehouseError)]
        assert unexpected == []
        after = await at.desk.get(None, approval.approval_id)
        permits = [each for each in done if isinstance(each, Permit)]
        assert len(permits) == (after.state is ApprovalState.CONSUMED)
        for each in await at.desk.frozen():
            await at.desk.unfreeze(ROOT, each.key_id, "CHG-1", "")
    assert at.broken_rules() == {}
