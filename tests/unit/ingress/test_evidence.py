"""What the trail is told of a request's words, and what the gate is told of tool results, over scripted ports."""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from deployments.audit.record import validate
from deployments.errors import EngineFailed, GateUnavailable, InvalidRequest
from deployments.ingress import evidence
from deployments.ingress.dialects.chat import ChatCodec
from deployments.ingress.evidence import Spoken, canonical_request, change_of, prompt_body, results_of
from deployments.ingress.journey import Ask, Head
from deployments.ports import (
    Body,
    BodyField,
    Dialect,
    GateContext,
    JsonValue,
    RequestId,
    ToolResult,
)
from tests.fakes import (
    BASE,
    JSON_START,
    KEY,
    RuleGate,
    ScriptedEngine,
    Silence,
    World,
    chunk,
    json_reply,
    sse,
    stream_reply,
)

HELLO: dict[str, JsonValue] = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
STREAM = stream_reply(sse(chunk(content="Hel"), chunk(content="lo"), chunk(finish="stop")))


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def ask(body: Mapping[str, Any], dialect: Dialect = Dialect.CHAT, **headers: str) -> Ask:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Ask(dialect, RequestId("req_1"), KEY, named, body)


async def answer(world: World, asked: Ask) -> bytes:
    """The whole answer; its records are made when this returns."""
    journey = world.surface().journey
    try:
        return b"".join([item async for item in journey.answer(asked) if not isinstance(item, Head)])
    finally:
        await journey.drain()


def keeping(world: World, kept_bytes: int = 4096) -> World:
    """The world, with the bodies of its tenant kept."""
    journey = world.surface().journey
    tenant = world.ledger.keys[KEY].tenant
    keeps: Any = lambda asked: asked == tenant  # noqa: E731
    journey._keeps_bodies, journey._kept_bytes = keeps, kept_bytes
    return world


def spoken(world: World) -> tuple[Body, Body | None]:
    """Prompt and output of the only request."""
    [decided], [finished] = world.audit.named("route.decided"), world.audit.named("generation.finished")
    return decided.bodies[BodyField.PROMPT], finished.bodies.get(BodyField.OUTPUT)


# --- prompt and output -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_the_record_commits_to_the_prompt_and_to_every_byte_that_was_sent(stream: bool) -> None:
    world = World(ScriptedEngine(STREAM if stream else json_reply("hi")))
    body = {**HELLO, "stream": stream}
    sent = await answer(world, ask(body))
    prompt, output = spoken(world)
    assert prompt == Body(sha(rfc8785.dumps(cast("Any", body))))
    assert output == Body(sha(sent))


async def test_bodies_are_kept_where_a_tenant_wants_it() -> None:
    world = keeping(World(ScriptedEngine(STREAM)))
    sent = await answer(world, ask({**HELLO, "stream": True}))
    prompt, output = spoken(world)
    assert output == Body(sha(sent), sent)
    assert prompt.data is not None
    assert json.loads(prompt.data) == {**HELLO, "stream": True}
    assert sha(prompt.data) == prompt.digest


async def test_a_body_larger_than_what_is_kept_is_its_digest() -> None:
    world = keeping(World(ScriptedEngine(STREAM)), kept_bytes=200)
    long: dict[str, JsonValue] = {**HELLO, "stream": True, "user": "u" * 200}
    sent = await answer(world, ask(long))
    prompt, output = spoken(world)
    assert len(sent) > 200
    assert output == Body(sha(sent))
    assert prompt == Body(sha(canonical_request(long)))


async def test_an_answer_that_breaks_off_commits_to_what_had_left() -> None:
    world = World(ScriptedEngine([*STREAM[:1], sse(chunk(content="Hel")), EngineFailed("died")]))
    sent = bytearray()
    items = world.surface().journey.answer(ask({**HELLO, "stream": True}))
    with pytest.raises(EngineFailed):
        async for item in items:
            if isinstance(item, bytes):
                sent += item
    await world.surface().journey.drain()
    assert sent
    assert spoken(world)[1] == Body(sha(bytes(sent)))


async def test_a_client_that_hangs_up_leaves_the_digest_of_what_it_got() -> None:
    world = World(ScriptedEngine([*STREAM[:1], sse(chunk(content="Hel")), Silence()]))
    items = world.surface().journey.answer(ask({**HELLO, "stream": True}))
    got = bytearray()
    async for item in items:
        if isinstance(item, bytes):
            got += item
            break
    await items.aclose()
    await world.surface().journey.drain()
    assert spoken(world)[1] == Body(sha(bytes(got)))


async def test_an_answer_that_never_began_has_no_output() -> None:
    world = World(ScriptedEngine([EngineFailed("died")]))
    with pytest.raises(EngineFailed):
        await answer(world, ask(HELLO))
    assert spoken(world)[1] is None


async def test_both_events_say_which_policy_and_which_change() -> None:
    world = World(ScriptedEngine(json_reply("hi")))
    await answer(world, ask(HELLO, x_gatehouse_change_id="CHG-7"))
    for name in ("route.decided", "generation.finished"):
        [event] = world.audit.named(name)
        assert (event.data["change_id"], event.data["policy_digest"]) == ("CHG-7", "0" * 64)


