"""Settlements while the ledger is away: each is handed in until it is taken, and none keeps another from it."""

import asyncio
import logging

import pytest

from deployments.clock import FixedClock
from deployments.errors import InvalidRequest, PartUnavailable
from deployments.ingress import settling
from deployments.ingress.settling import Settler
from deployments.ports import Grant, KeyId, ModelId, RequestId, Served, TenantId, Tier, Usage
from tests.fakes_ledger import InMemoryLedger

SERVED = Served(ModelId("small"), Tier.BASE, "short", "ok")


def grant(number: int) -> Grant:
    return Grant(f"grant_{number}", TenantId("acme"), KeyId("key_1"), 100, RequestId(f"r{number}"), ModelId("auto"))


class Away(InMemoryLedger):
    """Takes settlements unless it is `away`; never that of a grant in `refused`. `tried` are all attempts."""

    def __init__(self) -> None:
        super().__init__(FixedClock())
        self.away = True
        self.refused = set[str]()
        self.wrong = set[str]()
        self.tried: list[str] = []
        self.taken: list[tuple[str, Usage, Served | None]] = []
        self.at_once = self.most_at_once = 0

    async def settle(self, grant: Grant, usage: Usage, served: Served | None = None) -> None:
        self.tried.append(grant.grant_id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if grant.grant_id in self.wrong:
            raise InvalidRequest("No such thing.")
        if self.away or grant.grant_id in self.refused:
            raise PartUnavailable("The key ledger is not available.")
        self.taken.append((grant.grant_id, usage, served))


class House:
    def __init__(self, most: int = 1000) -> None:
        self.clock = FixedClock()
        self.ledger = Away()
        self.settler = Settler(self.ledger, self.clock, most)

    async def settle(self, *numbers: int) -> None:
        for number in numbers:
            await self.settler.settle(grant(number), Usage(input_tokens=number, output_tokens=1), SERVED)

    def settled(self) -> list[str]:
        return [grant_id for grant_id, _, _ in self.ledger.taken]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses end at the next turn of the loop."""
    monkeypatch.setattr(settling, "_FIRST_S", 0.0)
    monkeypatch.setattr(settling, "_LONGEST_S", 0.0)


async def tried(house: House, count: int) -> None:
    async with asyncio.timeout(10):
        while len(house.ledger.tried) < count:
            await asyncio.sleep(0)


async def test_a_ledger_that_answers_hears_of_each_grant_once() -> None:
    house = House()
    house.ledger.away = False
    await house.settle(1, 2, 3)
    assert house.ledger.tried == house.settled() == ["grant_1", "grant_2", "grant_3"]
    assert house.ledger.taken[0][1:] == (Usage(input_tokens=1, output_tokens=1), SERVED)
    assert (house.settler.waiting, house.settler.left) == (0, 0)


async def test_what_the_ledger_did_not_take_waits_until_it_is_back() -> None:
    house = House()
    await house.settle(*range(200))
    assert house.settler.waiting == 200
    await tried(house, len(house.ledger.tried) + 50)
    house.ledger.away = False
    await house.settler.drain()
    assert sorted(house.settled()) == sorted(f"grant_{number}" for number in range(200))
    assert {grant_id: usage.input_tokens for grant_id, usage, _ in house.ledger.taken} == {
        f"grant_{number}": number for number in range(200)
    }
    assert all(served == SERVED for _, _, served in house.ledger.taken)
    assert (house.settler.waiting, house.settler.left) == (0, 0)


async def test_a_ledger_that_is_away_is_asked_one_at_a_time_and_one_that_is_back_for_many() -> None:
    house = House()
    await house.settle(*range(200))
    house.ledger.most_at_once = 0
    await tried(house, len(house.ledger.tried) + 30)
    assert house.ledger.most_at_once == 1
    house.ledger.away = False
    await house.settler.drain()
    assert house.ledger.most_at_once == 64


async def test_one_that_is_never_taken_keeps_no_other_from_it(caplog: pytest.LogCaptureFixture) -> None:
    house = House()
    house.ledger.refused = {"grant_0"}
    await house.settle(0, 1, 2)
    house.ledger.away = False
    await tried(house, 20)
    assert sorted(house.settled()) == ["grant_1", "grant_2"]
    assert house.settler.waiting == 1
    await house.settle(3)
    assert "grant_3" in house.settled()
    house.clock.advance(3_601_000)  # an estimate was charged long ago
    with caplog.at_level(logging.CRITICAL):
        await house.settler.drain()
    assert (house.settler.waiting, house.settler.left) == (0, 1)
    assert "grant_0" in caplog.text


async def test_what_the_ledger_has_heard_and_refused_is_not_said_again(caplog: pytest.LogCaptureFixture) -> None:
    house = House()
    house.ledger.wrong = {"grant_1"}
    with caplog.at_level(logging.CRITICAL):
        await house.settle(1)
    assert house.ledger.tried == ["grant_1"]
    assert (house.settler.waiting, house.settler.left) == (0, 1)
    assert "grant_1" in caplog.text


async def test_the_oldest_gives_way_when_more_wait_than_may() -> None:
    house = House(most=3)
    await house.settle(*range(5))
    assert (house.settler.waiting, house.settler.left) == (3, 2)
    house.ledger.away = False
    await house.settler.drain()
    assert set(house.settled()) >= {"grant_2", "grant_3", "grant_4"}
    assert house.settler.waiting == 0


async def test_after_one_silence_is_over_the_next_one_is_waited_for_too() -> None:
    house = House()
    for number in range(3):
        house.ledger.away = True
        await house.settle(number)
        assert house.settler.waiting == 1
        house.ledger.away = False
        await house.settler.drain()
    assert house.settled() == ["grant_0", "grant_1", "grant_2"]
