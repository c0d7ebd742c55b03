"""Kind `openai` against llama.cpp's own code: what it streams, what it refuses, what happens when it goes away."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from deployments.clock import FixedClock
from deployments.engine.upstream import UpstreamReplica
from deployments.engine.upstream_settings import UpstreamSettings
from deployments.errors import ContextTooLong, EngineFailed, EngineOverloaded
from deployments.ingress.journey import Ask, Head
from deployments.ingress.opening import Opening
from deployments.ports import Dialect, EngineCall, EngineStart, RequestId, SessionId
from tests.fakes import KEY, ScriptedEngine, World, json_reply
from tests.upstream.conftest import LlamaCpp

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 6, "seed": 1}
LONG = {"max_tokens": 8000}


def settings(llamacpp: LlamaCpp, **more: object) -> UpstreamSettings:
    given: dict[str, object] = {
        "kind": "openai", "model": "demo-20b", "revision": "r1", "base_url": llamacpp.url, "max_model_len": 8192,
        "upstream_model": "tiny-gguf", "drop_fields": ["reasoning_effort", "stream_options"],
        "breaker": {"failures": 2, "open_s": 10.0}, **more,
    }  # fmt: skip
    return UpstreamSettings.model_validate(given)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
async def replica(llamacpp: LlamaCpp, api_key: str, clock: FixedClock) -> AsyncGenerator[UpstreamReplica, None]:
    replica = UpstreamReplica(settings(llamacpp), api_key, clock)
    await replica.check_health()
    yield replica
    await replica.aclose()


def call(path: str, **body: object) -> EngineCall:
    return EngineCall(path, {}, json.dumps({"model": "demo-20b", **body}).encode(), RequestId("r"), SessionId("s"))


async def whole(replica: UpstreamReplica, path: str, **body: object) -> dict[str, Any]:
    start, data = await everything(replica, path, **body)
    assert start.status == 200
    return json.loads(data)


async def everything(replica: UpstreamReplica, path: str, **body: object) -> tuple[EngineStart, bytes]:
    async with aclosing(replica.call(call(path, **body))) as items:
        start, *rest = [item async for item in items]
    assert isinstance(start, EngineStart)
    return start, b"".join(item for item in rest if isinstance(item, bytes))


def events(data: bytes) -> list[dict[str, Any]]:
    *rows, done, rest = data.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(row.removeprefix("data: ")) for row in rows]


async def test_it_is_healthy_and_says_what_it_is(replica: UpstreamReplica) -> None:
    info = await replica.info()
    assert (info.model, info.kind, info.max_model_len, info.running) == ("demo-20b", "openai", 8192, 0)


async def test_a_chat_whole_and_streamed_is_the_same_text_under_our_name(replica: UpstreamReplica) -> None:
    answer = await whole(replica, CHAT, **HELLO, temperature=0)
    _, data = await everything(replica, CHAT, **HELLO, temperature=0, stream=True)
    rows = events(data)
    text = "".join(row["choices"][0]["delta"].get("content", "") for row in rows)
    assert text == answer["choices"][0]["message"]["content"] != ""
    assert {row["model"] for row in rows} == {answer["model"]} == {"demo-20b"}
    assert rows[-1]["choices"][0]["finish_reason"] == answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 6


async def test_completions_whole_and_streamed(replica: UpstreamReplica) -> None:
    asked = {"prompt": "one two", "max_tokens": 6, "temperature": 0}
    answer = await whole(replica, COMPLETIONS, **asked)
    _, data = await everything(replica, COMPLETIONS, **asked, stream=True)
    rows = events(data)
    assert "".join(row["choices"][0]["text"] for row in rows) == answer["choices"][0]["text"] != ""
    assert {row["model"] for row in rows} == {answer["model"]} == {"demo-20b"}


async def test_a_prompt_that_does_not_fit_is_the_clients_error(replica: UpstreamReplica) -> None:
    opening = Opening(replica.call(call(COMPLETIONS, prompt="q" * 20_000, max_tokens=5)))
    with pytest.raises(ContextTooLong) as caught:
        await opening.start(None)
    await opening.aclose()
    assert caught.value.max_tokens == 8192


async def test_a_wrong_key_is_our_problem_and_not_told(llamacpp: LlamaCpp, clock: FixedClock) -> None:
    replica = UpstreamReplica(settings(llamacpp), "sk-wrong", clock)
    with pytest.raises(EngineFailed, match=r"^The model could not answer this request\.$"):
        await everything(replica, CHAT, **HELLO)
    await replica.aclose()


async def test_a_model_that_is_not_there_is_found_by_the_probe(
    llamacpp: LlamaCpp, api_key: str, clock: FixedClock
) -> None:
    replica = UpstreamReplica(settings(llamacpp, upstream_model="other"), api_key, clock)
    await replica.check_health()
    with pytest.raises(EngineFailed, match="does not list the model 'other'"):
        await replica.info()
    await replica.aclose()


async def test_hanging_up_stops_the_generation(replica: UpstreamReplica, llamacpp: LlamaCpp) -> None:
    before = llamacpp.log.count("Disconnected from client")
    items = replica.call(call(CHAT, **{**HELLO, **LONG}, stream=True))
    assert isinstance(await anext(items), EngineStart)
    assert await anext(items)
    await items.aclose()
    while llamacpp.log.count("Disconnected from client") == before:  # it says so when it stops in the middle
        await asyncio.sleep(0.05)
    assert (await whole(replica, CHAT, **HELLO))["model"] == "demo-20b"  # it answers one at a time: it is free again
    assert (await replica.info()).running == 0


async def test_killed_it_fails_then_is_left_alone_and_restarted_it_heals(
    replica: UpstreamReplica, llamacpp: LlamaCpp, clock: FixedClock
) -> None:
    items = replica.call(call(CHAT, **{**HELLO, **LONG}, stream=True))
    assert isinstance(await anext(items), EngineStart)
    assert await anext(items)
    llamacpp.stop()
    with pytest.raises(EngineFailed, match="ended before it was complete"):
        async for _ in items:
            pass
    with pytest.raises(EngineFailed, match="cannot be reached"):
        await everything(replica, CHAT, **HELLO)
    with pytest.raises(EngineOverloaded) as caught:
        await everything(replica, CHAT, **HELLO)
    assert caught.value.retry_after_s == 10
    clock.advance(11_000)
    await replica.check_health()
    with pytest.raises(EngineFailed, match="does not answer"):
        await replica.info()
    await asyncio.to_thread(llamacpp.start)
    await replica.check_health()
    assert (await whole(replica, CHAT, **HELLO))["model"] == "demo-20b"
    assert (await replica.info()).running == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_travels_the_whole_path_of_the_ingress(replica: UpstreamReplica, stream: bool) -> None:
    world = World(engine=ScriptedEngine(json_reply("unused")))
    world.engine = replica  # type: ignore[assignment]
    surface = world.surface()
    body = {**HELLO, "model": "demo-20b", "stream": stream}
    ask = Ask(Dialect.CHAT, RequestId("req_1"), KEY, {}, body)
    async with aclosing(surface.journey.answer(ask)) as answered:
        head, *rest = [item async for item in answered]
    assert isinstance(head, Head)
    data = b"".join(item for item in rest if isinstance(item, bytes))
    assert head.headers["x-gatehouse-model"] == "demo-20b"
    if stream:
        assert events(data)[-1]["choices"][0]["finish_reason"] == "length"
    else:
        assert json.loads(data)["model"] == "demo-20b"
    await surface.journey.drain()
    (usage,) = world.ledger.settled.values()
    assert usage.estimated is stream  # llama-cpp-python counts whole replies, not streams
    assert usage.output_tokens > 0