async def test_a_request_of_many_megabytes_is_digested_beside_the_loop() -> None:
    body: dict[str, JsonValue] = {"messages": [{"role": "user", "content": "x" * 2**20}]}
    found = await prompt_body(body, ChatCodec().read(body), 0)
    assert found == Body(sha(rfc8785.dumps(cast("Any", body))))


async def test_a_log_that_is_down_does_not_keep_text_from_flowing() -> None:
    world = keeping(World(ScriptedEngine(json_reply("hi"))))
    world.audit.down = True
    assert b"hi" in await answer(world, ask(HELLO))
    assert world.surface().recorder.backlog == 2


async def test_what_is_recorded_fits_the_schema() -> None:
    world = World(ScriptedEngine(json_reply("hi")))
    await answer(world, ask(HELLO, x_gatehouse_change_id="CHG-7"))
    assert world.audit.names() == ["route.decided", "generation.finished"]
    for event in world.audit.events:
        validate(event)


# --- pieces ------------------------------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), inner),
)  # fmt: skip


@given(st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), _json))
def test_a_request_is_canonical_as_rfc_8785_has_it(body: dict[str, Any]) -> None:
    assert canonical_request(body) == rfc8785.dumps(body)


@pytest.mark.parametrize(
    ("body", "form"),
    [
        ({"seed": 2**70, "top_p": 1.0, "a": []}, b'{"a":[],"seed":1180591620717411303424,"top_p":1.0}'),
        ({"temperature": 0.0, "n": -0.0, "x": 1e-7}, b'{"n":0,"temperature":0,"x":1e-7}'),
        ({"\ue000": 1, "\U0001f600": 2}, '{"\U0001f600":2,"\ue000":1}'.encode()),
        ({"half": "\ud800"}, b'{"half":"\xed\xa0\x80"}'),
    ],
)
def test_a_request_that_is_hard_to_spell_has_one_form(body: dict[str, Any], form: bytes) -> None:
    assert canonical_request(body) == form


@given(st.lists(st.binary()), st.integers(0, 40))
def test_what_is_said_in_pieces_is_said_once(pieces: list[bytes], most: int) -> None:
    said = Spoken(most)
    for piece in pieces:
        said.add(piece)
    whole = b"".join(pieces)
    kept = whole if most and len(whole) <= most else None
    assert said.body() == (Body(sha(whole), kept) if pieces else None)


@pytest.mark.parametrize("value", ["CHG-1", "a", "team/CHG:1.2_3-4", "x" * 128, "  CHG-1  "])
def test_a_change_id_is_taken_from_its_header(value: str) -> None:
    assert change_of({"x-gatehouse-change-id": value}) == value.strip()


@pytest.mark.parametrize("value", ["", "   "])
def test_no_change_id_is_none(value: str) -> None:
    assert change_of({"x-gatehouse-change-id": value}) is None
    assert change_of({}) is None


@pytest.mark.parametrize("value", ["-x", "a b", "ä", "x" * 129, "a\nb", "a\x00"])
def test_what_is_no_change_id_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        change_of({"x-gatehouse-change-id": value})
    assert caught.value.param == "x-gatehouse-change-id"


async def test_a_bad_change_id_costs_no_admission() -> None:
    world = World(ScriptedEngine(json_reply("hi")))
    with pytest.raises(InvalidRequest):
        await answer(world, ask(HELLO, x_gatehouse_change_id="no change"))
    assert world.engine.calls == []
    assert world.audit.events == []


# --- results of tools --------------------------------------------------------------------------------------------


