import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from deployments.clock import FixedClock
from deployments.engine.replica import EngineReplica
from deployments.engine.settings import FlushSettings
from deployments.engine.synthetic import SyntheticSettings, TokenClock
from deployments.errors import EngineFailed
from deployments.ports import EngineCall, EngineItem, EngineStart, RequestId, SessionId

CHAT = "/v1/chat/completions"


def replica(**fields: object) -> tuple[TokenClock, EngineReplica]:
    settings = SyntheticSettings.model_validate(
        {"model": "syn", "revision": "r1", "first_token_ms": 0.0, "token_ms": 0.0, "flush": FlushSettings(few_ms=0)}
        | fields
    )
    core = TokenClock(settings, FixedClock())
    return core, EngineReplica(core, settings, FixedClock(), 0.0)


def call(path: str = CHAT, **body: object) -> EngineCall:
    text = {"messages": [{"role": "user", "content": "hi"}]} if path == CHAT else {"prompt": "hi"}
    return EngineCall(path, {}, json.dumps({"model": "syn"} | text | body).encode(), RequestId("r"), SessionId("s"))


async def read(items: AsyncGenerator[EngineItem, None]) -> tuple[int, bytes]:
    status, body = 0, b""
    async with aclosing(items):
        async for item in items:
            if isinstance(item, EngineStart):
                status = item.status
            elif isinstance(item, bytes):
                body += item
    return status, body


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
async def test_a_stream_has_the_tokens_that_were_asked_for(path: str) -> None:
    _, engine = replica()
    status, body = await read(
        engine.call(call(path, stream=True, max_tokens=5, stream_options={"include_usage": True}))
    )
    blocks = body.decode().split("\n\n")
    assert (status, blocks[-2:]) == (200, ["data: [DONE]", ""])
    events = [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]
    finishes = [choice["finish_reason"] for event in events for choice in event["choices"]]
    assert finishes[-1] == "length"
    assert not any(finishes[:-1])
    assert events[-1]["usage"]["completion_tokens"] == 5
    assert all(event["system_fingerprint"].startswith("synthetic-") for event in events)


async def test_a_whole_reply_says_what_it_is() -> None:
    _, engine = replica(default_tokens=9)
    status, body = await read(engine.call(call()))
    reply = json.loads(body)
    assert (status, reply["choices"][0]["message"]["content"]) == (200, "This text comes from a token clock, not from")
    assert reply["usage"]["completion_tokens"] == 9


async def test_seats_are_taken_in_order_and_the_queue_is_bounded() -> None:
    core, engine = replica(max_num_seqs=1, max_queued=2, token_ms=60_000.0, fair={"enabled": False})
    first, second = engine.call(call(stream=True)), engine.call(call(stream=True))
    await anext(first)
    await anext(second)
    for _ in range(5):
        await asyncio.sleep(0)
    load = core.load()
    assert (load.running, load.waiting, load.unfinished) == (1, 1, 2)
    assert (await read(engine.call(call())))[0] == 503
    await first.aclose()
    while core.load().waiting:
        await asyncio.sleep(0)
    await second.aclose()
    while core.load().unfinished:
        await asyncio.sleep(0)


async def test_other_paths_are_refused() -> None:
    _, engine = replica()
    assert (await read(engine.call(call("/tokenize"))))[0] == 404


async def test_it_stops() -> None:
    core, engine = replica()
    core.shutdown()
    with pytest.raises(EngineFailed):
        await read(engine.call(call()))
