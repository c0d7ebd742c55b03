import asyncio
import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest

from deployments.errors import EngineFailed, EngineOverloaded, EngineTimeout
from deployments.ingress.settings import IngressSettings
from deployments.ports import (
    ApprovalState,
    AttemptOutcome,
    EngineStart,
    Grant,
    ModelId,
    Repaired,
    RouteAsk,
    RouteDecision,
    Served,
    Tier,
    Usage,
)
from serve_app.api.factory import create_api
from tests.fakes import (
    BASE,
    JSON_START,
    KEY,
    SSE_START,
    USAGE,
    ChoosingDifficulty,
    GatedEngine,
    Ready,
    RuleGate,
    ScriptedEngine,
    Silence,
    World,
    call_chunk,
    chunk,
    json_reply,
    release,
    sse,
    stream_reply,
)
from tests.unit.ingress.test_chat_stream import SECRET, hold_dangerous

HELLO = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
AUTH = {"authorization": f"Bearer {KEY}"}


def client(world: World, **headers: str) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(create_api(world.surface()), raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://test", headers={**AUTH, **headers})


async def post(
    world: World, body: object = None, path: str = "/v1/chat/completions", **headers: str
) -> httpx2.Response:
    async with client(world, **headers) as http:
        content = body if isinstance(body, bytes) else json.dumps(HELLO if body is None else body).encode()
        return await http.post(path, content=content)


async def test_json_answer_says_who_answered_and_why() -> None:
    world = World(ScriptedEngine(json_reply("hi")))
    reply = await post(world, **{"x-request-id": "abc-1"})
    assert reply.status_code == 200
    body = reply.json()
    assert body["choices"][0]["message"]["content"] == "hi"
    assert body["x_gatehouse"]["audit"]["index"] == 0
    expected = {
        "x-request-id": "abc-1",
        "x-gatehouse-model": "demo-20b",
        "x-gatehouse-tier": "20b",
        "x-gatehouse-effort": "medium",
        "x-gatehouse-route-id": "rt_1",
        "x-gatehouse-route-reason": "default",
        "x-gatehouse-revision": "r1",
        "x-gatehouse-audit-index": "0",
    }
    assert {name: reply.headers[name] for name in expected} == expected
    assert len(bytes.fromhex(reply.headers["x-gatehouse-receipt"])) == 32
    assert world.audit.names() == ["route.decided", "generation.finished"]
    finished = world.audit.events[1].data
    assert (finished["input_tokens"], finished["output_tokens"], finished["outcome"]) == (11, 5, "completed")
    assert list(world.ledger.settled.values()) == [Usage(11, 0, 5, 0)]
    assert world.difficulty.attempts[0].outcome is AttemptOutcome.OK


async def test_the_engine_gets_model_and_effort_and_none_of_the_clients_headers() -> None:
    world = World(ScriptedEngine(json_reply("hi")))
    await post(world, {**HELLO, "reasoning_effort": "xhigh", "metadata": {"a": "b"}, "store": True})
    assert world.engine.body == {
        "messages": HELLO["messages"], "model": "demo-20b", "reasoning_effort": "high"
    }  # fmt: skip
    assert set(world.engine.calls[0].headers) == {"content-type"}
    assert world.engine.calls[0].request_id == "rt_1"


async def test_the_official_sdk_streams() -> None:
    thinking = sse(chunk(role="assistant", content=""), chunk(reasoning="hm"))
    answer = sse(chunk(content="Hel"), chunk(content="lo"), chunk(finish="stop"))
    world = World(ScriptedEngine(stream_reply(thinking, answer)))
    async with client(world) as http:
        sdk = openai.AsyncOpenAI(api_key=KEY, base_url="http://test/v1", http_client=http)
        stream = await sdk.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "hi"}], stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        chunks = [each async for each in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Hello"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 16


async def test_a_held_call_is_withheld_in_both_modes() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "shell", "arguments": SECRET}}]
    tools = [{"type": "function", "function": {"name": "shell", "parameters": {"type": "object"}}}]
    whole = World(ScriptedEngine(json_reply(None, calls, "tool_calls")), gate=RuleGate(hold_dangerous))
    reply = await post(whole, {**HELLO, "tools": tools})
    assert reply.status_code == 200
    assert "namespace" not in reply.text
    streamed = World(
        ScriptedEngine(stream_reply(sse(call_chunk(0, "shell", SECRET), chunk(finish="tool_calls")))),
        gate=RuleGate(hold_dangerous),
    )
    reply = await post(streamed, {**HELLO, "tools": tools, "stream": True})
    assert "namespace" not in reply.text
    assert "[gatehouse:held id=apr_1" in reply.text
    assert streamed.gate.judged[0].arguments == SECRET


