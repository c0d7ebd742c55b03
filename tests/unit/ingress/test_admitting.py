"""Admissions whose answer never comes: the ledger hears of their names until it has, and nothing stays set aside."""

import asyncio
from collections.abc import Sequence

import pytest

from deployments.clock import FixedClock
from deployments.errors import BudgetExceeded, PartUnavailable
from deployments.ingress import settling
from deployments.ingress.admitting import Admitting
from deployments.ingress.settling import Settler
from deployments.ports import Grant, KeyId, ModelId, Principal, RequestId, Scope, TenantId
from tests.fakes_ledger import InMemoryLedger

ADA = Principal(TenantId("acme"), KeyId("key_1"), None, frozenset({Scope.INFERENCE}), team="web")


class Mute(InMemoryLedger):
    """Gives grants, and says so unless it is `mute`; hears of nothing while it is `deaf`."""

    def __init__(self) -> None:
        super().__init__(FixedClock())
        self.mute = self.deaf = self.waits = False
        self.reached = asyncio.Event()
        self.back: list[Grant] = []
        self.told = 0

    async def admit(
        self,
        principal: Principal,
        request_id: RequestId,
        model: ModelId,
        tokens: int,
        prompt_tokens: int = 0,
        grant_id: str | None = None,
    ) -> Grant:
        grant = await super().admit(principal, request_id, model, tokens, prompt_tokens, grant_id)
        self.reached.set()
        if self.waits:
            await asyncio.Event().wait()
        if self.mute:
            raise PartUnavailable("The key ledger did not answer.")
        return grant

    async def returned(self, grants: Sequence[Grant]) -> None:
        self.told += 1
        if self.deaf:
            raise PartUnavailable("The key ledger did not answer.")
        self.back += grants
        await super().returned(grants)


class House:
    def __init__(self) -> None:
        self.ledger = Mute()
        self.settler = Settler(self.ledger, FixedClock())
        self.admitting = Admitting(self.ledger, self.settler)

    async def ask(self) -> Grant:
        return await self.admitting.admit(ADA, RequestId("r"), ModelId("auto"), 10, 4)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses end at the next turn of the loop."""
    monkeypatch.setattr(settling, "_FIRST_S", 0.0)
    monkeypatch.setattr(settling, "_LONGEST_S", 0.0)


async def test_each_admission_has_a_name_of_its_own_and_none_is_given_back() -> None:
    house = House()
    grants = [await house.ask() for _ in range(5)]
    await house.settler.drain()
    assert len({grant.grant_id for grant in grants}) == 5
    assert house.ledger.grants.keys() == {grant.grant_id for grant in grants}
    assert house.ledger.told == 0


async def test_what_was_given_without_a_word_is_given_back_once_the_ledger_hears_again() -> None:
    house = House()
    house.ledger.mute = house.ledger.deaf = True
    with pytest.raises(PartUnavailable):
        await house.ask()
    while house.ledger.told < 3:
        await asyncio.sleep(0)
    assert len(house.ledger.grants) == 1
    house.ledger.deaf = False
    await house.settler.drain()
    assert house.ledger.grants == {}
    [back] = house.ledger.back
    assert (back.tenant, back.key_id, back.team, back.model) == ("acme", "key_1", "web", "auto")
    assert house.ledger.settled == {}, "it is no request that used nothing"


async def test_whoever_stops_waiting_leaves_nothing_set_aside() -> None:
    house = House()
    house.ledger.waits = True
    asking = asyncio.create_task(house.ask())
    await house.ledger.reached.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await house.settler.drain()
    assert house.ledger.grants == {}
    assert len(house.ledger.back) == 1


async def test_what_the_ledger_refuses_is_not_given_back() -> None:
    house = House()
    house.ledger.add_key("gh-ada", budget_tokens=1)
    ada = await house.ledger.authenticate("gh-ada")
    with pytest.raises(BudgetExceeded):
        await house.admitting.admit(ada, RequestId("r"), ModelId("auto"), 10)
    await house.settler.drain()
    assert house.ledger.told == 0
