import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from deployments.clock import FixedClock
from deployments.errors import BudgetExceeded, PartUnavailable, QuotaExceeded
from deployments.ports import Grant, KeyId, KeySpec, Limit, LimitKind, ModelId, Principal, RequestId, TenantId, Usage
from deployments.store import open_store, sqlite_url
from deployments.tenancy.budgets import Booking
from deployments.tenancy.ledger import KeyLedger
from deployments.tenancy.settings import TenancySettings
from deployments.tenancy.store import Entry, Settled, TenancyStore
from tests.fakes_audit import InMemoryAudit

ACME = TenantId("acme")
MODEL = ModelId("demo-20b")
TTL_S = 60


class Disk(TenancyStore):
    """A store whose process can die: a commit that had begun ends, and nothing is written afterwards."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self.dead = False
        self._writing = asyncio.Lock()

    async def die(self) -> None:
        self.dead = True
        async with self._writing:
            pass

    async def write(self, entries: Sequence[Entry], settlements: Sequence[Settled]) -> list[Booking]:
        async with self._writing:
            if self.dead:
                raise OperationalError("insert", {}, Exception("the process is gone"))
            return await super().write(entries, settlements)


class World:
    """One SQLite file, the process that has it open, and a way to lose that process."""

    def __init__(self, directory: Path, max_requests: int = 1000) -> None:
        self._engine = open_store(sqlite_url(directory / "tenancy.db"))
        self._settings = TenancySettings(max_concurrent_requests=max_requests, grant_ttl_s=TTL_S)
        self.clock = FixedClock()
        self.audit = InMemoryAudit()
        self._lost: list[KeyLedger] = []
        self.disk, self.ledger = self._process()

    def _process(self) -> tuple[Disk, KeyLedger]:
        disk = Disk(self._engine)
        return disk, KeyLedger(disk, b"p" * 32, self.clock, self.audit, self._settings)

    async def key(self, budget: int | None) -> Principal:
        created = await self.ledger.create_key(KeySpec(ACME, "agent", budget_tokens=budget))
        return await self.ledger.authenticate(created.presented)

    async def admit(self, principal: Principal, tokens: int) -> Grant:
        return await self.ledger.admit(principal, RequestId("r"), MODEL, tokens)

    async def crash(self) -> None:
        """Start again on what is on disk; what the old process had not written is lost."""
        await self.disk.die()
        self._lost.append(self.ledger)
        self.disk, self.ledger = self._process()
        await self.ledger.open()

    async def restart(self) -> None:
        """Start again after everything is on disk."""
        await self.ledger.drain()
        await self.crash()

    async def used(self, key_id: KeyId) -> int:
        """What the books say, not what the ledger remembers."""
        totals = await self.disk.usage(ACME)
        return sum(total.input_tokens + total.output_tokens for total in totals if total.key_id == key_id)

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What lies in the file."""
        async with self._engine.connect() as connection:
            return [tuple(row) for row in await connection.execute(text(query))]

    async def close(self) -> None:
        # What a lost process had begun, such as an alert, has a connection until it is done.
        for ledger in [*self._lost, self.ledger]:
            await ledger.drain()
        await self._engine.dispose()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.ledger.open()
    yield world
    await world.ledger.drain()
    await world.close()


def _tokens(grant: Grant) -> Limit:
    [limit] = [each for each in grant.limits if each.kind is LimitKind.TOKENS]
    return limit


# --- the rule ----------------------------------------------------------------------------------------------------


async def test_a_reservation_that_fills_the_budget_exactly_is_granted(world: World) -> None:
    principal = await world.key(100)
    await world.admit(principal, 60)
    assert _tokens(await world.admit(principal, 40)).remaining == 0


async def test_a_request_that_does_not_fit_is_told_what_was_used_and_what_it_may_need(world: World) -> None:
    principal = await world.key(10_000)
    await world.ledger.settle(await world.admit(principal, 9_950), Usage(input_tokens=9_000, output_tokens=950))
    with pytest.raises(BudgetExceeded) as caught:
        await world.admit(principal, 1_074)
    assert caught.value.public_message == (
        f"Budget exceeded for key {principal.key_id}: used 9950 of 10000 tokens, this request may need 1074; "
        "the budget does not reset."
    )


async def test_a_refusal_names_what_is_set_aside_for_open_requests(world: World) -> None:
    principal = await world.key(100)
    await world.admit(principal, 70)
    with pytest.raises(BudgetExceeded, match=r"used 0 of 100 tokens, 70 set aside for open requests, this .* need 31;"):
        await world.admit(principal, 31)