async def test_repairs_make_calls_untrusted() -> None:
    script = [SSE_START, Repaired(("guess",)), sse(call_chunk(0, "shell", "{}"), chunk(finish="tool_calls"), USAGE,
                                                   "[DONE]")]  # fmt: skip
    world = World(ScriptedEngine(script))
    await post(world, {**HELLO, "stream": True})
    assert world.gate.judged[0].recovered


CALL = {"id": "c1", "type": "function", "function": {"name": "shell", "arguments": '{"command":"ls"}'}}
GUESSED = [JSON_START, Repaired(("channel guessed",)), *json_reply(None, [CALL], "tool_calls")[1:]]


async def test_a_repaired_call_that_nobody_has_seen_is_asked_for_once_more() -> None:
    world = World(ScriptedEngine(GUESSED, json_reply(None, [CALL], "tool_calls")))
    reply = await post(world, HELLO)
    assert len(world.engine.calls) == 2
    assert len({call.request_id for call in world.engine.calls}) == 2
    assert [call.recovered for call in world.gate.judged] == [False]
    assert reply.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "shell"
    assert list(world.ledger.settled.values()) == [Usage(22, 0, 10, 0)]  # both attempts are paid for
    finished = next(event for event in world.audit.events if event.name == "generation.finished")
    assert (finished.data["attempts"], finished.data["repairs"]) == (2, ["channel guessed"])


async def test_a_call_that_is_repaired_twice_goes_to_the_gate_as_untrusted() -> None:
    world = World(ScriptedEngine(GUESSED))
    await post(world, HELLO)
    assert len(world.engine.calls) == 2
    assert [call.recovered for call in world.gate.judged] == [True]


@pytest.mark.parametrize("changes", [{"temperature": 0}, {"stream": True}])
async def test_no_second_attempt_that_would_say_the_same_or_follow_bytes(changes: dict[str, object]) -> None:
    stream = [SSE_START, sse(chunk(role="assistant", content="")), Repaired(("guess",)),
              sse(call_chunk(0, "shell", "{}"), chunk(finish="tool_calls"), USAGE, "[DONE]")]  # fmt: skip
    world = World(ScriptedEngine(stream if changes.get("stream") else GUESSED))
    await post(world, {**HELLO, **changes})
    assert len(world.engine.calls) == 1
    assert [call.recovered for call in world.gate.judged] == [True]


