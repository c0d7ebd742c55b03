"""The names of conversations: another tenant that says acme's gets a conversation of its own, and nothing of acme's."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deployments.ingress.session import SESSION_HEADERS, cache_salt_of, session_of
from deployments.ports import Attempt, AttemptOutcome, Principal, Scope, Tier
from deployments.store import sqlite_url
from tests.api.answering import EMBEDDER
from tests.api.isolating import (
    AGENT,
    MATE,
    RIVAL,
    RUNNER,
    SECRET,
    SESSION,
    TOOLS,
    Ids,
    Request,
    Tenants,
    Told,
    quoted,
    tenants,
    told,
)
from tests.unit.router.asks import INCIDENT

RUNS = frozenset({Scope.INFERENCE})
_NEW = {"x-gatehouse-route-id", "x-gatehouse-audit-index", "x-gatehouse-receipt"}
_RANDOM = re.compile(r'[0-9a-f]{16,}|(?<="index":)[0-9]+')


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Tenants]:
    async with tenants(tmp_path, sqlite_url(tmp_path / "state.db")) as opened:
        yield opened


def plain(reply: httpx2.Response, ids: Ids) -> Told:
    """What a reply tells, without what is random in it."""
    found = told(reply, ids)
    headers = tuple((name, value) for name, value in found.headers if name not in _NEW)
    return Told(found.status, headers, _RANDOM.sub("#", found.body))


NAMES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    **{name: ({name: SESSION}, {}) for name in SESSION_HEADERS},
    "prompt_cache_key": ({}, {"prompt_cache_key": SESSION}),
    "user_id": ({}, {"metadata": {"user_id": json.dumps({"session_id": SESSION})}}),
}


async def routed(house: Tenants, key: str, name: str, session: str = SESSION) -> dict[str, Any]:
    """Where a question about an incident would go, in a conversation of this name."""
    headers, body = (json.loads(json.dumps(each).replace(SESSION, session)) for each in NAMES[name])
    asked = {"messages": [{"role": "user", "content": INCIDENT}], **body}
    found = await house.done(key, "post", "/v1/route", asked, headers=headers)
    return {field: value for field, value in found.items() if field != "id"}


async def test_no_name_of_a_conversation_finds_what_the_router_remembers(house: Tenants) -> None:
    rival = house.new_key(RIVAL, RUNS)
    for name, (headers, body) in NAMES.items():
        session = session_of(house.agent, headers, body, body)
        for number in range(2):
            event = f"{name}:{number}"
            failed = Attempt(event, house.agent.tenant, session, Tier.BASE, AttemptOutcome.FAILED)
            await house.router.observe(failed)
        assert (await routed(house, AGENT, name))["tier"] == "120b"
        assert (await routed(house, AGENT, name, "nobodys-session"))["tier"] == "20b"
        assert await routed(house, rival, name) == await routed(house, rival, name, "nobodys-session")
        assert (await routed(house, rival, name))["tier"] == "20b"


def turns(ids: Ids) -> list[Request]:
    """A next turn in acme's name in every dialect: its session, its change, its call with a result."""
    headers = {"x-session-id": ids.session, "x-gatehouse-change-id": ids.change, "x-request-id": "req-1"}
    arguments = json.dumps({"command": ids.command})
    said = {"metadata": {"user_id": json.dumps({"session_id": ids.session})}}
    call = {"id": ids.tool_call, "type": "function", "function": {"name": "shell", "arguments": arguments}}
    chat = [
        {"role": "user", "content": "Rival asks."},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": ids.tool_call, "content": "It failed."},
    ]
    items = [
        {"type": "message", "role": "user", "content": "Rival asks."},
        {"type": "function_call", "call_id": ids.tool_call, "name": "shell", "arguments": arguments},
        {"type": "function_call_output", "call_id": ids.tool_call, "output": "It failed."},
    ]
    blocks = [
        {"role": "user", "content": "Rival asks."},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": ids.tool_call, "name": "shell", "input": {"command": ids.command}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": ids.tool_call, "content": "It failed.", "is_error": True}
            ],
        },
    ]
    named = {"prompt_cache_key": ids.session, "user": ids.session, **said}
    return [
        Request("post", path, json=body, headers=headers)
        for path, body in (
            ("/v1/chat/completions", {"messages": chat, **named}),
            ("/v1/completions", {"prompt": "Rival asks.", **named}),
            ("/v1/responses", {"input": items, "prompt_cache_key": ids.session, "user": ids.session}),
            ("/v1/messages", {"messages": blocks, "max_tokens": 9, **said}),
            ("/v1/embeddings", {"model": EMBEDDER, "input": ["Rival asks."], "user": ids.session}),
        )
    ]


