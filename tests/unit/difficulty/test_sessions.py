import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from deployments.clock import FixedClock
from deployments.difficulty.memory import Decided, Evidence, Session, SessionMemory
from deployments.difficulty.sessions import Sessions
from deployments.difficulty.store import Explained, RouteRows
from deployments.errors import PartUnavailable
from deployments.ports import (
    Effort,
    RequestId,
    Risk,
    RouteExplanation,
    RouteId,
    SessionId,
    TenantId,
    Tier,
)
from deployments.store import open_store
from deployments.tasks import Rounds
from router.types import StateView
from tests.fakes_difficulty import DECISION

ACME = TenantId("acme")
IDLE_MS = 30 * 60 * 1_000


def evidence(event: str, session: str = "s1", weight: float = 1.0) -> Evidence:
    return Evidence(event, ACME, SessionId(session), Tier.BASE, weight)


def decided(turn: str, session: str = "s1", tier: Tier = Tier.BASE, **fields: bool) -> Decided:
    return Decided(ACME, SessionId(session), turn, tier, Effort.MEDIUM, **fields)


def explained(turn: str, at_ms: int = 5, session: str = "s1") -> Explained:
    decision = replace(DECISION, route_id=RouteId(turn))
    found = RouteExplanation(decision, RequestId("r"), at_ms, "general", Risk.R2, ("a",), (("b", True),), (("c", 0.5),))
    return Explained(ACME, SessionId(session), found)


class Replica:
    """One replica's sessions on a store, with the task that writes them."""

    def __init__(self, rows: RouteRows, clock: FixedClock, read_timeout_s: float = 5) -> None:
        self.rows = rows
        self.sessions = Sessions(rows, SessionMemory(100, IDLE_MS), clock, IDLE_MS, read_timeout_s)
        self.writing = Rounds()
        self.writing.begin(self.sessions.write, self.sessions.wake)

    async def view(self, session: str = "s1") -> StateView:
        return await self.sessions.view(ACME, SessionId(session))

    async def stop(self) -> None:
        await self.writing.close()
        await self.sessions.close()


@asynccontextmanager
async def replicas(url: str, count: int, clock: FixedClock) -> AsyncIterator[list[Replica]]:
    rows = [RouteRows(open_store(url)) for _ in range(count)]
    await rows[0].open()
    made = [Replica(each, clock) for each in rows]
    yield made
    for each in made:
        await each.stop()
        await each.rows.close()


async def test_a_failure_survives_the_process(any_store_url: str):
    clock = FixedClock()
    async with replicas(any_store_url, 1, clock) as (first,):
        await first.sessions.observe(evidence("e1"))
        assert (await first.view()).failures_on_base == 1
    async with replicas(any_store_url, 1, clock) as (second,):
        assert (await second.view()).failures_on_base == 1
        await second.sessions.observe(evidence("e1"))  # a retry after the crash
        assert (await second.view()).failures_on_base == 1
        clock.advance(IDLE_MS)
        assert await second.view() == StateView()


async def test_a_latch_and_its_explanation_are_written_behind_the_turn(any_store_url: str):
    clock = FixedClock()
    async with replicas(any_store_url, 1, clock) as (first,):
        first.sessions.decided(decided("route_1", tier=Tier.STRONG, latch=True), explained("route_1"))
        assert (await first.view()).latched_tier is Tier.STRONG  # at once
        await first.sessions.flush()
    async with replicas(any_store_url, 1, clock) as (second,):
        assert (await second.view()).latched_tier is Tier.STRONG
        assert await second.rows.decision(ACME, RouteId("route_1")) == explained("route_1")
        assert await second.rows.decision(TenantId("other"), RouteId("route_1")) is None


async def test_a_turn_without_a_session_is_explained_and_changes_no_memory(store_url: str):
    async with replicas(store_url, 1, FixedClock()) as (only,):
        only.sessions.decided(decided("route_1", session=""), explained("route_1", session=""))
        await only.sessions.flush()
        assert await only.rows.decision(ACME, RouteId("route_1")) is not None
        assert await only.view("") == StateView()


async def test_what_one_replica_learns_the_other_knows_at_once(postgres: str):
    from tests.unit.gate.databases import fresh_database

    async with replicas(fresh_database(postgres), 2, FixedClock()) as (one, two):
        two.sessions.decided(decided("route_1"), explained("route_1"))
        await two.sessions.flush()
        assert await two.view() == replace(StateView(), last_tier=Tier.BASE, last_effort=Effort.MEDIUM)
        await one.sessions.observe(evidence("e1"))
        assert (await two.view()).failures_on_base == 1  # although `two` remembers the session itself
        await two.sessions.observe(evidence("e1"))
        assert (await one.view()).failures_on_base == 1


async def test_no_failure_is_lost_or_counted_twice_when_replicas_write_at_once(postgres: str):
    from tests.unit.gate.databases import fresh_database

    async with replicas(fresh_database(postgres), 3, FixedClock()) as made:
        told = [
            each.sessions.observe(evidence(f"e{number}", f"s{number % 5}", 0.125))
            for number in range(40)
            for each in made  # every event reaches every replica
        ]
        await asyncio.gather(*told)
        for each in made:
            assert [(await each.view(f"s{name}")).failures_on_base for name in range(5)] == [1.0] * 5