async def kept_alive(world: World, go: asyncio.Event) -> httpx2.Response:
    """The whole stream; `go` is set by its first keepalive."""
    app = create_api(world.surface())

    async def listened(scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            await send(message)
            if b": keep-alive" in message.get("body", b""):
                go.set()

        await app(scope, receive, sent)

    transport = httpx2.ASGITransport(listened, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test", headers=AUTH) as http:
        return await http.post("/v1/chat/completions", json={**HELLO, "stream": True})


async def test_a_cold_tier_is_waited_for_with_keepalives() -> None:
    settings = IngressSettings(first_byte_s=0.01, keepalive_s=0.01)
    engine = GatedEngine(stream_reply(sse(chunk(content="warm"), chunk(finish="stop"))))
    reply = await kept_alive(World(engine, settings=settings), engine.go)
    assert reply.status_code == 200
    assert reply.content.startswith(b": keep-alive")
    assert b"warm" in reply.content
    assert reply.content.endswith(b"data: [DONE]\n\n")


async def test_a_stream_that_began_before_its_engine_ends_in_an_error_event() -> None:
    engine = GatedEngine([EngineOverloaded("busy", 2)])
    world = World(engine, settings=IngressSettings(first_byte_s=0.01, keepalive_s=0.01))
    reply = await kept_alive(world, engine.go)
    assert reply.status_code == 200
    assert b"server_is_overloaded" in reply.content
    assert b"[DONE]" not in reply.content


@pytest.mark.parametrize(("fallback", "model"), [(False, "demo-20b"), (True, "demo-120b")])
async def test_a_cold_tier_is_left_for_a_larger_one_where_that_is_allowed(fallback: bool, model: str) -> None:
    world = World(ScriptedEngine(json_reply("base")), settings=IngressSettings(cold_fallback=fallback))
    world.engine.is_cold = True
    reply = await post(world, HELLO)
    assert reply.headers["x-gatehouse-model"] == model
    assert (reply.headers["x-gatehouse-route-reason"] == "cold_tier_fallback") is fallback


async def test_nothing_falls_back_to_a_smaller_tier_or_against_an_explicit_wish() -> None:
    world = World(ScriptedEngine(json_reply("base")), settings=IngressSettings(cold_fallback=True))
    world.engine.is_cold = world.strong.is_cold = True
    world.difficulty.tier = Tier.STRONG
    assert (await post(world, HELLO)).headers["x-gatehouse-model"] == "demo-120b"
    wished = await post(world, {**HELLO, "model": "demo-20b"})
    assert wished.headers["x-gatehouse-model"] == "demo-20b"


async def test_a_tenant_without_egress_never_reaches_what_is_not_local() -> None:
    world = World(ScriptedEngine(json_reply("base")), strong_is_local=False)
    world.difficulty.tier = Tier.STRONG
    explicit = await post(world, {**HELLO, "model": "demo-120b"})
    assert (explicit.status_code, explicit.json()["error"]["code"]) == (403, "permission_denied")
    assert world.strong.calls == []
    # The router keeps its floors: it may still decide for the other tier, and then nothing is sent at all.
    routed = await post(world, HELLO)
    assert routed.headers.get("x-gatehouse-model") in ("demo-20b", None)
    assert world.strong.calls == []
    assert [ask.model for ask in world.difficulty.asks] == ["demo-20b"]


async def test_a_floor_above_the_local_model_is_a_refusal_and_not_a_leak() -> None:
    class Floor(ChoosingDifficulty):
        async def route(self, ask: RouteAsk) -> RouteDecision:
            return await super().route(dataclasses.replace(ask, model=None))

    world = World(ScriptedEngine(json_reply("base")), strong_is_local=False, difficulty=Floor())
    world.difficulty.tier = Tier.STRONG
    reply = await post(world, HELLO)
    assert reply.status_code == 403
    assert world.strong.calls == []
    assert list(world.ledger.settled.values()) == [Usage()]


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (EngineFailed("x"), 503, "upstream_error", True),
        (EngineOverloaded("The model is busy.", 7), 503, "server_is_overloaded", True),
        (EngineTimeout("x"), 504, "timeout", False),
        (RuntimeError("secret detail"), 500, "internal_error", False),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_failures_before_the_first_byte_have_a_status(
    error: Exception, status: int, code: str, retry: bool, stream: bool
) -> None:
    world = World(ScriptedEngine([SSE_START if stream else JSON_START, error]))
    reply = await post(world, {**HELLO, "stream": stream})
    assert reply.status_code == status
    assert reply.json()["error"]["code"] == code
    assert "secret" not in reply.text
    assert ("retry-after" in reply.headers) is retry
    assert reply.headers.get("x-should-retry") == (None if retry else "false")
    assert reply.headers["x-request-id"].startswith("req_")
    assert world.engine.open == 0
    assert len(world.ledger.settled) == 1


async def test_a_stream_that_breaks_ends_with_an_error_event_and_without_done() -> None:
    world = World(
        ScriptedEngine([SSE_START, sse(chunk(content="par")), sse(chunk(content="tial")), EngineFailed("gone")])
    )
    reply = await post(world, {**HELLO, "stream": True})
    assert reply.status_code == 200
    events = [e for e in reply.text.split("\n\n") if e]
    assert json.loads(events[-1][6:])["error"]["code"] == "upstream_error"
    assert "[DONE]" not in reply.text
    assert world.audit.names()[-1] == "generation.finished"
    assert world.audit.events[-1].data["outcome"] == "failed"
    (usage,) = world.ledger.settled.values()
    assert usage.estimated
    assert usage.output_tokens > 0
    assert world.difficulty.attempts[0].outcome is AttemptOutcome.FAILED


async def test_the_sdk_raises_on_a_broken_stream() -> None:
    world = World(ScriptedEngine([SSE_START, sse(chunk(content="par")), sse(chunk(content="x")), EngineFailed("gone")]))
    async with client(world) as http:
        sdk = openai.AsyncOpenAI(api_key=KEY, base_url="http://test/v1", http_client=http)
        stream = await sdk.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "x"}], stream=True
        )
        with pytest.raises(openai.APIError):
            async for _ in stream:
                pass