async def test_a_turn_in_anothers_conversation_is_a_turn_of_ones_own(house: Tenants) -> None:
    ids = await house.furnish()
    nobody, before = ids.nobody(), await house.seen_by_acme(ids)
    theirs = {session_of(house.agent, {"x-session-id": SESSION}, {}, {}), cache_salt_of(house.agent.tenant), ""}
    assert theirs & {call.session for call in house.engine.calls}
    for one, two in zip(turns(ids), turns(nobody), strict=True):
        replies = list[Told]()
        for request, named in ((one, ids), (two, nobody)):
            reply = await house.send(house.new_key(RIVAL, RUNS), request)
            assert reply.status_code == 200, reply.text
            sent = f"{request.json} {request.headers}"
            assert quoted(reply, house.marks(ids), sent) == [], request
            call = house.engine.calls[-1]
            assert not {call.session, call.cache_salt} & theirs
            assert SECRET not in call.body.decode()
            replies.append(plain(reply, named))
        assert replies[0] == replies[1], one
    assert await house.seen_by_acme(ids) == before
    await house.send(AGENT, turns(ids)[0])
    assert await house.seen_by_acme(ids) != before, "the result of acme's own call is news"


async def approved(house: Tenants, command: str) -> str:
    """A call of acme's runner that waits in its session to be executed; the id of its approval."""
    held = await house.propose(AGENT, command, session=SESSION)
    await house.grant(held["approval_id"])
    return held["approval_id"]


async def test_no_other_key_is_released_what_was_approved_for_one(house: Tenants) -> None:
    ids = await house.furnish()
    approval = await approved(house, "rm acme-marker-4")
    before = await house.seen_by_acme(ids)
    call = {"tool": "run", "arguments": {"command": "rm acme-marker-4"}, "audience": RUNNER}
    replies = list[Told]()
    for named in (ids, ids.nobody()):
        request = Request("post", "/v1/gate/calls", json={**call, "session": named.session})
        reply = await house.send(house.new_key(RIVAL, RUNS), request)
        assert reply.json()["status"] == "held"
        assert reply.json()["approval_id"] != approval
        assert reply.json()["permit"] is None
        assert quoted(reply, [*house.marks(ids), approval], str(request.json)) == []
        replies.append(plain(reply, named))
    assert replies[0] == replies[1]
    assert await house.seen_by_acme(ids) == before
    # A mate's key is another requester: its call waits for an approval of its own.
    mates = await house.propose(MATE, "rm acme-marker-4", session=SESSION)
    assert (mates["status"], mates["approval_id"] == approval) == ("held", False)
    released = await house.propose(AGENT, "rm acme-marker-4", session=SESSION)
    assert (released["status"], released["approval_id"]) == ("permitted", approval)


async def test_no_other_model_emits_what_was_approved_for_one(house: Tenants) -> None:
    house.engine.arguments, house.engine.finish = ('{"command": "rm acme-marker-5"}',), "tool_calls"
    asked = {"messages": [{"role": "user", "content": SECRET}], "tools": TOOLS}
    turn = Request("post", "/v1/chat/completions", json=asked, headers={"x-session-id": SESSION})

    async def released(key: str) -> bool:
        reply = await house.send(key, turn)
        return "tool_calls" in reply.json()["choices"][0]["message"]

    assert not await released(AGENT)
    (held,) = (await house.done(AGENT, "get", "/v1/approvals"))["data"]
    await house.grant(held["id"])
    assert not await released(house.new_key(RIVAL, RUNS))
    assert not await released(MATE)
    assert await released(AGENT)
    assert not await released(AGENT)


async def test_the_same_names_of_two_tenants_are_two_sessions(house: Tenants) -> None:
    rival = await house.ledger.authenticate(house.new_key(RIVAL, RUNS))
    mate = await house.ledger.authenticate(MATE)

    def session(principal: Principal, name: str) -> str:
        headers, body = NAMES[name]
        return session_of(principal, headers, body, body)

    for name in NAMES:
        assert session(rival, name) != session(house.agent, name) == session(mate, name)
    # Without a name it is the key's, so two keys that begin alike do not meet.
    opening = {"model": "auto", "messages": [{"role": "user", "content": "Hello."}]}
    same = replace(house.agent, tenant=rival.tenant)
    assert len({session_of(each, {}, opening, opening) for each in (house.agent, mate, rival, same)}) == 4
