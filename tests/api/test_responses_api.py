"""The Responses API over fakes: what is stored, for whom, and what the official SDK makes of it."""

import asyncio
import json
from typing import Any

import httpx2
import openai
import pytest

from deployments.errors import EngineFailed, EngineOverloaded, PartUnavailable
from deployments.ports import StoredResponse
from tests.api.test_generate import client
from tests.fakes import KEY, SSE_START, ScriptedEngine, Silence, World, chunk, json_reply, sse, stream_reply
from tests.fakes_responses import InMemoryResponses

OTHER = "gh-other-tenant"
STREAM = stream_reply(sse(chunk(reasoning="hm"), chunk(content="Hel"), chunk(content="lo"), chunk(finish="stop")))


async def create(http: httpx2.AsyncClient, **body: object) -> httpx2.Response:
    return await http.post("/v1/responses", json={"model": "auto", "input": "hi", **body})


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(block.split("data: ", 1)[1]) for block in text.split("\n\n") if "data: " in block]


async def test_the_sdk_streams_and_reads_the_stored_response_again() -> None:
    world = World(ScriptedEngine(STREAM))
    async with client(world) as http:
        sdk = openai.AsyncOpenAI(api_key=KEY, base_url="http://test/v1", http_client=http)
        async with sdk.responses.stream(model="auto", input="hi") as stream:
            async for _ in stream:
                pass
            final = await stream.get_final_response()
        assert final.output_text == "Hello"
        assert final.usage is not None
        assert final.usage.total_tokens == 16
        again = await sdk.responses.retrieve(final.id)
        assert again.output_text == "Hello"
        items = await sdk.responses.input_items.list(final.id)
        assert [item.type for item in items.data] == ["message"]


async def test_a_response_is_stored_before_its_last_event_leaves() -> None:
    class Slow(InMemoryResponses):
        async def put(self, response: StoredResponse) -> None:
            await asyncio.sleep(0.01)
            await super().put(response)

    world = World(ScriptedEngine(STREAM), responses=Slow())
    asked = {"model": "auto", "input": "hi", "stream": True}
    async with client(world) as http, http.stream("POST", "/v1/responses", json=asked) as reply:
        async for line in reply.aiter_lines():
            if "response.completed" in line and line.startswith("data:"):
                body = json.loads(line[5:])["response"]
                assert (await http.get(f"/v1/responses/{body['id']}")).json() == body


async def test_a_store_that_fails_makes_no_promise() -> None:
    class Broken(InMemoryResponses):
        async def put(self, response: StoredResponse) -> None:
            raise PartUnavailable("The store of responses did not answer.")

    world = World(ScriptedEngine(STREAM), responses=Broken())
    async with client(world) as http:
        streamed = await create(http, stream=True)
        assert events(streamed.text)[-1]["type"] == "response.failed"
        assert "response.completed" not in streamed.text
        world.engine.scripts = [json_reply("Hello")]
        assert (await create(http)).status_code == 429
        assert (await create(http, store=False)).status_code == 200


async def test_nothing_is_stored_against_the_clients_will() -> None:
    world = World(ScriptedEngine(json_reply("Hello")))
    async with client(world) as http:
        body = (await create(http, store=False)).json()
        assert (await http.get(f"/v1/responses/{body['id']}")).status_code == 404


async def test_a_next_turn_brings_the_earlier_ones_along() -> None:
    world = World(ScriptedEngine(json_reply("My name is Ada.")))
    async with client(world) as http:
        first = (await create(http, input="What is your name?", instructions="Be brief.")).json()
        await create(http, input="Say it again.", previous_response_id=first["id"])
        said = [(each["role"], each.get("content")) for each in world.engine.body["messages"]]  # type: ignore[index,union-attr]
        assert said == [("user", "What is your name?"), ("assistant", "My name is Ada."), ("user", "Say it again.")]


@pytest.mark.parametrize("method", ["get", "delete", "cancel", "items", "previous"])
async def test_another_tenants_response_is_an_unknown_one(method: str) -> None:
    world = World(ScriptedEngine(json_reply("Hello")))
    world.ledger.add_key(OTHER, tenant="rival")

    async def ask(http: httpx2.AsyncClient, response_id: str) -> httpx2.Response:
        headers = {"authorization": f"Bearer {OTHER}", "x-request-id": "same"}
        path = f"/v1/responses/{response_id}"
        match method:
            case "get":
                return await http.get(path, headers=headers)
            case "delete":
                return await http.delete(path, headers=headers)
            case "cancel":
                return await http.post(f"{path}/cancel", headers=headers)
            case "items":
                return await http.get(f"{path}/input_items", headers=headers)
            case _:
                body = {"model": "auto", "input": "x", "previous_response_id": response_id}
                return await http.post("/v1/responses", json=body, headers=headers)

    async with client(world) as http:
        known = (await create(http)).json()["id"]
        unknown = "resp_" + "0" * 32
        foreign, missing = await ask(http, known), await ask(http, unknown)
        assert foreign.status_code == missing.status_code == 404
        assert foreign.text.replace(known, "ID") == missing.text.replace(unknown, "ID")
        assert (await http.get(f"/v1/responses/{known}")).status_code == 200