async def test_engine_errors_are_translated() -> None:
    raw = {"error": {"message": "Input length (3068) exceeds model's maximum context length (2048).",
                     "type": "BadRequestError", "param": None, "code": 400}}  # fmt: skip
    world = World(ScriptedEngine([EngineStart(400, ()), json.dumps(raw).encode()]))
    reply = await post(world)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length is 2048 tokens" in error["message"]
    assert error["type"] == "invalid_request_error"
    assert list(world.ledger.settled.values()) == [Usage()]


async def test_an_answer_limit_beyond_the_window_means_the_window() -> None:
    world = World(ScriptedEngine(json_reply("hi")))
    await post(world, {**HELLO, "max_tokens": 32000})
    assert "max_tokens" not in world.engine.body
    text = (
        "This model's maximum context length is 4096 tokens. However, you requested 4000 output tokens and your prompt "
        "contains at least 500 input tokens"
    )
    over = {"error": {"message": text, "code": 400}}
    world = World(ScriptedEngine([EngineStart(400, ()), json.dumps(over).encode()], json_reply("fits")))
    reply = await post(world, {**HELLO, "max_tokens": 4000})
    assert reply.status_code == 200
    assert "max_tokens" not in world.engine.body


async def test_explicit_and_escalated_models() -> None:
    world = World(ScriptedEngine(json_reply("base")))
    reply = await post(world, {**HELLO, "model": "demo-120b"})
    assert reply.json()["choices"][0]["message"]["content"] == "strong"
    world = World(ScriptedEngine(json_reply("base")))
    world.difficulty.tier = Tier.STRONG
    reply = await post(world, **{"x-gatehouse-risk": "r3"})
    assert reply.headers["x-gatehouse-tier"] == "120b"
    assert world.difficulty.asks[0].request.trusted_risk == "R3"