async def test_a_refused_request_leaves_no_trace(world: World) -> None:
    principal = await world.key(100)
    with pytest.raises(BudgetExceeded):
        await world.admit(principal, 101)
    grant = await world.admit(principal, 100)
    assert [limit.remaining for limit in grant.limits] == [999, 0]


async def test_a_settlement_gives_back_what_was_not_used(world: World) -> None:
    principal = await world.key(100)
    await world.ledger.settle(await world.admit(principal, 100), Usage(input_tokens=10, output_tokens=5))
    assert _tokens(await world.admit(principal, 50)).remaining == 35


async def test_cached_and_reasoning_tokens_are_parts_of_input_and_output(world: World) -> None:
    principal = await world.key(100)
    used = Usage(input_tokens=10, cached_tokens=8, output_tokens=5, reasoning_tokens=4)
    await world.ledger.settle(await world.admit(principal, 20), used)
    assert _tokens(await world.admit(principal, 0)).remaining == 85


async def test_usage_beyond_its_reservation_counts_in_full(world: World) -> None:
    principal = await world.key(100)
    await world.ledger.settle(await world.admit(principal, 10), Usage(output_tokens=130))
    with pytest.raises(BudgetExceeded, match="used 130 of 100 tokens"):
        await world.admit(principal, 1)


async def test_two_settlements_of_a_grant_are_counted_once(world: World) -> None:
    principal = await world.key(100)
    grant = await world.admit(principal, 50)
    await asyncio.gather(*(world.ledger.settle(grant, Usage(output_tokens=30)) for _ in range(4)))
    await world.ledger.settle(grant, Usage(output_tokens=99))
    assert _tokens(await world.admit(principal, 0)).remaining == 70


async def test_what_is_asked_at_once_is_counted_one_by_one(world: World) -> None:
    principal = await world.key(100)
    asked = await asyncio.gather(*(world.admit(principal, 30) for _ in range(10)), return_exceptions=True)
    assert [isinstance(each, Grant) for each in asked] == [True] * 3 + [False] * 7


async def test_budgets_of_keys_are_apart(world: World) -> None:
    one, other, free = await world.key(100), await world.key(100), await world.key(None)
    await world.admit(one, 100)
    await world.admit(free, 10**6)
    assert _tokens(await world.admit(other, 40)).remaining == 60


async def test_a_key_without_a_budget_shows_only_its_requests(world: World) -> None:
    grant = await world.admit(await world.key(None), 10)
    assert grant.limits == (Limit(LimitKind.REQUESTS, 1000, 999, 0),)


async def test_the_last_place_among_open_requests_is_shown_as_the_last(tmp_path: Path) -> None:
    world = World(tmp_path, max_requests=2)
    await world.ledger.open()
    principal = await world.key(100)
    grants = [await world.admit(principal, 10) for _ in range(2)]
    with pytest.raises(QuotaExceeded):
        await world.admit(principal, 10)
    await world.ledger.settle(grants[0], Usage())
    third = await world.admit(principal, 10)
    assert [grant.limits[0].remaining for grant in (*grants, third)] == [1, 0, 0]
    assert _tokens(third).remaining == 80  # the refused one set nothing aside
    await world.ledger.drain()
    await world.close()


async def test_a_spent_budget_is_said_before_a_limit_that_would_pass(tmp_path: Path) -> None:
    world = World(tmp_path, max_requests=1)
    await world.ledger.open()
    principal = await world.key(100)
    await world.admit(principal, 100)
    with pytest.raises(BudgetExceeded):
        await world.admit(principal, 1)
    await world.ledger.drain()
    await world.close()


async def test_the_tokens_of_a_request_that_nobody_settled_stay_counted(world: World) -> None:
    principal = await world.key(100)
    await world.admit(principal, 60)
    world.clock.advance(TTL_S * 1000)
    with pytest.raises(BudgetExceeded):
        await world.admit(principal, 41)
    await world.restart()
    with pytest.raises(BudgetExceeded):
        await world.admit(principal, 41)


async def test_no_number_of_a_client_or_an_upstream_breaks_the_books(world: World) -> None:
    principal = await world.key(None)
    grant = await world.admit(principal, 10**30)
    await world.ledger.settle(grant, Usage(input_tokens=-5, output_tokens=10**30))
    assert await world.used(principal.key_id) == 10**9


