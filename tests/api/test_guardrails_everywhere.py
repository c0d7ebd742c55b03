"""No endpoint that takes words for a model goes round the guardrails of a tenant that requires them.

The endpoints come from the OpenAPI document: an operation with a body that stands in neither table fails, so a new one
cannot be forgotten.
"""

import json
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest

from deployments.guardrails.guard import RULES
from serve_app.api.factory import create_api
from serve_app.api.openapi import document
from tests.api.test_guardrails import BLOCK, EMBEDDER, MAIL, MASK, TOKEN, Broken, Guarded
from tests.fakes import BASE, JSON_START, KEY, ScriptedEngine, json_reply

SAYS = f"I am {MAIL}, my key is {TOKEN}"
TURN = [{"role": "user", "content": SAYS}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": SAYS}]}]
USED = [
    {"role": "user", "content": "go"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "send", "input": {"to": SAYS}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": SAYS}]},
]
CALLED = [
    {"role": "user", "content": "go"},
    {"role": "assistant", "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": "send", "arguments": json.dumps({"to": SAYS})}}]},
    {"role": "tool", "tool_call_id": "c", "content": SAYS},
]  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "send", "description": SAYS, "parameters": {"type": "object"}}}]

Body = Mapping[str, Any]
TAKES_WORDS: Mapping[str, Mapping[str, Body]] = {
    "/v1/chat/completions": {
        "text": {"messages": TURN},
        "parts": {"messages": PARTS},
        "calls": {"messages": CALLED},
        "tools": {"messages": [{"role": "user", "content": "go"}], "tools": TOOLS},
        "stream": {"messages": TURN, "stream": True},
        "cascade": {"messages": TURN, "route": {"cascade": True}},
    },
    "/v1/completions": {
        "prompt": {"prompt": SAYS},
        "prompts": {"prompt": ["go", SAYS]},
        "fill in, before": {"prompt": SAYS, "suffix": "return a"},
        "fill in, behind": {"prompt": "def f():", "suffix": SAYS},
    },
    "/v1/responses": {
        "text": {"input": SAYS},
        "items": {"input": TURN},
        "instructions": {"input": "go", "instructions": SAYS},
    },
    "/v1/messages": {
        "text": {"messages": TURN, "max_tokens": 9},
        "system": {"messages": [{"role": "user", "content": "go"}], "system": SAYS, "max_tokens": 9},
        "results": {"messages": USED, "max_tokens": 9},
    },
    "/v1/embeddings": {"one": {"model": EMBEDDER, "input": SAYS}, "many": {"model": EMBEDDER, "input": ["go", SAYS]}},
    "/v1/messages/count_tokens": {
        "text": {"messages": TURN},
        "system": {"messages": [{"role": "user", "content": "go"}], "system": SAYS},
    },
    "/tokenize": {"prompt": {"model": BASE, "prompt": SAYS}, "messages": {"messages": TURN}},
    "/v1/route": {
        "text": {"messages": TURN},
        "batch": {"requests": [{"messages": [{"role": "user", "content": "go"}]}, {"messages": TURN}]},
    },
}
TAKES_TOKENS: Mapping[str, Mapping[str, Body]] = {
    "/v1/completions": {"ids": {"prompt": [1, 2, 3]}},
    "/v1/embeddings": {"ids": {"model": EMBEDDER, "input": [1, 2, 3]}},
    "/detokenize": {"ids": {"model": BASE, "tokens": [1, 2, 3]}},
}
NO_MODEL_READS = (  # what people, runners and operators say of calls, keys, budgets, changes and rollouts
    "/v1/admin/", "/v1/approvals/{approval_id}", "/v1/audit/", "/v1/changes/", "/v1/feedback", "/v1/gate/",
    "/v1/incidents", "/v1/permits/", "/v1/rollouts",
)  # fmt: skip
REVIEWED = "/v1/approvals/{approval_id}/review"  # the words are those of a held call: tests/unit/ingress/test_advice.py

CASES = [
    pytest.param(path, body, id=f"{path} {name}")
    for path, bodies in TAKES_WORDS.items()
    for name, body in bodies.items()
]
IDS = [
    pytest.param(path, body, id=f"{path} {name}")
    for path, bodies in TAKES_TOKENS.items()
    for name, body in bodies.items()
]


