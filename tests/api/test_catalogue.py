from collections.abc import AsyncIterator
from dataclasses import replace

import httpx2
import pytest
from fastapi import FastAPI, Request, Response

from deployments.errors import GatehouseError
from deployments.ingress.surface import ServedModel
from deployments.ports import Dialect, ModelId, Scope
from serve_app.api.catalogue import create_catalogue_router
from serve_app.api.errors import error_response
from tests.fakes import BASE, KEY, STRONG, ScriptedEngine, World, json_reply

PATH = "/v1/codex/models.json"
EMBEDDER = ServedModel(ModelId("embedder"), None, "vllm", "r1", 512, False, 1, dialects=frozenset({Dialect.EMBEDDINGS}))
ADAPTER = ServedModel(ModelId("by-name"), None, "vllm", "r1", 2048, False, 1)


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    world = World(ScriptedEngine(json_reply("hi")))
    plain = world.surface()
    windows = {BASE: 65_536, STRONG: 131_072}
    served = tuple(replace(each, max_model_len=windows[each.model]) for each in plain.models)
    surface = replace(plain, models=(*served, EMBEDDER, ADAPTER))
    world.ledger.add_key("narrow", models=frozenset({STRONG}))
    world.ledger.add_key("adapter", models=frozenset({ModelId("by-name")}))
    world.ledger.add_key("nothing", models=frozenset({ModelId("gone")}))
    world.ledger.add_key("admin", Scope.ADMIN)
    app = FastAPI()
    app.include_router(create_catalogue_router(surface))

    async def on_error(_: Request, error: Exception) -> Response:
        return error_response(error)

    app.add_exception_handler(GatehouseError, on_error)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gatehouse") as client:
        yield client


async def ask(client: httpx2.AsyncClient, key: str) -> httpx2.Response:
    return await client.get(PATH, headers={"authorization": f"Bearer {key}"})


async def slugs(client: httpx2.AsyncClient, key: str) -> list[tuple[str, int]]:
    reply = await ask(client, key)
    assert reply.status_code == 200
    return [(each["slug"], each["context_window"]) for each in reply.json()["models"]]


async def test_the_catalogue_lists_auto_first_with_the_smallest_routed_window(client: httpx2.AsyncClient) -> None:
    expected = [("auto", 65_536), ("demo-20b", 65_536), ("demo-120b", 131_072), ("by-name", 2048)]
    assert await slugs(client, KEY) == expected


async def test_a_key_sees_its_own_models_only(client: httpx2.AsyncClient) -> None:
    assert await slugs(client, "narrow") == [("auto", 131_072), ("demo-120b", 131_072)]


async def test_a_key_without_a_routed_model_is_not_offered_auto(client: httpx2.AsyncClient) -> None:
    assert await slugs(client, "adapter") == [("by-name", 2048)]


async def test_a_key_whose_models_are_gone_gets_an_empty_catalogue(client: httpx2.AsyncClient) -> None:
    assert await slugs(client, "nothing") == []


async def test_every_entry_carries_our_own_instructions(client: httpx2.AsyncClient) -> None:
    models = (await ask(client, KEY)).json()["models"]
    assert all("[gatehouse:held" in each["base_instructions"] for each in models)


@pytest.mark.parametrize(("key", "status"), [("wrong", 401), ("admin", 403)])
async def test_a_key_without_the_scope_is_told_nothing(client: httpx2.AsyncClient, key: str, status: int) -> None:
    reply = await ask(client, key)
    assert reply.status_code == status
    assert "models" not in reply.json()


async def test_without_a_key_there_is_no_catalogue(client: httpx2.AsyncClient) -> None:
    assert (await client.get(PATH)).status_code == 401
