from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from deployments.errors import GatehouseError
from deployments.ports import Scope
from serve_app.api.audit import create_audit_router
from serve_app.api.auth import Authorizer
from serve_app.api.errors import error_response
from tests.fakes_audit import InMemoryAudit
from tests.fakes_ledger import InMemoryLedger
from tests.unit.audit.logs import routed


@pytest.fixture
def audit() -> InMemoryAudit:
    return InMemoryAudit()


@pytest.fixture
async def client(audit: InMemoryAudit) -> AsyncIterator[httpx.AsyncClient]:
    ledger = InMemoryLedger()
    for scope in Scope:
        ledger.add_key(scope.value, scope)
    app = FastAPI()
    app.include_router(create_audit_router(Authorizer(ledger), audit))

    async def on_error(_: Request, error: Exception) -> Response:
        return error_response(error)

    app.add_exception_handler(GatehouseError, on_error)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gatehouse") as client:
        yield client


@pytest.mark.parametrize("scope", [Scope.AUDIT_READ, Scope.ADMIN])
async def test_the_head_is_what_the_log_says(client: httpx.AsyncClient, audit: InMemoryAudit, scope: Scope) -> None:
    await audit.append([routed(1)])
    reply = await client.get("/v1/audit/head", headers={"x-api-key": scope.value})
    head = await audit.head()
    assert reply.json() == {"object": "audit.head", "size": 1, "head_hash": head.head_hash}


@pytest.mark.parametrize(("key", "status"), [("inference", 403), ("approve", 403), ("stranger", 401)])
async def test_the_head_is_not_for_everybody(client: httpx.AsyncClient, key: str, status: int) -> None:
    assert (await client.get("/v1/audit/head", headers={"x-api-key": key})).status_code == status


async def test_a_log_that_is_down_is_503(client: httpx.AsyncClient, audit: InMemoryAudit) -> None:
    audit.down = True
    reply = await client.get("/v1/audit/head", headers={"x-api-key": "admin"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "audit_unavailable")