async def test_usage_below_zero_refills_no_budget(world: World) -> None:
    principal = await world.key(100)
    await world.ledger.settle(await world.admit(principal, 50), Usage(output_tokens=-50))
    assert _tokens(await world.admit(principal, 0)).remaining == 100


# --- restarts and a broken disk ----------------------------------------------------------------------------------


async def test_usage_and_reservations_outlive_the_process(world: World) -> None:
    principal = await world.key(100)
    await world.ledger.settle(await world.admit(principal, 40), Usage(output_tokens=25))
    still_open = await world.admit(principal, 30)
    await world.restart()
    assert _tokens(await world.admit(principal, 0)).remaining == 45
    await world.ledger.settle(still_open, Usage(output_tokens=10))
    assert _tokens(await world.admit(principal, 0)).remaining == 65


async def test_usage_of_a_grant_that_a_crash_forgot_counts_in_full(world: World) -> None:
    principal = await world.key(100)
    grant = await world.admit(principal, 60)
    await world.crash()
    await world.ledger.settle(grant, Usage(output_tokens=50))
    assert _tokens(await world.admit(principal, 0)).remaining == 50


async def test_a_settlement_that_is_sent_again_after_a_restart_is_counted_once(world: World) -> None:
    principal = await world.key(100)
    grant = await world.admit(principal, 60)
    await world.ledger.settle(grant, Usage(output_tokens=50))
    await world.restart()
    await world.ledger.settle(grant, Usage(output_tokens=50))
    assert _tokens(await world.admit(principal, 0)).remaining == 50