TOOLS_HOSTED = {**HELLO, "tools": [{"type": "web_search"}]}
PICTURE = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{nope", 400, "invalid_value", None),
        (b"\xff\xfe{}", 400, "invalid_value", None),
        (b"[]", 400, "invalid_value", None),
        (b'{"messages":[],"messages":[]}', 400, "invalid_value", None),
        (b'{"messages":[{"role":"user","content":"x"}],"temperature":NaN}', 400, "invalid_value", None),
        (b'{"a":' * 200 + b"1" + b"}" * 200, 400, "invalid_value", None),
        (b'{"a":' * 100_000, 400, "invalid_value", None),
        (b'{"seed":' + b"9" * 5000 + b"}", 400, "invalid_value", None),
        ({}, 400, "missing_required_parameter", "messages"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": "hi"}, 400, "invalid_value", "messages"),
        ({**HELLO, "temperature": "hot"}, 400, "invalid_value", "temperature"),
        ({**HELLO, "temperature": 3}, 400, "invalid_value", "temperature"),
        ({**HELLO, "n": 0}, 400, "invalid_value", "n"),
        ({**HELLO, "stream": "yes"}, 400, "invalid_value", "stream"),
        ({**HELLO, "frobnicate": 1}, 400, "unsupported_parameter", "frobnicate"),
        ({**HELLO, "kv_transfer_params": {}}, 400, "unsupported_parameter", "kv_transfer_params"),
        ({**HELLO, "chat_template": "x"}, 400, "unsupported_parameter", "chat_template"),
        ({**HELLO, "top_logprobs": 3}, 400, "invalid_value", "top_logprobs"),
        ({**HELLO, "tool_choice": "required"}, 400, "invalid_value", "tool_choice"),
        ({**HELLO, "model": "gpt-5"}, 404, "model_not_found", "model"),
        ({**HELLO, "model": "demo-secret"}, 404, "model_not_found", "model"),
        (TOOLS_HOSTED, 400, "unsupported_tool", "tools[0].type"),
        (PICTURE, 400, "invalid_value", "messages[0].content[0].type"),
        ({"messages": [{"role": "root", "content": "x"}]}, 400, "invalid_value", "messages[0].role"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, 400, "context_length_exceeded", "messages"),
        ({"messages": [{"role": "user", "content": "x" * 70_000}]}, 413, "request_too_large", None),
    ],
)
async def test_bad_input_never_reaches_the_engine(body: object, status: int, code: str, param: str | None) -> None:
    world = World(ScriptedEngine(json_reply("hi")), settings=IngressSettings(max_body_bytes=60_000))
    if isinstance(body, bytes) and len(body) > 60_000:
        world.settings = IngressSettings()
    reply = await post(world, body)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert error["type"] == "invalid_request_error"
    assert reply.headers["x-request-id"]
    assert reply.headers["x-should-retry"] == "false"
    assert world.engine.calls == []
    assert world.strong.calls == []


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"authorization": ""}, "did not provide an API key"),
        ({"authorization": "Bearer gh-wrong"}, "Incorrect API key"),
        ({"authorization": "Basic Zm9v"}, "did not provide an API key"),
        ({"x-api-key": "gh-other"}, "Two different API keys"),
    ],
)
async def test_keys_are_checked_before_anything_else(headers: dict[str, str], words: str) -> None:
    world = World(ScriptedEngine(json_reply("hi")))
    reply = await post(world, b"{not even json", **headers)
    assert reply.status_code == 401
    assert words in reply.json()["error"]["message"]
    assert reply.json()["error"]["code"] == "invalid_api_key"
    assert reply.headers["x-should-retry"] == "false"
    assert world.engine.calls == []


