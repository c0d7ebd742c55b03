from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request, Response

from deployments.errors import GatehouseError
from deployments.ports import GateProfile, ModelId, Scope
from serve_app.api.auth import Authorizer
from serve_app.api.errors import error_response
from serve_app.api.keys import create_keys_router
from tests.fakes_ledger import InMemoryLedger


@pytest.fixture
def ledger() -> InMemoryLedger:
    ledger = InMemoryLedger()
    ledger.add_key("root", Scope.ADMIN)
    ledger.add_key("agent", Scope.INFERENCE)
    return ledger


@pytest.fixture
async def client(ledger: InMemoryLedger) -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    app.include_router(create_keys_router(Authorizer(ledger), ledger))

    async def on_error(_: Request, error: Exception) -> Response:
        return error_response(error)

    app.add_exception_handler(GatehouseError, on_error)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gatehouse") as client:
        client.headers["authorization"] = "Bearer root"
        yield client


BODY: dict[str, Any] = {"tenant": "acme", "name": "laptop"}


async def test_a_key_is_created_and_shown_once(client: httpx2.AsyncClient, ledger: InMemoryLedger) -> None:
    body = {
        **BODY,
        "person": "alice",
        "scopes": ["inference", "approve"],
        "models": ["demo-20b"],
        "gate_profile": "coding",
        "ttl_s": 3600,
        "hold_s": 120,
        "budget_tokens": 5_000_000,
        "roles": ["sre", "dba"],
    }
    reply = await client.post("/v1/admin/keys", json=body)
    assert reply.status_code == 201
    created = reply.json()
    principal = await ledger.authenticate(created["key"])
    assert (principal.person, principal.gate_profile) == ("alice", GateProfile.CODING)
    assert principal.models == {ModelId("demo-20b")}
    assert principal.hold_s == 120
    assert (created["hold_s"], created["budget_tokens"]) == (120, 5_000_000)
    assert created["scopes"] == ["approve", "inference"]
    assert (created["roles"], principal.roles) == (["dba", "sre"], {"dba", "sre"})
    assert created["expires_ms"] - created["created_ms"] == 3_600_000
    listed = await client.get("/v1/admin/keys")
    assert {name: value for name, value in created.items() if name != "key"} in listed.json()["data"]
    assert created["key"] not in listed.text
    assert ledger.actors == ["key_1"]


async def test_the_defaults_are_the_strict_ones(client: httpx2.AsyncClient) -> None:
    created = (await client.post("/v1/admin/keys", json=BODY)).json()
    assert created["scopes"] == ["inference"]
    assert (created["gate_profile"], created["models"], created["person"]) == ("ops", None, None)
    assert (created["hold_s"], created["budget_tokens"], created["roles"]) == (0, None, [])


@pytest.mark.parametrize("change", [{"hold_s": 600}, {"hold_s": 0}, {"budget_tokens": 1}, {"budget_tokens": 2**53 - 1}])
async def test_the_ends_of_the_ranges_are_within(client: httpx2.AsyncClient, change: dict[str, int]) -> None:
    created = (await client.post("/v1/admin/keys", json={**BODY, **change})).json()
    assert {name: created[name] for name in change} == change


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tenant": None}, "tenant"),
        ({"tenant": "Acme Inc"}, "tenant"),
        ({"tenant": "acme\n"}, "tenant"),
        ({"name": ""}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes.0"),
        ({"scopes": "inference"}, "scopes"),
        ({"models": []}, "models"),
        ({"gate_profile": "none"}, "gate_profile"),
        ({"ttl_s": 0}, "ttl_s"),
        ({"ttl_s": "60"}, "ttl_s"),
        ({"ttl_s": True}, "ttl_s"),
        ({"hold_s": 601}, "hold_s"),
        ({"hold_s": -1}, "hold_s"),
        ({"hold_s": None}, "hold_s"),
        ({"budget_tokens": 0}, "budget_tokens"),
        ({"budget_tokens": 2**53}, "budget_tokens"),
        ({"budget_tokens": 1.5}, "budget_tokens"),
        ({"colour": "red"}, "colour"),
        ({"roles": ["SRE"]}, "roles.0"),
        ({"roles": ["on call"]}, "roles.0"),
        ({"roles": "sre"}, "roles"),
        ({"roles": [f"r{number}" for number in range(65)]}, "roles"),
        ({"person": "\u0430nn"}, "person"),  # a Cyrillic letter among Latin ones
        ({"person": "an\u200bn"}, "person"),
        ({"person": "   "}, "person"),
    ],
)
async def test_a_bad_body_names_its_field(
    client: httpx2.AsyncClient, ledger: InMemoryLedger, change: dict[str, Any], param: str
) -> None:
    reply = await client.post("/v1/admin/keys", json={**BODY, **change})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert len(ledger.keys) == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"tenant":"a","tenant":"b","name":"n"}', b"[" * 9999])
async def test_what_is_not_an_object_is_refused(client: httpx2.AsyncClient, content: bytes) -> None:
    reply = await client.post("/v1/admin/keys", content=content)
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"


async def test_a_huge_body_is_refused(client: httpx2.AsyncClient) -> None:
    assert (await client.post("/v1/admin/keys", json={**BODY, "name": "n" * 70_000})).status_code == 413


async def test_a_revoked_key_is_revoked(client: httpx2.AsyncClient, ledger: InMemoryLedger) -> None:
    created = (await client.post("/v1/admin/keys", json=BODY)).json()
    reply = await client.delete(f"/v1/admin/keys/{created['id']}")
    assert reply.status_code == 200
    assert reply.json()["revoked_ms"] is not None
    assert ledger.keys[created["key"]].revoked_ms is not None


async def test_an_unknown_key_is_404(client: httpx2.AsyncClient) -> None:
    reply = await client.delete("/v1/admin/keys/key_nobody")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


async def test_keys_are_listed_per_tenant(client: httpx2.AsyncClient) -> None:
    await client.post("/v1/admin/keys", json={**BODY, "tenant": "other"})
    listed = (await client.get("/v1/admin/keys", params={"tenant": "other"})).json()
    assert [key["tenant"] for key in listed["data"]] == ["other"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/admin/keys"), ("GET", "/v1/admin/keys"), ("DELETE", "/v1/admin/keys/key_1")],
)
async def test_every_route_needs_the_admin_scope(
    client: httpx2.AsyncClient, ledger: InMemoryLedger, method: str, path: str
) -> None:
    for key, status in (("agent", 403), ("stranger", 401)):
        reply = await client.request(method, path, json=BODY, headers={"authorization": f"Bearer {key}"})
        assert reply.status_code == status
    assert len(ledger.keys) == 2
    assert all(record.revoked_ms is None for record in ledger.keys.values())
