"""Counting tokens over fakes: what the engine is asked, and what happens where it cannot say."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deployments.errors import EngineFailed, InvalidRequest
from deployments.ports import Usage
from deployments.rollouts import Kind
from tests.api.test_generate import client
from tests.api.test_revisions_everywhere import NEW, OLD, House, Houses
from tests.fakes import BASE, JSON_START, Script, ScriptedEngine, World

QUESTION = {"model": "auto", "messages": [{"role": "user", "content": "one two three"}]}
BILLING = {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=abc;"}


def says(**body: object) -> Script:
    return [JSON_START, json.dumps(body).encode()]


async def test_the_count_is_the_length_of_the_prompt_that_the_engine_would_read() -> None:
    world = World(ScriptedEngine(says(token_ids=[1, 2, 3, 4, 5], request_id="x")))
    async with client(world) as http:
        reply = await http.post("/v1/messages/count_tokens", json={**QUESTION, "system": [BILLING]})
    assert reply.json() == {"input_tokens": 5}
    assert world.engine.calls[0].path == "/v1/chat/completions/render"
    assert world.engine.body == {"model": "demo-20b", "messages": QUESTION["messages"]}
    assert list(world.ledger.settled.values()) == [Usage()]


@pytest.mark.parametrize("error", [EngineFailed("x"), InvalidRequest("This model does not serve this endpoint.")])
async def test_where_the_engine_cannot_say_the_words_are_counted(error: Exception) -> None:
    world = World(ScriptedEngine([error]))
    async with client(world) as http:
        reply = await http.post("/v1/messages/count_tokens", json=QUESTION)
    assert reply.json() == {"input_tokens": 3}


async def test_a_text_is_tokenized_by_the_engine() -> None:
    world = World(ScriptedEngine(says(count=2, max_model_len=4096, tokens=[7, 8], token_strs=None)))
    async with client(world) as http:
        reply = await http.post("/tokenize", json={"model": "demo-120b", "prompt": "hello world"})
        assert reply.status_code == 200  # by the other engine
        reply = await http.post("/tokenize", json={"model": "demo-20b", "prompt": "hello world"})
    assert reply.json()["tokens"] == [7, 8]
    assert world.engine.body == {"model": "demo-20b", "prompt": "hello world"}


async def test_messages_are_rendered_and_not_run_through_a_template() -> None:
    world = World(ScriptedEngine(says(token_ids=[1, 2])))
    async with client(world) as http:
        reply = await http.post("/tokenize", json=QUESTION)
    assert reply.json() == {"count": 2, "max_model_len": 4096, "tokens": [1, 2], "token_strs": None}


async def test_detokenize() -> None:
    world = World(ScriptedEngine(says(prompt="hello")))
    async with client(world) as http:
        reply = await http.post("/detokenize", json={"model": "demo-20b", "tokens": [1]})
    assert reply.json() == {"prompt": "hello"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": QUESTION["messages"]}, "prompt"),
        ("/tokenize", {"prompt": 1}, "prompt"),
        ("/tokenize", {"prompt": "a", "chat_template": "x"}, "chat_template"),
        ("/tokenize", {**QUESTION, "return_token_strs": True}, "return_token_strs"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
    ],
)
async def test_bad_questions_reach_no_engine(path: str, body: dict[str, object], param: str) -> None:
    world = World(ScriptedEngine(says()))
    async with client(world) as http:
        reply = await http.post(path, json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert world.engine.calls == []


async def test_an_answer_that_is_none_is_the_engines_failure() -> None:
    world = World(ScriptedEngine([JSON_START, b"nonsense"]))
    async with client(world) as http:
        reply = await http.post("/detokenize", json={"model": "demo-20b", "tokens": [1]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "upstream_error")


async def test_a_model_that_is_not_granted_does_not_exist() -> None:
    world = World(ScriptedEngine(says()))
    async with client(world) as http:
        reply = await http.post("/tokenize", json={"model": "nope", "prompt": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A rollout of a prompt, which 25 % of the sessions get."""
    houses = Houses(tmp_path)
    made = await houses.make(Kind.PROMPT, BASE, NEW.encode())
    await made.begin()
    yield made
    await made.http.aclose()
    await made.store.close()
    await made.difficulty.close()


async def test_what_is_counted_is_what_the_session_would_get(house: House) -> None:
    for mine, text in ((True, NEW), (False, OLD)):
        for name in house.sessions(mine, 3):
            for headers, extra in (
                ({"x-session-id": name}, {}),
                ({}, {"metadata": {"user_id": json.dumps({"session_id": name})}}),  # as Claude Code says it
            ):
                reply = await house.http.post("/v1/messages/count_tokens", json={**QUESTION, **extra}, headers=headers)
                assert reply.status_code == 200, reply.text
                assert house.engine.calls[-1].path.endswith("/render")
                assert house.engine.body["messages"] == [{"role": "system", "content": text}, *QUESTION["messages"]]


async def test_a_session_without_a_name_is_counted_as_it_is_answered(house: House) -> None:
    seen: set[str] = set()
    for number in range(24):
        said = {"model": "auto", "system": [BILLING], "messages": [{"role": "user", "content": f"turn {number}"}]}
        counted = await house.http.post("/v1/messages/count_tokens", json=said)
        assert counted.status_code == 200, counted.text
        with_what = house.engine.body["messages"]
        answered = await house.http.post("/v1/messages", json={**said, "max_tokens": 9})
        assert answered.status_code == 200, answered.text
        assert house.engine.body["messages"] == with_what
        seen.add(answered.headers["x-gatehouse-prompt-revision"])
    assert seen == {"v1", house.revision}
    await house.world.surface().journey.drain()
