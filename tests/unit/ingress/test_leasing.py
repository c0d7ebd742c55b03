"""Leases as an ingress replica holds them: what busy keys need is at hand, and nothing that may have come back."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.clock import FixedClock
from deployments.errors import BudgetExceeded, PartUnavailable
from deployments.ingress.admitting import Admitting
from deployments.ingress.leasing import Leases, Size
from deployments.ingress.settling import Settler
from deployments.ports import LEASE_S, Grant, KeyId, ModelId, Principal, RequestId, Scope, TenantId
from tests.fakes_ledger import InMemoryLedger

ADA = Principal(TenantId("acme"), KeyId("key_1"), None, frozenset({Scope.INFERENCE}))
BOB = replace(ADA, key_id=KeyId("key_2"))
MODEL = ModelId("auto")


class Lender(InMemoryLedger):
    """Leases whatever it is asked for, unless it is `away`."""

    def __init__(self, clock: FixedClock) -> None:
        super().__init__(clock, max_requests=10**6)
        self.asked = 0
        self.leased: list[Grant] = []
        self.calls = 0
        self.heard: list[Grant] = []
        self.back: list[Grant] = []
        self.away = False
        self.spent = False

    async def admit(
        self,
        principal: Principal,
        request_id: RequestId,
        model: ModelId,
        tokens: int,
        prompt_tokens: int = 0,
        grant_id: str | None = None,
    ) -> Grant:
        self._answer()
        self.asked += 1
        if self.spent:
            raise BudgetExceeded("Spent.")
        return await super().admit(principal, request_id, model, tokens, prompt_tokens, grant_id)

    async def lease(
        self, principal: Principal, model: ModelId, tokens: int, prompt_tokens: int, count: int
    ) -> Sequence[Grant]:
        self._answer()
        self.calls += 1
        grants = [
            Grant(f"lease_{len(self.leased) + n}", principal.tenant, principal.key_id, tokens, RequestId(""), model)
            for n in range(count)
        ]
        self.leased += grants
        return grants

    async def opened(self, grants: Sequence[Grant]) -> None:
        self._answer()
        self.heard += grants

    async def returned(self, grants: Sequence[Grant]) -> None:
        self._answer()
        self.back += grants

    def _answer(self) -> None:
        if self.away:
            raise PartUnavailable("The ledger does not answer.")


class House:
    def __init__(self, most: int = 8) -> None:
        self.clock = FixedClock()
        self.ledger = Lender(self.clock)
        admitting = Admitting(self.ledger, Settler(self.ledger, self.clock))
        self.leases = Leases(self.ledger, admitting, self.clock, most)

    async def ask(self, principal: Principal = ADA, tokens: int = 100, prompt: int = 50) -> Grant:
        grant = await self.leases.admit(principal, RequestId("r"), MODEL, tokens, prompt)
        for _ in range(3):
            await asyncio.sleep(0)  # a lease that was asked for comes meanwhile
        return grant


async def test_a_first_request_asks_the_ledger_and_leases_nothing() -> None:
    house = House()
    await house.ask()
    assert (house.ledger.asked, house.ledger.leased) == (1, [])
    await house.leases.close()


async def test_a_busy_key_asks_the_ledger_less_and_less() -> None:
    house = House()
    for _ in range(100):
        await house.ask()
    assert house.ledger.asked < 10
    assert house.leases.from_leases + house.ledger.asked == 100
    assert len(house.ledger.leased) <= 108
    assert house.ledger.calls <= 30
    await house.leases.close()


async def test_a_grant_is_used_once_and_reported_under_the_id_of_its_request() -> None:
    house = House()
    used = [await house.ask() for _ in range(30)]
    await house.leases.close()
    ids = [grant.grant_id for grant in used]
    assert len(set(ids)) == 30
    leased = {grant.grant_id for grant in house.ledger.leased}
    assert [each.grant_id for each in house.ledger.heard] == [each for each in ids if each in leased]
    assert {each.request_id for each in house.ledger.heard} == {"r"}


async def test_what_is_not_used_is_given_back_at_the_end() -> None:
    house = House()
    used = {(await house.ask()).grant_id for _ in range(30)}
    await house.leases.close()
    leased = {grant.grant_id for grant in house.ledger.leased}
    assert {grant.grant_id for grant in house.ledger.back} == leased - used
    assert leased - used


async def test_a_grant_that_the_ledger_may_have_taken_back_is_not_used() -> None:
    house = House()
    for _ in range(20):
        await house.ask()
    leased = {grant.grant_id for grant in house.ledger.leased}
    house.clock.advance(int(LEASE_S * 1000) - 1)
    assert (await house.ask()).grant_id not in leased
    await house.leases.close()


async def test_keys_models_and_sizes_do_not_share_grants() -> None:
    house = House()
    for _ in range(20):
        await house.ask()
    asked = house.ledger.asked
    await house.ask(principal=BOB)
    await house.ask(tokens=10_000)
    await house.leases.admit(ADA, RequestId("r"), ModelId("other"), 100, 50)
    assert house.ledger.asked == asked + 3
    await house.leases.close()


async def test_requests_go_on_while_the_ledger_is_away_as_long_as_grants_are_good() -> None:
    house = House()
    for _ in range(20):
        await house.ask()
    house.ledger.away = True
    went_on = 0
    with pytest.raises(PartUnavailable):
        for _ in range(100):
            await house.ask()
            went_on += 1
    assert 1 <= went_on <= 8
    house.ledger.away = False
    await house.ask()
    await house.leases.close()


async def test_the_refusal_of_the_ledger_is_the_answer() -> None:
    house = House()
    house.ledger.spent = True
    with pytest.raises(BudgetExceeded):
        await house.ask()
    await house.leases.close()


async def test_leases_can_be_switched_off() -> None:
    house = House(most=0)
    for _ in range(20):
        await house.ask()
    assert (house.ledger.asked, house.ledger.leased) == (20, [])
    await house.leases.close()


@given(tokens=st.integers(0, 10**6), prompt=st.integers(0, 10**6))
def test_a_size_holds_what_it_is_for_and_no_more_than_twice_as_much(tokens: int, prompt: int) -> None:
    size = Size.of(tokens, prompt)
    inside = min(prompt, tokens)
    assert inside <= size.prompt <= max(0, 2 * inside - 1) or (inside, size.prompt) == (1, 1)
    assert tokens - inside <= size.answer <= max(1, 2 * (tokens - inside))
    assert size == Size.of(size.prompt + size.answer, size.prompt)
