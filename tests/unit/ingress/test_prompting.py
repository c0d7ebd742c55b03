"""The operator's instructions: in front of every conversation, nowhere else, and seen by nobody but the engine."""

import json
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest

from deployments.errors import ContextTooLong
from deployments.ingress.dialects.codecs import make_codecs
from deployments.ingress.journey import Ask, Head
from deployments.ingress.prompting import Prompt, Prompts
from deployments.ports import Dialect, RequestId, Scope
from serve_app.api.factory import create_api
from tests.fakes import BASE, KEY, STRONG, World
from tests.fakes_revisions import Revised, SayingEngine

TEXT = "Answer in one sentence. The word is PLUGH."
PROMPTS = {BASE: (Prompt("v1", TEXT), Prompt("v2", "Answer at length."))}
USER = {"role": "user", "content": "Hi"}
CODECS = make_codecs(emulate_fim=True)
BODIES: dict[Dialect, dict[str, Any]] = {
    Dialect.CHAT: {"model": BASE, "messages": [USER]},
    Dialect.RESPONSES: {"model": BASE, "input": "Hi"},
    Dialect.MESSAGES: {"model": BASE, "max_tokens": 16, "messages": [USER]},
}
INSTRUCTED: dict[Dialect, dict[str, Any]] = {
    Dialect.CHAT: {"messages": [{"role": "system", "content": "Be brief."}, USER]},
    Dialect.RESPONSES: {"instructions": "Be brief."},
    Dialect.MESSAGES: {"system": "Be brief."},
}
OTHERS: dict[str, tuple[Dialect, dict[str, Any]]] = {
    "completion": (Dialect.COMPLETIONS, {"model": BASE, "prompt": "def f("}),
    "middle": (Dialect.COMPLETIONS, {"model": BASE, "prompt": "def f(", "suffix": "return x"}),
    "embedding": (Dialect.EMBEDDINGS, {"model": BASE, "input": "text"}),
}


def before(dialect: Dialect, body: Mapping[str, Any], revision: str = "") -> list[Any]:
    return Prompts(PROMPTS).before(CODECS[dialect].read(body), BASE, revision).body["messages"]


@pytest.mark.parametrize("dialect", [*BODIES], ids=[each.value for each in BODIES])
def test_a_conversation_begins_with_the_instructions_in_every_dialect(dialect: Dialect) -> None:
    assert before(dialect, BODIES[dialect]) == [{"role": "system", "content": TEXT}, USER]
    said = before(dialect, BODIES[dialect] | INSTRUCTED[dialect])
    # One message, the first: many chat templates take no second one.
    assert [each["role"] for each in said] == ["system", "user"]
    assert said[0]["content"] == f"{TEXT}\n\nBe brief."


@pytest.mark.parametrize("role", ["system", "developer"])
def test_what_the_client_says_first_follows_the_instructions(role: str) -> None:
    parts = [{"type": "text", "text": "Be brief."}]
    body = {"messages": [{"role": role, "content": parts, "name": "me"}, USER, {"role": "system", "content": "Stop."}]}
    first, *rest = before(Dialect.CHAT, body)
    assert first == {"role": role, "content": [{"type": "text", "text": f"{TEXT}\n\n"}, *parts], "name": "me"}
    assert rest == body["messages"][1:]
    for nothing in ("", None):
        assert before(Dialect.CHAT, {"messages": [{"role": role, "content": nothing}]}) == [
            {"role": role, "content": TEXT}
        ]


def test_a_revision_is_what_was_chosen_and_else_the_configured_one() -> None:
    texts = [before(Dialect.CHAT, BODIES[Dialect.CHAT], revision)[0]["content"] for revision in ("v2", "v1", "", "x")]
    assert texts == ["Answer at length.", TEXT, TEXT, TEXT]


@pytest.mark.parametrize("which", [*OTHERS])
def test_what_is_no_conversation_is_left_as_it_is(which: str) -> None:
    dialect, body = OTHERS[which]
    asked = CODECS[dialect].read(body)
    assert Prompts(PROMPTS).before(asked, BASE) is asked
    assert Prompts(PROMPTS).most_chars(asked) == 0


@pytest.mark.parametrize("prompts", [{}, {STRONG: (Prompt("v1", TEXT),)}, {BASE: (Prompt("none", ""),)}],
                         ids=["none", "another-model", "empty"])  # fmt: skip
def test_without_instructions_nothing_changes(prompts: Any) -> None:
    asked = CODECS[Dialect.CHAT].read(BODIES[Dialect.CHAT])
    assert Prompts(prompts).before(asked, BASE) is asked