class Listening(RuleGate):
    """A gate that remembers what it is told; it tells nothing before `go`."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__()
        self.told: list[tuple[GateContext, tuple[ToolResult, ...]]] = []
        self.failure = failure
        self.go = asyncio.Event()
        self.go.set()

    async def observe(self, context: GateContext, results: Sequence[ToolResult]) -> None:
        self.told.append((context, tuple(results)))
        await self.go.wait()
        if self.failure is not None:
            raise self.failure


def call(call_id: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "shell", "arguments": "{}"}}


CHAT_TURN: dict[str, Any] = {
    "model": "auto",
    "messages": [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [call("old")]},
        {"role": "tool", "tool_call_id": "old", "content": "of an older turn"},
        {"role": "assistant", "content": None, "tool_calls": [call("a"), call("b")]},
        {"role": "tool", "tool_call_id": "a", "content": "one"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "two"}]},
        {"role": "user", "content": "and then?"},
    ],
}
RESPONSES_TURN: dict[str, Any] = {
    "model": "auto",
    "input": [
        {"role": "user", "content": "go"},
        {"type": "function_call", "call_id": "old", "name": "shell", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "old", "output": "of an older turn"},
        {"type": "function_call", "call_id": "a", "name": "shell", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "shell", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "one"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "two"}]},
        {"role": "user", "content": "and then?"},
    ],
}
MESSAGES_TURN: dict[str, Any] = {
    "model": "auto",
    "max_tokens": 16,
    "messages": [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "old", "name": "shell", "input": {}}]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "old", "content": "of an older turn"}],
        },
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": each, "name": "shell", "input": {}} for each in "ab"],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "one"},
                {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "two"}]},
                {"type": "text", "text": "and then?"},
            ],
        },
    ],
}
TURNS = {Dialect.CHAT: CHAT_TURN, Dialect.RESPONSES: RESPONSES_TURN, Dialect.MESSAGES: MESSAGES_TURN}


@pytest.mark.parametrize("dialect", TURNS)
async def test_the_gate_is_told_of_the_newest_results_in_every_dialect_that_has_them(dialect: Dialect) -> None:
    gate = Listening()
    world = World(ScriptedEngine(json_reply("done")), gate=gate)
    await answer(world, ask(TURNS[dialect], dialect))
    [(context, results)] = gate.told
    assert results == (ToolResult("a", "one"), ToolResult("b", "two"))
    assert (context.model, context.request_id, context.principal.key_id) == (
        BASE,
        "req_1",
        world.ledger.keys[KEY].key_id,
    )


@pytest.mark.parametrize(
    "body", [HELLO, {**CHAT_TURN, "messages": CHAT_TURN["messages"][:4] + CHAT_TURN["messages"][:1]}]
)
async def test_the_gate_is_not_told_of_nothing(body: dict[str, Any]) -> None:
    assert results_of(body) == ()


async def test_without_results_the_gate_is_not_asked() -> None:
    gate = Listening()
    world = World(ScriptedEngine(json_reply("done")), gate=gate)
    await answer(world, ask(HELLO))
    assert gate.told == []


async def test_the_answer_does_not_wait_for_what_the_gate_makes_of_results() -> None:
    gate = Listening()
    gate.go.clear()
    world = World(ScriptedEngine(json_reply("done")), gate=gate)
    journey = world.surface().journey
    async with asyncio.timeout(10):
        sent = b"".join([item async for item in journey.answer(ask(CHAT_TURN)) if not isinstance(item, Head)])
    assert b"done" in sent
    assert len(gate.told) == 1
    gate.go.set()
    await journey.drain()


@pytest.mark.parametrize(
    ("failure", "says"),
    [(GateUnavailable("secret words"), "gate_unavailable"), (ValueError("secret words"), "ValueError")],
)
async def test_a_gate_that_fails_to_record_results_is_logged_by_code_alone(
    failure: Exception, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(ScriptedEngine(json_reply("done")), gate=Listening(failure))
    assert b"done" in await answer(world, ask(CHAT_TURN))
    assert says in caplog.text
    assert "secret words" not in caplog.text


def test_results_are_bounded_in_number_and_not_in_text() -> None:
    messages: list[JsonValue] = [{"role": "tool", "tool_call_id": f"c{n}", "content": "x" * 10_000} for n in range(100)]
    found = results_of({"messages": messages})
    assert [each.call_id for each in found] == [f"c{n}" for n in range(evidence.MAX_RESULTS)]
    assert {len(each.content) for each in found} == {10_000}


@pytest.mark.parametrize(
    "messages", [None, "x", [], [1, "a", None], [{"role": "tool"}], [{"role": "tool", "tool_call_id": 7}]]
)
def test_what_holds_no_result_gives_none(messages: JsonValue) -> None:
    assert results_of({"messages": messages}) == ()


# --- receipts ----------------------------------------------------------------------------------------------------

ASKED: dict[str, tuple[Dialect, dict[str, Any]]] = {
    "chat": (Dialect.CHAT, HELLO),
    "responses": (Dialect.RESPONSES, {"model": "auto", "input": "hi"}),
    "messages": (Dialect.MESSAGES, {**HELLO, "max_tokens": 16}),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", ASKED)
async def test_every_dialect_quotes_its_receipt(name: str, stream: bool) -> None:
    dialect, body = ASKED[name]
    world = World(ScriptedEngine(STREAM if stream else json_reply("hi")))
    items = world.surface().journey.answer(ask({**body, "stream": stream}, dialect))
    head, sent = None, bytearray()
    async for item in items:
        if isinstance(item, Head):
            head = item
        else:
            sent += item
    await world.surface().journey.drain()
    [receipt] = await world.audit.append(world.audit.named("route.decided"))
    assert head is not None
    assert head.headers["x-gatehouse-audit-index"] == str(receipt.index)
    assert head.headers["x-gatehouse-receipt"] == receipt.leaf_hash.hex()
    quoted = json.dumps({"index": receipt.index, "leaf": receipt.leaf_hash.hex()}, separators=(",", ":"))
    assert quoted in sent.decode().replace(": ", ":").replace(", ", ",")


async def test_a_completion_quotes_its_receipt() -> None:
    reply = {"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": "abc", "finish_reason": "stop"}]}
    world = World(ScriptedEngine([JSON_START, json.dumps(reply).encode()]))
    sent = await answer(world, ask({"prompt": "x", "max_tokens": 3}, Dialect.COMPLETIONS))
    [receipt] = await world.audit.append(world.audit.named("route.decided"))
    assert json.loads(sent)["x_gatehouse"]["audit"] == {"index": receipt.index, "leaf": receipt.leaf_hash.hex()}
