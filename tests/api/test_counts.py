"""Requests that do not come to their end are settled from what the engine has counted of them."""

import asyncio
import re
from collections.abc import AsyncGenerator

import pytest

from deployments.errors import EngineFailed, EngineOverloaded
from deployments.ingress.journey import Ask
from deployments.ports import Counted, Dialect, EngineCall, EngineItem, Repaired, RequestId, Usage
from tests.api.test_generate import CALL, HELLO, post
from tests.cascading import ASKED, WRONG, nothing_is_owed, settled, world
from tests.fakes import (
    JSON_START,
    KEY,
    SSE_START,
    USAGE,
    ScriptedEngine,
    World,
    call_chunk,
    chunk,
    json_reply,
    sse,
)

FIRST = Counted(sse(chunk(content="par")), Usage(9, 4, 1))
SECOND = Counted(sse(chunk(content="tial")), Usage(9, 4, 3))
_ID = re.compile(rb"[0-9a-f]{16,}")  # every request has its own
SILENT = Counted(b"", Usage(9, 4, 17))


class Halting(ScriptedEngine):
    """Goes silent at the end of its script; `silent` is set when everything before was taken."""

    def __init__(self, *items: EngineItem) -> None:
        super().__init__(items)
        self.silent = asyncio.Event()

    async def call(self, call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        async for item in super().call(call):
            yield item
        self.silent.set()
        await asyncio.Event().wait()


async def hung_up(here: World, engine: Halting, body: dict[str, object]) -> None:
    """Ask, and go away when `engine` has nothing more to say."""
    ask = Ask(Dialect.CHAT, RequestId("req_1"), KEY, {}, body)  # type: ignore[arg-type]

    async def read() -> None:
        async for _ in here.surface().journey.answer(ask):
            pass

    reading = asyncio.create_task(read())
    await engine.silent.wait()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await settled(here)


@pytest.mark.parametrize(
    ("stream", "items", "usage"),
    [
        (True, [SSE_START, FIRST], FIRST.usage),
        (True, [SSE_START, FIRST, SECOND], SECOND.usage),
        (True, [SSE_START, FIRST, SILENT], SILENT.usage),
        (True, [SSE_START, SILENT], SILENT.usage),
        (False, [SILENT], SILENT.usage),
        (False, [JSON_START, Counted(b'{"id', Usage(9, 4, 40))], Usage(9, 4, 40)),
    ],
    ids=["one", "two", "then-silence", "reasoning", "whole", "whole-in-part"],
)
async def test_a_hang_up_is_charged_what_the_engine_had_counted(
    stream: bool, items: list[EngineItem], usage: Usage
) -> None:
    engine = Halting(*items)
    here = World(engine)
    await hung_up(here, engine, {**HELLO, "stream": stream})
    assert engine.calls[0].counted
    assert list(here.ledger.settled.values()) == [usage]


async def test_a_hang_up_before_any_count_is_charged_what_was_reserved() -> None:
    engine = Halting(SSE_START)
    here = World(engine)
    await hung_up(here, engine, {**HELLO, "stream": True})
    (used,) = here.ledger.settled.values()
    (grant,) = here.ledger.grants.values()
    assert used == Usage(output_tokens=grant.reserved_tokens, estimated=True)


async def test_a_stream_that_breaks_is_charged_what_the_engine_had_counted() -> None:
    here = World(ScriptedEngine([SSE_START, FIRST, SECOND, EngineFailed("gone")]))
    reply = await post(here, {**HELLO, "stream": True})
    assert "upstream_error" in reply.text
    await settled(here)
    assert list(here.ledger.settled.values()) == [SECOND.usage]


async def test_no_client_sees_a_count_that_it_did_not_ask_for() -> None:
    end = sse(chunk(finish="stop"), USAGE, "[DONE]")
    counted = World(ScriptedEngine([SSE_START, FIRST, SILENT, SECOND, Counted(end, Usage(11, 0, 5))]))
    plain = World(ScriptedEngine([SSE_START, FIRST.data, SECOND.data, end]))
    one, other = [(await post(here, {**HELLO, "stream": True})).content for here in (counted, plain)]
    assert _ID.sub(b"", one) == _ID.sub(b"", other)
    assert b"usage" not in one
    for here in (counted, plain):  # the reply's own count is the last word
        await settled(here)
        assert list(here.ledger.settled.values()) == [Usage(11, 4, 5)]


async def test_a_malformed_stream_that_is_thrown_away_is_paid_for() -> None:
    data = sse(call_chunk(0, "shell", "{}"), chunk(finish="tool_calls"))
    malformed = [SSE_START, Repaired(("guess",)), Counted(data, Usage(9, 0, 6)), sse(USAGE, "[DONE]")]
    good = [SSE_START, sse(call_chunk(0, "shell", "{}"), chunk(finish="tool_calls"), USAGE, "[DONE]")]
    here = World(ScriptedEngine(malformed, good))
    await post(here, {**HELLO, "stream": True, "tools": [{"type": "function", "function": {"name": CALL["type"]}}]})
    assert len(here.engine.calls) == 2
    await settled(here)
    assert list(here.ledger.settled.values()) == [Usage(9 + 11, 0 + 4, 6 + 5)]


async def test_each_attempt_of_a_cascade_is_charged_its_own_count() -> None:
    strong = Halting(Counted(b"", Usage(20, 0, 2)), JSON_START, Counted(b"{", Usage(20, 0, 30)))
    here = world(json_reply(WRONG))
    here.strong = strong
    await hung_up(here, strong, ASKED)
    assert nothing_is_owed(here)
    assert sorted(here.ledger.settled.values(), key=lambda used: used.input_tokens) == [
        Usage(11, 0, 5),
        Usage(20, 0, 30),
    ]


@pytest.mark.parametrize(
    ("end", "charged"),
    [(EngineFailed("gone"), Usage(20, 0, 3)), (EngineOverloaded("full", 2), Usage(20, 0, 3))],
    ids=["failed", "refused"],
)
async def test_a_larger_attempt_that_fails_is_charged_its_own_count(end: Exception, charged: Usage) -> None:
    here = world(json_reply(WRONG), strong=[JSON_START, Counted(b"{", Usage(20, 0, 3)), end])
    reply = await post(here, ASKED)
    assert reply.status_code == 200
    await settled(here)
    assert nothing_is_owed(here)
    assert sorted(here.ledger.settled.values(), key=lambda used: used.input_tokens) == [Usage(11, 0, 5), charged]