async def test_a_key_sees_only_its_models() -> None:
    world = World(ScriptedEngine(json_reply("hi")))
    world.ledger.add_key("gh-narrow", models=frozenset({ModelId("demo-120b")}))
    async with client(world, authorization="Bearer gh-narrow") as http:
        listed = [each["id"] for each in (await http.get("/v1/models")).json()["data"]]
        assert listed == ["auto", "demo-120b"]
        assert (await http.get("/v1/models/demo-20b")).status_code == 404
        reply = await http.post("/v1/chat/completions", json={**HELLO, "model": "demo-20b"})
    assert reply.status_code == 404
    assert world.engine.calls == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/load_lora_adapter", 404),
        ("POST", "/abort_requests", 404),
        ("GET", "/docs", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("POST", "/invocations", 404),
        ("GET", "/version", 404),
    ],
)
async def test_routes_that_do_not_exist(method: str, path: str, status: int) -> None:
    async with client(World(ScriptedEngine(json_reply("hi")))) as http:
        reply = await http.request(method, path)
    assert reply.status_code == status
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_ends_without_waiting_for_its_books_and_draining_does_wait(stream: bool) -> None:
    world = World(
        ScriptedEngine(stream_reply(sse(chunk(content="hi"), chunk(finish="stop"))) if stream else json_reply("hi"))
    )
    books, settle = asyncio.Event(), world.ledger.settle

    async def slow(grant: Grant, usage: Usage, served: Served | None = None) -> None:
        await books.wait()
        await settle(grant, usage, served)

    world.ledger.settle = slow
    reply = await asyncio.wait_for(post(world, HELLO | {"stream": stream}), 10)
    assert reply.status_code == 200
    draining = asyncio.create_task(world.surface().journey.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    assert not world.ledger.settled
    books.set()
    await asyncio.wait_for(draining, 10)
    assert len(world.ledger.settled) == 1
    assert [event.name for event in world.audit.events] == ["route.decided", "generation.finished"]


async def test_the_last_record_waits_a_moment_and_draining_does_not() -> None:
    settings = IngressSettings().model_copy(update={"record_delay_s": 3600.0})  # however slow the machine is
    world = World(ScriptedEngine(json_reply("hi")), settings=settings)
    assert (await post(world)).status_code == 200
    async with asyncio.timeout(60):
        while not world.ledger.settled:  # at once: it frees a place for the next request
            await asyncio.sleep(0)
        assert [event.name for event in world.audit.events] == ["route.decided"]
        await world.surface().journey.drain()
    assert [event.name for event in world.audit.events] == ["route.decided", "generation.finished"]


@pytest.mark.parametrize(("finish", "heard"), [("stop", []), ("length", [AttemptOutcome.TRUNCATED])])
async def test_a_router_that_watches_no_failure_hears_only_of_new_ones(
    finish: str, heard: list[AttemptOutcome]
) -> None:
    world = World(ScriptedEngine(json_reply("hi", finish=finish)))
    world.difficulty.watches = False
    assert (await post(world)).status_code == 200
    await world.surface().journey.drain()
    assert [attempt.outcome for attempt in world.difficulty.attempts] == heard


async def test_a_hang_up_aborts_the_generation_and_settles() -> None:
    world = World(ScriptedEngine([SSE_START, sse(chunk(content="one")), Silence()]))
    app = create_api(world.surface())
    gone, sent = asyncio.Event(), []
    body = json.dumps({**HELLO, "stream": True}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        sent.append(message)
        if message.get("body"):
            gone.set()

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"", "query_string": b"",
             "root_path": "", "scheme": "http", "http_version": "1.1", "server": ("t", 80), "client": ("c", 1),
             "headers": [(b"authorization", f"Bearer {KEY}".encode())]}  # fmt: skip
    async with asyncio.timeout(60):
        await app(scope, receive, send)
    assert world.engine.open == 0
    assert world.engine.aborted == 1
    assert world.audit.events[-1].data["outcome"] == "aborted"
    assert len(world.ledger.settled) == 1
    assert world.difficulty.attempts == []  # a hang-up says nothing about the model


async def test_a_hang_up_during_a_json_request_aborts_too() -> None:
    world = World(ScriptedEngine([JSON_START, Silence()]))
    app = create_api(world.surface())
    body = json.dumps(HELLO).encode()
    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict:
        while len(messages) == 1 and not world.engine.open:
            await asyncio.sleep(0.001)
        return messages.pop()

    async def send(message: dict) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"", "query_string": b"",
             "root_path": "", "scheme": "http", "http_version": "1.1", "server": ("t", 80), "client": ("c", 1),
             "headers": [(b"authorization", f"Bearer {KEY}".encode())]}  # fmt: skip
    async with asyncio.timeout(60):
        await app(scope, receive, send)
    assert (world.engine.open, world.engine.aborted) == (0, 1)


async def test_silence_gets_keepalives() -> None:
    class Slow(ScriptedEngine):
        async def call(self, call):
            yield SSE_START
            yield sse(chunk(content="a"))
            await go.wait()
            yield sse(chunk(finish="stop"), USAGE, "[DONE]")

    go = asyncio.Event()
    reply = await kept_alive(World(Slow(), settings=IngressSettings(keepalive_s=0.02)), go)
    assert reply.text.count(": keep-alive\n\n") >= 1
    assert reply.text.replace(": keep-alive\n\n", "").endswith("data: [DONE]\n\n")  # a slow end is a silence, too


