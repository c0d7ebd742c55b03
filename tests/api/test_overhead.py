"""Our own part of an answer: the time in which no call of an engine is open."""

from collections.abc import AsyncGenerator

import httpx2
import pytest

from deployments.clock import FixedClock
from deployments.errors import EngineFailed
from deployments.ports import EngineCall, EngineItem, RouteAsk, RouteDecision
from serve_app.api.factory import create_api
from tests.fakes import (
    KEY,
    ChoosingDifficulty,
    Script,
    ScriptedEngine,
    World,
    call_chunk,
    chunk,
    json_reply,
    sse,
    stream_reply,
)


class Working(ScriptedEngine):
    """Takes a second for each item of its script, and 200 ms after the last one."""

    def __init__(self, script: Script, clock: FixedClock) -> None:
        super().__init__(script)
        self._clock = clock

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        async for item in super().call(call):
            self._clock.advance(1_000)
            yield item
        self._clock.advance(200)


class Thinking(ChoosingDifficulty):
    """Decides in four milliseconds."""

    def __init__(self, clock: FixedClock) -> None:
        super().__init__()
        self._clock = clock

    async def route(self, ask: RouteAsk) -> RouteDecision:
        self._clock.advance(4)
        return await super().route(ask)


def world(script: Script) -> World:
    clock = FixedClock()
    return World(Working(script, clock), clock=clock, difficulty=Thinking(clock))


async def took(of: World, stream: bool, status: int = 200) -> tuple[float, float]:
    """How often our own part was counted, and its sum in seconds."""
    surface = of.surface()
    transport = httpx2.ASGITransport(create_api(surface))
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
        reply = await http.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"})
        assert reply.status_code == status
        await surface.journey.drain()
        text = (await http.get("/metrics")).text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    name = 'gatehouse_overhead_seconds_%s{dialect="chat"}'
    return float(lines.get(name % "count", 0)), float(lines.get(name % "sum", 0))


@pytest.mark.parametrize(
    ("script", "stream"),
    [(json_reply("hello"), False), (stream_reply(sse(chunk(content="hello"), chunk(finish="stop"))), True)],
    ids=["json", "stream"],
)
async def test_the_engines_time_is_no_part_of_it(script: Script, stream: bool) -> None:
    assert await took(world(script), stream) == (1, pytest.approx(0.004, abs=1e-6))


async def test_what_did_not_end_well_is_not_counted() -> None:
    class Broken(ScriptedEngine):
        async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
            raise EngineFailed("It broke.")
            yield b""

    assert await took(World(Broken([])), stream=False, status=503) == (0, 0)


@pytest.mark.parametrize(("hold_s", "count"), [(0, 1), (60, 0)], ids=["withheld", "waits"])
async def test_what_may_have_waited_for_a_human_is_not_counted(hold_s: int, count: int) -> None:
    call = call_chunk(0, "shell", '{"command":"ls"}')
    of = world(stream_reply(sse(call, chunk(finish="tool_calls"))))
    of.surface()
    of.ledger.add_key(KEY, hold_s=hold_s)
    assert (await took(of, stream=True))[0] == count
