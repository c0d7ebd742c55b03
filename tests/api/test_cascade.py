"""The verified cascade over HTTP."""

import asyncio
import json

import httpx2
import pytest

from deployments.errors import EngineFailed
from deployments.ports import AttemptOutcome, Tier, Usage
from tests.api.test_generate import client, post
from tests.cascading import (
    ASKED,
    CALLS,
    QUESTION,
    RIGHT,
    TOOLS,
    WRONG,
    finished,
    nothing_is_owed,
    settled,
    streamed,
    world,
)
from tests.fakes import BASE, JSON_START, STRONG, RuleGate, Silence, json_reply
from tests.unit.ingress.test_chat_stream import SECRET, hold_dangerous


def said(reply: httpx2.Response) -> str:
    return reply.json()["choices"][0]["message"]["content"]


def headers(reply: httpx2.Response) -> tuple[str | None, str | None, str | None]:
    """Word, reason, model."""
    names = ("x-gatehouse-cascade", "x-gatehouse-cascade-reason", "x-gatehouse-model")
    return tuple(reply.headers.get(name) for name in names)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("route", "header"),
    [
        ({"cascade": "yes"}, None),
        ({"cascades": True}, None),
        (True, None),
        ([], None),
        ({}, "maybe"),
    ],
    ids=["text", "unknown", "bare", "list", "header"],
)
async def test_a_wish_that_is_none_is_refused(route: object, header: str | None) -> None:
    here = world()
    reply = await post(here, {**ASKED, "route": route}, **({"x-gatehouse-cascade": header} if header else {}))
    assert reply.status_code == 400
    assert here.engine.calls == []


async def test_the_answer_of_the_larger_model_comes_with_its_headers() -> None:
    here = world()
    reply = await post(here, ASKED)
    assert (reply.status_code, said(reply)) == (200, RIGHT)
    assert headers(reply) == ("escalated", None, STRONG)
    assert reply.json()["usage"]["total_tokens"] == 32


async def test_a_reply_that_calls_a_tool_goes_to_the_gate_and_is_never_asked_for_again() -> None:
    here = world(json_reply(WRONG, CALLS, "tool_calls"), gate=RuleGate(hold_dangerous))
    reply = await post(here, {**ASKED, "tools": TOOLS})
    await settled(here)
    assert headers(reply) == ("unverified", "tool_calls", BASE)
    assert here.strong.calls == []
    assert [call.name for call in here.gate.judged] == ["shell"]
    assert reply.headers["x-gatehouse-held"] == "1"
    assert SECRET not in reply.text


async def test_a_client_that_leaves_during_the_second_attempt_pays_for_both() -> None:
    here = world(strong=[JSON_START, Silence()])
    async with client(here) as http:
        asking = asyncio.create_task(http.post("/v1/chat/completions", json=ASKED))
        while not here.strong.open:
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await settled(here)
    assert (here.strong.open, here.strong.aborted) == (0, 1)
    first, second = finished(here)
    assert (first["model"], first["outcome"], first["verdict"]) == (BASE, "abandoned", "fail")
    assert (second["model"], second["outcome"]) == (STRONG, "aborted")
    assert nothing_is_owed(here)
    paid = list(here.ledger.settled.values())
    assert Usage(11, 0, 5, 0) in paid
    assert sum(each.estimated for each in paid) == 1
    assert [(each.tier, each.outcome) for each in here.difficulty.attempts] == [
        (Tier.BASE, AttemptOutcome.VERIFIER_FAILED)
    ]


async def test_an_engine_that_fails_first_is_an_error_as_ever() -> None:
    here = world([JSON_START, EngineFailed("broken")])
    reply = await post(here, ASKED)
    await settled(here)
    assert reply.status_code == 503
    assert here.strong.calls == []
    assert nothing_is_owed(here)


async def test_a_stream_that_may_wait_is_checked_before_its_first_byte() -> None:
    here = world(streamed(WRONG), strong=streamed(RIGHT))
    body = {**ASKED, "route": {"cascade": True, "buffer": True}, "stream": True}
    reply = await post(here, {**body, "stream_options": {"include_usage": True}})
    await settled(here)
    assert headers(reply) == ("escalated", None, STRONG)
    assert RIGHT in reply.text
    assert WRONG not in reply.text
    events = [json.loads(line[6:]) for line in reply.text.split("\n") if line.startswith("data: {")]
    assert [event["usage"]["total_tokens"] for event in events if event.get("usage")] == [32]
    assert reply.text.rstrip().endswith("data: [DONE]")
    assert nothing_is_owed(here)
    assert list(here.ledger.settled.values()) == [Usage(11, 4, 5, 0)] * 2


@pytest.mark.parametrize(
    ("path", "body", "find"),
    [
        ("/v1/messages", {"max_tokens": 900, "messages": [{"role": "user", "content": QUESTION}]}, "content"),
        ("/v1/responses", {"input": QUESTION, "store": False}, "output"),
    ],
)
async def test_every_dialect_can_ask(path: str, body: dict[str, object], find: str) -> None:
    here = world()
    reply = await post(here, {"model": "auto", "route": {"cascade": True}, **body}, path)
    assert reply.status_code == 200
    assert headers(reply) == ("escalated", None, STRONG)
    assert RIGHT in json.dumps(reply.json()[find])
    assert reply.json()["model"] == STRONG
    assert WRONG not in reply.text