def test_every_operation_with_a_body_is_known() -> None:
    taken = {
        path
        for path, methods in document()["paths"].items()
        for operation in methods.values()
        if "requestBody" in operation
    }
    known = {path for path in taken if path in TAKES_WORDS.keys() | TAKES_TOKENS.keys()}
    assert known == TAKES_WORDS.keys() | TAKES_TOKENS.keys()
    assert not {path for path in taken - known if not path.startswith(NO_MODEL_READS)}
    assert REVIEWED in document()["paths"]


def answers() -> ScriptedEngine:
    """An engine that says something, whatever it is asked."""
    return ScriptedEngine([JSON_START, b'{"token_ids": [1], "count": 1, "tokens": [1], "prompt": "x", "data": []}'])


async def post(guarded: Guarded, path: str, body: Body) -> httpx2.Response:
    surface = guarded.surface()
    transport = httpx2.ASGITransport(create_api(surface))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        asked = body if "requests" in body else {"model": "auto", **body}
        reply = await client.post(path, json=asked, headers={"authorization": f"Bearer {KEY}"})
    await surface.journey.drain()
    return reply


def heard(guarded: Guarded) -> str:
    """All that engines and the router were told."""
    asks = [repr(ask) for ask in guarded.world.difficulty.asks]
    return "".join([*asks, *(call.body.decode() for call in guarded.engine.calls + guarded.world.strong.calls)])


@pytest.mark.parametrize(("path", "body"), CASES)
async def test_words_that_are_blocked_are_refused_and_reach_nobody(path: str, body: Body) -> None:
    guarded = Guarded(answers(), {"required": True, **BLOCK})
    reply = await post(guarded, path, body)
    assert reply.status_code == 400, reply.text
    assert "secrets.api_key" in reply.json()["error"]["message"]
    assert guarded.engine.calls == guarded.world.strong.calls == []
    assert TOKEN not in heard(guarded) + reply.text
    assert guarded.events[-1]["outcome"] == "refused"


@pytest.mark.parametrize(("path", "body"), CASES)
async def test_words_that_nobody_could_look_at_are_refused(path: str, body: Body) -> None:
    guarded = Guarded(answers(), {"required": True, "pii": {"input": "mask"}}, (Broken(),))
    reply = await post(guarded, path, body)
    busy = 429 if path == "/v1/responses" else 529 if path.startswith("/v1/messages") else 503
    assert reply.status_code == busy, reply.text
    assert guarded.engine.calls == guarded.world.strong.calls == []
    assert guarded.world.difficulty.asks == [] or "batch" in json.dumps(body) or "requests" in body
    assert MAIL not in heard(guarded)


@pytest.mark.parametrize(("path", "body"), CASES)
async def test_words_that_are_masked_are_told_to_nobody(path: str, body: Body) -> None:
    guarded = Guarded(answers(), {"required": True, **MASK})
    await post(guarded, path, body)
    told = heard(guarded)
    assert told
    assert MAIL not in told
    assert TOKEN not in told
    assert "[EMAIL]" in told or path == "/v1/route"  # the router's words are features, not texts


@pytest.mark.parametrize(("path", "body"), IDS)
async def test_token_ids_that_nobody_can_read_are_refused(path: str, body: Body) -> None:
    guarded = Guarded(answers(), {"required": True, **MASK})
    reply = await post(guarded, path, body)
    assert reply.status_code == 503, reply.text
    assert guarded.engine.calls == []


@pytest.mark.parametrize(("path", "body"), CASES)
async def test_a_tenant_without_guardrails_is_answered_as_ever(path: str, body: Body) -> None:
    """The tables say the truth: each of these requests is a good one."""
    plain = ScriptedEngine(json_reply("Fine.")) if path != "/tokenize" else answers()
    guarded = Guarded(plain, {}, RULES)
    reply = await post(guarded, path, body)
    assert reply.status_code == 200 or path not in ("/v1/route", "/tokenize", "/v1/messages/count_tokens"), reply.text
    assert TOKEN in heard(guarded) or path == "/v1/route"