async def test_tokens_stay_set_aside_until_their_usage_is_on_disk(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    principal = await world.key(100)
    grant = await world.admit(principal, 60)
    await world.ledger.drain()
    monkeypatch.setattr(world.disk, "dead", True)
    with pytest.raises(PartUnavailable):
        await world.ledger.settle(grant, Usage(output_tokens=10))
    with pytest.raises(BudgetExceeded):
        await world.admit(principal, 41)
    monkeypatch.setattr(world.disk, "dead", False)
    await world.ledger.settle(grant, Usage(output_tokens=10))
    assert _tokens(await world.admit(principal, 0)).remaining == 90


async def test_a_settlement_counts_when_nobody_waits_for_it_any_more(world: World) -> None:
    principal = await world.key(100)
    grant = await world.admit(principal, 60)
    settling = asyncio.create_task(world.ledger.settle(grant, Usage(output_tokens=10)))
    await asyncio.sleep(0)
    settling.cancel()
    await asyncio.gather(settling, return_exceptions=True)
    await world.ledger.drain()
    assert _tokens(await world.admit(principal, 0)).remaining == 90


async def test_a_settlement_whose_commit_was_in_doubt_is_counted_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    principal = await world.key(100)
    grant = await world.admit(principal, 60)
    await world.ledger.drain()
    write = world.disk.write

    async def lost_answer(grants: Sequence[Entry], settlements: Sequence[Settled]) -> list[Booking]:
        await write(grants, settlements)
        raise OperationalError("commit", {}, Exception("connection lost"))

    monkeypatch.setattr(world.disk, "write", lost_answer)
    with pytest.raises(PartUnavailable):
        await world.ledger.settle(grant, Usage(output_tokens=10))
    monkeypatch.setattr(world.disk, "write", write)
    await world.ledger.settle(grant, Usage(output_tokens=99))
    assert _tokens(await world.admit(principal, 0)).remaining == 90


async def test_a_grant_whose_row_came_after_its_settlement_is_not_open(world: World) -> None:
    principal = await world.key(100)
    grant = await world.admit(principal, 60)
    await world.ledger.settle(grant, Usage(output_tokens=10))
    late = Grant("grant_late", ACME, principal.key_id, 70, RequestId("r"), MODEL, admitted_ms=world.clock.now_ms())
    await world.disk.write([], [Settled(late, Usage(output_tokens=5), None, 0, 1)])
    await world.disk.write([Entry(late)], [])
    await world.restart()
    after = await world.admit(principal, 0)
    assert [limit.remaining for limit in after.limits] == [999, 85]


async def test_admission_never_waits(world: World) -> None:
    principal = await world.key(100)
    admission = world.admit(principal, 10)
    with pytest.raises(StopIteration) as done:  # a coroutine that awaits something would be suspended instead
        admission.send(None)
    assert isinstance(done.value.value, Grant)


# --- any order ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admit:
    """Ask for `tokens`."""

    tokens: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Settle one of the grants that were ever given: `which` counts round."""

    which: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Restart:
    """Lose the process; `gently`: after all is on disk, else after so many `steps` of the loop."""

    gently: bool
    steps: int


@dataclass(slots=True)
class Books:
    """The model: what was given, and what may have been forgotten by a crash."""

    budget: int
    given: list[Grant] = field(default_factory=list[Grant])
    forgotten: set[str] = field(default_factory=set[str])
    settled: dict[str, int] = field(default_factory=dict[str, int])

    def open(self) -> int:
        """Tokens of grants that are neither settled nor forgotten."""
        gone = self.settled.keys() | self.forgotten
        return sum(grant.reserved_tokens for grant in self.given if grant.grant_id not in gone)

    def overrun(self) -> int:
        """Usage beyond reservations; a grant that a crash forgot before it was on disk reserved nothing."""
        kept = {each.grant_id: each.reserved_tokens for each in self.given if each.grant_id not in self.forgotten}
        return sum(max(0, tokens - kept.get(grant_id, 0)) for grant_id, tokens in self.settled.items())


_operations = st.one_of(
    st.builds(Admit, st.integers(0, 70)),
    st.builds(Admit, st.integers(0, 70)),
    st.builds(Settle, st.integers(0, 30), st.integers(0, 90)),
    st.builds(Restart, st.booleans(), st.integers(1, 4)),
)


async def _play(world: World, budget: int, rounds: list[list[Admit | Settle | Restart]]) -> None:
    """Do what a round holds at once, lose the process in the midst of it if the round says so, and compare."""
    await world.ledger.open()
    principal, books = await world.key(budget), Books(budget)
    for together in rounds:
        work: list[asyncio.Task[Grant | None]] = []
        losses = [each for each in together if isinstance(each, Restart)]
        for each in together:
            if isinstance(each, Admit):
                work.append(asyncio.create_task(world.admit(principal, each.tokens)))
            elif isinstance(each, Settle) and books.given:
                grant = books.given[each.which % len(books.given)]
                usage = Usage(input_tokens=each.tokens // 3, output_tokens=each.tokens - each.tokens // 3)
                work.append(asyncio.create_task(world.ledger.settle(grant, usage)))
        for _ in range(losses[0].steps if losses else 0):
            await asyncio.sleep(0)
        if losses:
            await (world.restart() if losses[0].gently else world.crash())
        done = await asyncio.gather(*work, return_exceptions=True)
        # A lost process answers nobody; whoever waited in it sees the store fail, or hears that it did.
        assert all(
            isinstance(each, Grant | BudgetExceeded | PartUnavailable | OperationalError | None) for each in done
        )
        books.given += [each for each in done if isinstance(each, Grant)]
        await world.ledger.drain()
        await _compare(world, principal, books)


async def _compare(world: World, principal: Principal, books: Books) -> None:
    used = await world.rows("SELECT grant_id, input_tokens + output_tokens FROM usage")
    known = {row[0] for row in await world.rows("SELECT grant_id FROM grants")}
    books.settled = {row[0]: row[1] for row in used}
    books.forgotten |= {grant.grant_id for grant in books.given} - known
    left = books.budget - sum(books.settled.values()) - books.open()
    assert left >= -books.overrun()
    # And the rule is as strict as it must be, not more: what is left is granted, one token more is not.
    with pytest.raises(BudgetExceeded):
        await world.admit(principal, max(0, left) + 1)
    if left >= 0:
        probe = await world.admit(principal, left)
        assert _tokens(probe).remaining == 0
        await world.ledger.settle(probe, Usage())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(budget=st.integers(1, 200), rounds=st.lists(st.lists(_operations, max_size=5), max_size=8))
@example(budget=100, rounds=[[Admit(60), Restart(False, 1)], [Settle(0, 50)], [Admit(50)]])  # a grant is forgotten
@example(budget=100, rounds=[[Admit(60)], [Settle(0, 20), Restart(False, 4)], [Settle(0, 30), Admit(40)]])
def test_no_order_of_admissions_settlements_and_crashes_overspends(
    budget: int, rounds: list[list[Admit | Settle | Restart]]
) -> None:
    async def play(directory: Path) -> None:
        world = World(directory)
        try:
            await _play(world, budget, rounds)
        finally:
            await world.close()

    with TemporaryDirectory() as directory:
        asyncio.run(play(Path(directory)))
