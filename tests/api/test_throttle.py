"""An address that presents many wrong keys, on the real app over fakes."""

from dataclasses import replace

import httpx2
import pytest

from deployments.clock import FixedClock
from deployments.ingress.settings import IngressSettings
from serve_app.api.factory import create_api
from tests.api.answering import ALL, answering

CHAT = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}


class World:
    def __init__(self, hops: int = 0) -> None:
        surface = answering().surface()
        self.clock = FixedClock()
        settings = surface.settings.model_copy(update={"wrong_keys_per_minute": 3, "forwarded_hops": hops})
        assert isinstance(settings, IngressSettings)
        self.app = create_api(replace(surface, settings=settings, clock=self.clock))

    async def ask(
        self, key: str, source: str = "10.0.0.9", path: str = "/v1/chat/completions", **headers: str
    ) -> httpx2.Response:
        transport = httpx2.ASGITransport(self.app, client=(source, 1))
        async with httpx2.AsyncClient(transport=transport, base_url="http://gatehouse") as client:
            return await client.post(path, json=CHAT, headers={"authorization": f"Bearer {key}", **headers})


@pytest.fixture
def world() -> World:
    return World()


async def _exhaust(world: World, source: str = "10.0.0.9", **headers: str) -> None:
    for number in range(3):
        assert (await world.ask(f"gh-wrong{number}", source, **headers)).status_code == 401


async def test_after_too_many_wrong_keys_an_address_waits(world: World) -> None:
    await _exhaust(world)
    reply = await world.ask("gh-wrong-again")
    assert reply.status_code == 429
    assert reply.headers["retry-after"] == "20"
    assert reply.json()["error"]["code"] == "rate_limit_exceeded"
    assert reply.json()["error"]["message"].endswith("Please try again in 20s.")
    assert "gh-wrong" not in reply.text
    world.clock.advance(20_000)
    assert (await world.ask("gh-wrong-again")).status_code == 401
    assert (await world.ask("gh-wrong-again")).status_code == 429


async def test_other_addresses_do_not_wait(world: World) -> None:
    await _exhaust(world)
    assert (await world.ask(ALL, "10.0.0.10")).status_code == 200
    assert (await world.ask("gh-wrong", "10.0.0.10")).status_code == 401


async def test_who_worked_before_goes_on_working(world: World) -> None:
    assert (await world.ask(ALL)).status_code == 200
    await _exhaust(world)
    assert (await world.ask(ALL)).status_code == 200
    assert (await world.ask("gh-wrong")).status_code == 429


async def test_a_public_page_makes_no_key_a_good_one(world: World) -> None:
    transport = httpx2.ASGITransport(world.app, client=("10.0.0.9", 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://gatehouse") as client:
        assert (await client.get("/healthz", headers={"authorization": "Bearer gh-next"})).status_code == 200
    await _exhaust(world)
    assert (await world.ask("gh-next")).status_code == 429


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/admin/keys"])
async def test_every_dialect_says_so_in_its_own_words(world: World, path: str) -> None:
    await _exhaust(world)
    reply = await world.ask("gh-wrong", path=path)
    assert reply.status_code == 429
    error = reply.json()["error"]
    assert (error["type"] if path == "/v1/messages" else error["code"]).startswith("rate_limit")


async def test_a_forwarded_address_is_believed_only_from_our_own_proxies() -> None:
    trusting, plain = World(hops=1), World()
    forged = {"x-forwarded-for": "1.2.3.4, 203.0.113.7"}
    for world in (trusting, plain):
        await _exhaust(world, **forged)
    elsewhere = {"x-forwarded-for": "203.0.113.7, 198.51.100.1"}  # the last entry is the one our proxy wrote
    assert (await trusting.ask("gh-wrong", **elsewhere)).status_code == 401
    assert (await trusting.ask("gh-wrong", **forged)).status_code == 429
    assert (await plain.ask("gh-wrong", **elsewhere)).status_code == 429