async def test_text_flows_when_the_audit_sink_is_down_and_is_recorded_later() -> None:
    world = World(ScriptedEngine(json_reply("hi")))
    world.audit.down = True
    surface = world.surface()
    transport = httpx2.ASGITransport(create_api(surface), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test", headers=AUTH) as http:
        reply = await http.post("/v1/chat/completions", json=HELLO)
        assert reply.status_code == 200
        assert "x-gatehouse-audit-index" not in reply.headers
        ready = await http.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["parts"]["audit"] == "down"
        world.audit.down = False
        async with asyncio.timeout(10):
            while surface.recorder.backlog:
                await asyncio.sleep(0.01)
    assert world.audit.names() == ["route.decided", "generation.finished"]


async def test_completions_and_probes() -> None:
    body = {"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": "abc", "finish_reason": "length"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 3}}  # fmt: skip
    world = World(ScriptedEngine([JSON_START, json.dumps(body).encode()]))
    reply = await post(world, {"prompt": "x", "max_tokens": 3}, "/v1/completions")
    assert reply.json()["choices"][0]["text"] == "abc"
    assert world.difficulty.attempts[0].outcome is AttemptOutcome.TRUNCATED
    reply = await post(world, {"prompt": "x", "suffix": "y"}, "/v1/completions")
    assert reply.json()["error"]["code"] == "unsupported_parameter"
    async with client(world) as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        assert (await http.head("/")).status_code == 200
        metrics = (await http.get("/metrics")).text
    assert 'gatehouse_route_total{effort="medium",reason="default",tier="20b"}' in metrics
    assert KEY not in metrics
    assert str(BASE) in metrics


async def test_sessions_are_stable_and_private() -> None:
    world = World(ScriptedEngine(json_reply("hi")))
    world.ledger.add_key("gh-b", tenant="other")
    await post(world, **{"x-session-id": "s1"})
    await post(world, **{"x-session-id": "s1"})
    await post(world, **{"x-session-id": "s1", "authorization": "Bearer gh-b"})
    sessions = [ask.session for ask in world.difficulty.asks]
    assert sessions[0] == sessions[1] != sessions[2]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_that_is_no_stream_has_no_first_token(stream: bool) -> None:
    said = stream_reply(sse(chunk(content="Hello"), chunk(finish="stop"))) if stream else json_reply("Hello")
    world = World(ScriptedEngine(said))
    async with client(world) as http:
        assert (await http.post("/v1/chat/completions", json={**HELLO, "stream": stream})).status_code == 200
        await world.surface().journey.drain()
        metrics = (await http.get("/metrics")).text
    counted = f'gen_ai_server_time_to_first_token_seconds_count{{model="{BASE}"}} 1.0'
    assert (counted in metrics) is stream
    assert f'gen_ai_server_request_duration_seconds_count{{model="{BASE}"}} 1.0' in metrics


async def test_what_was_released_after_waiting_is_counted_once() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "shell", "arguments": SECRET}}]
    tools = [{"type": "function", "function": {"name": "shell", "parameters": {"type": "object"}}}]
    verdicts = iter([hold_dangerous, release])
    world = World(
        ScriptedEngine(json_reply(None, calls, "tool_calls")),
        gate=RuleGate(lambda call: next(verdicts)(call)),
        settings=IngressSettings(record_delay_s=0, hold_poll_s=0.001),
        approvals=Granting(),
    )
    world.ledger.add_key("gh-waits", hold_s=60)
    async with client(world, authorization="Bearer gh-waits") as http:
        reply = await http.post("/v1/chat/completions", json={**HELLO, "tools": tools})
        metrics = (await http.get("/metrics")).text
    assert reply.json()["choices"][0]["finish_reason"] == "tool_calls"
    lines = [line for line in metrics.splitlines() if line.startswith("gatehouse_policy_total")]
    counted = [line for line in lines if not line.endswith(" 0.0")]
    assert sorted(line.split("decision=")[1].split(",")[0] for line in counted) == ['"held"', '"released"']
    assert all(line.endswith(" 1.0") for line in counted)


class Granting(Ready):
    """Every approval has been granted."""

    async def frozen(self) -> tuple[()]:
        return ()

    async def get(self, tenant: object, approval_id: object) -> object:
        del tenant, approval_id
        return SimpleNamespace(state=ApprovalState.APPROVED)