async def answered(world: World, dialect: Dialect, body: Mapping[str, Any], **headers: str) -> tuple[Head, bytes]:
    journey, head, said = world.surface().journey, None, b""
    try:
        async for item in journey.answer(Ask(dialect, RequestId("req_1"), KEY, headers, body)):
            if isinstance(item, Head):
                head = item
            else:
                said += item
    finally:
        await journey.drain()
    assert head is not None
    return head, said


@pytest.mark.parametrize("dialect", [*BODIES], ids=[each.value for each in BODIES])
async def test_the_engine_alone_sees_the_instructions(dialect: Dialect) -> None:
    engine = SayingEngine()
    world = Revised(engine, prompts=PROMPTS)
    head, said = await answered(world, dialect, BODIES[dialect])
    assert engine.body["messages"] == [{"role": "system", "content": TEXT}, USER]
    assert b"PLUGH" not in said
    assert "PLUGH" not in json.dumps(dict(head.headers))
    assert "x-gatehouse-prompt-revision" not in head.headers  # there was nothing to choose
    assert "PLUGH" not in repr(world.audit.events)
    assert "PLUGH" not in repr(world.difficulty.asks)


@pytest.mark.parametrize("dialect", [*BODIES], ids=[each.value for each in BODIES])
async def test_a_model_without_instructions_is_asked_byte_for_byte_as_ever(dialect: Dialect) -> None:
    plain, revised = SayingEngine(), SayingEngine()
    await answered(World(plain), dialect, BODIES[dialect] | INSTRUCTED[dialect])
    await answered(
        Revised(revised, prompts={STRONG: (Prompt("v1", TEXT),)}), dialect, BODIES[dialect] | INSTRUCTED[dialect]
    )
    assert plain.calls[0].body == revised.calls[0].body


async def test_what_is_set_aside_and_the_window_hold_the_instructions() -> None:
    long = " ".join(["word"] * 300)
    plain, told = Revised(SayingEngine()), Revised(SayingEngine(), prompts={BASE: (Prompt("v1", long),)})
    for world in (plain, told):
        await answered(world, Dialect.CHAT, BODIES[Dialect.CHAT])
    little, much = (each.ledger.prompt_tokens[0] for each in (plain, told))
    assert much - little == pytest.approx(len(long) / 4, abs=1)
    small = Revised(SayingEngine(), limit=250, prompts={BASE: (Prompt("v1", long),)})
    with pytest.raises(ContextTooLong):
        await answered(small, Dialect.CHAT, BODIES[Dialect.CHAT])


def http(world: World) -> httpx2.AsyncClient:
    world.ledger.add_key("all", *Scope)
    transport = httpx2.ASGITransport(create_api(world.surface()))
    return httpx2.AsyncClient(transport=transport, base_url="http://x", headers={"authorization": "Bearer all"})


async def test_tokens_are_counted_with_the_instructions_and_none_of_them_is_shown() -> None:
    engine = SayingEngine()
    async with http(Revised(engine, prompts=PROMPTS)) as with_them, http(Revised(SayingEngine())) as without:
        body = {"model": BASE, "messages": [USER]}
        counts = [
            (await each.post("/v1/messages/count_tokens", json=body)).json()["input_tokens"]
            for each in (with_them, without)
        ]
        assert counts[0] - counts[1] >= len(TEXT.split())
        # Whoever could have the ids of the prompt could have its words.
        assert (await with_them.post("/tokenize", json=body)).status_code == 200
        assert engine.body["messages"] == [USER]


async def test_a_conversation_that_goes_on_has_the_instructions_once_and_what_is_stored_has_none() -> None:
    engine = SayingEngine()
    world = Revised(engine, prompts=PROMPTS)
    async with http(world) as client:
        first = (await client.post("/v1/responses", json={"model": BASE, "input": "Hi"})).json()
        again = {"model": BASE, "input": "And now?", "previous_response_id": first["id"]}
        second = (await client.post("/v1/responses", json=again)).json()
        said = engine.body["messages"]
        assert [each["role"] for each in said] == ["system", "user", "assistant", "user"]
        assert said[0]["content"] == TEXT
        for each in (first, second):
            for path in ("", "/input_items"):
                shown = await client.get(f"/v1/responses/{each['id']}{path}")
                assert shown.status_code == 200, shown.text
                assert "PLUGH" not in shown.text
    assert "PLUGH" not in repr(vars(world.responses))