class Silent(RouteRows):
    """A store that takes its time, or does not answer at all, until it is told to."""

    def __init__(self, url: str) -> None:
        super().__init__(open_store(url))
        self.shared = True  # so that it is asked
        self.answers = asyncio.Event()
        self.broken = False

    async def session(self, tenant: TenantId, session: SessionId, newer_than_ms: int) -> Session | None:
        if self.broken:
            raise PartUnavailable("down")
        await self.answers.wait()
        return await super().session(tenant, session, newer_than_ms)

    async def apply(
        self, changes: Sequence[Decided | Evidence], explained: Sequence[Explained], idle_release_ms: int
    ) -> Mapping[tuple[TenantId, SessionId], Session]:
        if self.broken:
            raise PartUnavailable("down")
        self.shared = False  # SQLite's way to insert
        try:
            return await super().apply(changes, explained, idle_release_ms)
        finally:
            self.shared = True


async def test_a_late_store_is_not_waited_for_and_its_silence_is_no_knowledge(store_url: str):
    rows = Silent(store_url)
    await rows.open()
    replica = Replica(rows, FixedClock(), read_timeout_s=0.01)
    assert await replica.view() == replace(StateView(), known=False)
    rows.answers.set()
    await replica.sessions.observe(evidence("e1"))
    rows.answers.clear()
    assert (await replica.view()).failures_on_base == 1  # what is remembered here has to do
    rows.answers.set()
    await replica.stop()
    await rows.close()


async def test_while_the_store_is_down_the_replica_goes_on_and_writes_it_later(store_url: str):
    rows = Silent(store_url)
    await rows.open()
    rows.answers.set()
    rows.broken = True
    replica = Replica(rows, FixedClock())
    assert not (await replica.view()).known
    telling = asyncio.create_task(replica.sessions.observe(evidence("e1")))
    await asyncio.sleep(0)
    assert (await replica.view()).failures_on_base == 1
    assert not telling.done()  # not written, not acknowledged
    rows.broken = False
    await telling
    stored = await rows.session(ACME, SessionId("s1"), 0)
    assert stored is not None
    assert stored.view().failures_on_base == 1
    await replica.stop()
    await rows.close()


async def test_whoever_waits_for_a_write_that_will_not_come_is_told(store_url: str):
    rows = Silent(store_url)
    await rows.open()
    rows.broken = True
    replica = Replica(rows, FixedClock())
    telling = asyncio.create_task(replica.sessions.observe(evidence("e1")))
    await asyncio.sleep(0)
    await replica.stop()
    with pytest.raises(PartUnavailable):
        await telling
    await rows.close()


async def test_looking_for_a_dry_run_keeps_nothing(store_url: str):
    clock = FixedClock()
    async with replicas(store_url, 1, clock) as (first,):
        await first.sessions.observe(evidence("e1"))
    async with replicas(store_url, 1, clock) as (second,):
        seen = await second.sessions.view(ACME, SessionId("s1"), keep=False)
        assert seen.failures_on_base == 1
        assert not second.sessions.has_failures(ACME, SessionId("s1"))
        await second.view()
        assert second.sessions.has_failures(ACME, SessionId("s1"))


async def test_a_row_of_a_newer_version_is_forgotten_not_fatal(store_url: str):
    from sqlalchemy import text

    async with replicas(store_url, 1, FixedClock()) as (only,):
        await only.sessions.observe(evidence("e1"))
        newer = open_store(store_url)
        async with newer.begin() as connection:
            await connection.execute(text("UPDATE route_sessions SET state = :state"), {"state": '{"format": 99}'})
        await newer.dispose()
        assert await only.rows.session(ACME, SessionId("s1"), 0) is None
        await only.sessions.observe(evidence("e2"))
        found = await only.rows.session(ACME, SessionId("s1"), 0)
        assert found is not None
        assert found.view().failures_on_base == 1


async def test_what_is_old_is_swept_and_the_rest_stays(any_store_url: str):
    clock = FixedClock()
    async with replicas(any_store_url, 1, clock) as (only,):
        await only.sessions.observe(evidence("e1", "old"))
        only.sessions.decided(decided("route_old", "old"), explained("route_old", clock.now_ms()))
        await only.sessions.flush()
        then = clock.now_ms()
        clock.advance(1_000)
        await only.sessions.observe(evidence("e2", "new"))
        only.sessions.decided(decided("route_new", "new"), explained("route_new", clock.now_ms()))
        await only.sessions.flush()
        assert await only.rows.sweep(then, then) == 2
        assert await only.rows.sweep(then, then) == 0
        assert await only.rows.session(ACME, SessionId("old"), 0) is None
        assert await only.rows.session(ACME, SessionId("new"), 0) is not None
        assert await only.rows.decision(ACME, RouteId("route_old")) is None
        assert await only.rows.decision(ACME, RouteId("route_new")) is not None