async def test_a_deleted_response_is_gone() -> None:
    world = World(ScriptedEngine(json_reply("Hello")))
    async with client(world) as http:
        response_id = (await create(http)).json()["id"]
        deleted = await http.delete(f"/v1/responses/{response_id}")
        assert deleted.json() == {"id": response_id, "object": "response", "deleted": True}
        assert (await http.get(f"/v1/responses/{response_id}")).status_code == 404


async def finished(http: httpx2.AsyncClient, response_id: str) -> dict[str, Any]:
    for _ in range(500):
        body = (await http.get(f"/v1/responses/{response_id}")).json()
        if body["status"] not in ("queued", "in_progress"):
            return body
        await asyncio.sleep(0.01)
    raise AssertionError("the background response did not end")


async def test_a_background_response_is_answered_at_once_and_found_later() -> None:
    world = World(ScriptedEngine(json_reply("Hello")))
    async with client(world) as http:
        queued = (await create(http, background=True)).json()
        assert queued["status"] == "queued"
        done = await finished(http, queued["id"])
        assert (done["status"], done["background"], done["id"]) == ("completed", True, queued["id"])
        assert done["output"][-1]["content"][0]["text"] == "Hello"


async def test_a_background_response_that_fails_says_so() -> None:
    world = World(ScriptedEngine([EngineFailed("secret")]))
    async with client(world) as http:
        queued = (await create(http, background=True)).json()
        done = await finished(http, queued["id"])
        assert done["status"] == "failed"
        assert done["error"]["code"] == "upstream_error"


async def test_a_cancelled_background_response_stops_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.api.responses._BEAT_S", 0.01)
    world = World(ScriptedEngine([SSE_START, Silence()]))
    async with client(world) as http:
        queued = (await create(http, background=True)).json()
        for _ in range(500):
            if world.engine.open:
                break
            await asyncio.sleep(0.01)
        cancelled = await http.post(f"/v1/responses/{queued['id']}/cancel")
        assert cancelled.json()["status"] == "cancelled"
        for _ in range(500):
            if not world.engine.open:
                break
            await asyncio.sleep(0.01)
        assert (world.engine.open, world.engine.aborted) == (0, 1)
        assert (await http.get(f"/v1/responses/{queued['id']}")).json()["status"] == "cancelled"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"background": True, "store": False}, "store"),
        ({"background": True, "stream": True}, "stream"),
        ({"store": "yes"}, "store"),
        ({"background": 1}, "background"),
        ({"previous_response_id": 7}, "previous_response_id"),
        ({"background": True, "input": [{"type": "nonsense"}]}, None),
        ({"background": True, "model": "nope"}, "model"),
    ],
)
async def test_what_cannot_be_meant_is_refused_at_once(body: dict[str, object], param: str | None) -> None:
    world = World(ScriptedEngine(json_reply("Hello")))
    async with client(world) as http:
        reply = await create(http, **body)
    assert reply.status_code in (400, 404)
    if param is not None:
        assert reply.json()["error"]["param"] == param
    assert world.engine.calls == []


async def test_an_overload_before_the_first_byte_costs_codex_no_5xx() -> None:
    world = World(ScriptedEngine([EngineOverloaded("busy", 2)]))
    async with client(world) as http:
        reply = await create(http, stream=True)
    assert reply.status_code == 429
    assert int(reply.headers["retry-after"]) >= 5


async def test_a_stream_that_breaks_ends_in_response_failed() -> None:
    world = World(ScriptedEngine([SSE_START, sse(chunk(content="par")), sse(chunk(content="tial")), EngineFailed("x")]))
    async with client(world) as http:
        reply = await create(http, stream=True)
    kinds = [event["type"] for event in events(reply.text)]
    assert kinds[-1] == "response.failed"
    assert "response.completed" not in kinds
    numbers = [event["sequence_number"] for event in events(reply.text)]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize(("query", "ids"), [("?order=asc", [0, 1, 2]), ("", [2, 1, 0]), ("?order=asc&limit=2", [0, 1])])
async def test_input_items_come_in_pages(query: str, ids: list[int]) -> None:
    world = World(ScriptedEngine(json_reply("Hello")))
    given = [{"role": "user", "content": str(number)} for number in range(3)]
    async with client(world) as http:
        response_id = (await create(http, input=given)).json()["id"]
        page = (await http.get(f"/v1/responses/{response_id}/input_items{query}")).json()
    assert [item["content"] for item in page["data"]] == [str(number) for number in ids]
    assert page["has_more"] is (len(ids) < 3)
    assert page["first_id"] == page["data"][0]["id"]
