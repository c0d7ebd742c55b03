from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request, Response

from deployments.clock import FixedClock
from deployments.errors import GatehouseError
from deployments.ports import Budget, Scope, Unit, Window
from serve_app.api.auth import Authorizer
from serve_app.api.budgets import create_budgets_router
from serve_app.api.errors import error_response
from tests.fakes_ledger import InMemoryLedger

PATH = "/v1/admin/budgets"
BODY: dict[str, Any] = {"tenant": "acme", "tokens": 1000}
NOW_MS = FixedClock().now_ms()


@pytest.fixture
def ledger() -> InMemoryLedger:
    ledger = InMemoryLedger()
    ledger.add_key("root", Scope.ADMIN)
    ledger.add_key("agent", Scope.INFERENCE)
    return ledger


@pytest.fixture
async def client(ledger: InMemoryLedger) -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    app.include_router(create_budgets_router(Authorizer(ledger), ledger, FixedClock()))

    async def on_error(_: Request, error: Exception) -> Response:
        return error_response(error)

    app.add_exception_handler(GatehouseError, on_error)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gatehouse") as client:
        client.headers["authorization"] = "Bearer root"
        yield client


async def test_money_is_kept_in_integer_millionths(client: httpx2.AsyncClient, ledger: InMemoryLedger) -> None:
    body = {"tenant": "acme", "team": "web", "money": "12.345678", "window": "week", "alerts": [90, 50, 90]}
    reply = await client.post(PATH, json=body)
    assert reply.status_code == 201
    made = reply.json()
    assert (made["amount"], made["unit"], made["currency"]) == (12_345_678, "micros", "USD")
    [kept] = ledger.kept_budgets.values()
    assert kept == Budget(
        made["id"], "acme", "web", None, Unit.MICROS, 12_345_678, Window.WEEK, alerts=(50, 90), created_ms=NOW_MS
    )
    assert made["window_ends_ms"] - made["window_starts_ms"] == 7 * 86_400_000


async def test_a_fixed_window_begins_now_unless_it_is_anchored(client: httpx2.AsyncClient) -> None:
    made = (await client.post(PATH, json={**BODY, "window": "fixed", "every_s": 3600})).json()
    assert (made["window_starts_ms"], made["window_ends_ms"]) == (NOW_MS, NOW_MS + 3_600_000)
    anchored = {**BODY, "window": "fixed", "every_s": 3600, "anchor_ms": NOW_MS - 60_000}
    assert (await client.post(PATH, json=anchored)).json()["window_starts_ms"] == NOW_MS - 60_000


async def test_a_budget_of_a_name_is_replaced_and_removed(client: httpx2.AsyncClient, ledger: InMemoryLedger) -> None:
    for tokens in (10, 20):
        assert (await client.put(f"{PATH}/mine", json={**BODY, "tokens": tokens})).json()["amount"] == tokens
    [shown] = (await client.get(PATH, params={"tenant": "acme"})).json()["data"]
    assert (shown["id"], shown["window"], shown["currency"]) == ("mine", "month", None)
    assert (await client.get(PATH, params={"tenant": "other"})).json()["data"] == []
    assert (await client.delete(f"{PATH}/mine")).json() == {"object": "budget.removed", "id": "mine"}
    assert (await client.delete(f"{PATH}/mine")).status_code == 404
    assert ledger.actors == ["key_1", "key_1", "key_1"]


async def test_a_key_sees_the_budgets_that_hold_for_it(client: httpx2.AsyncClient, ledger: InMemoryLedger) -> None:
    mine, other = ledger.add_key("mine"), ledger.add_key("other")
    for name, body in {
        "all": {}, "web": {"team": "web"}, "mine": {"key_id": mine.key_id}, "other": {"key_id": other.key_id},
    }.items():  # fmt: skip
        assert (await client.put(f"{PATH}/{name}", json={**BODY, **body})).status_code == 200
    await client.put(f"{PATH}/rival", json={**BODY, "tenant": "rival"})
    reply = await client.get("/v1/budgets", headers={"authorization": "Bearer mine"})
    assert [each["id"] for each in reply.json()["data"]] == ["all", "mine"]


async def test_setting_and_listing_takes_the_scope_admin(client: httpx2.AsyncClient) -> None:
    client.headers["authorization"] = "Bearer agent"
    assert (await client.post(PATH, json=BODY)).status_code == 403
    assert (await client.put(f"{PATH}/mine", json=BODY)).status_code == 403
    assert (await client.get(PATH)).status_code == 403
    assert (await client.delete(f"{PATH}/mine")).status_code == 403


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokens": None}, "set either tokens or money"),
        ({"money": "1"}, "set either tokens or money"),
        ({"tokens": 0}, "tokens"),
        ({"tokens": 2**53}, "tokens"),
        ({"tokens": "10"}, "tokens"),
        ({"tokens": None, "money": "0.0000001"}, "money"),
        ({"tokens": None, "money": "-1"}, "money"),
        ({"tokens": None, "money": "NaN"}, "money"),
        ({"team": "web", "key_id": "key_1"}, "not to both"),
        ({"window": "year"}, "window"),
        ({"window": "fixed"}, "every_s"),
        ({"every_s": 60}, "every_s"),
        ({"window": "fixed", "every_s": 59}, "every_s"),
        ({"anchor_ms": 1}, "anchor_ms"),
        ({"alerts": [0]}, "alerts"),
        ({"alerts": list(range(1, 12))}, "alerts"),
        ({"hard": "yes"}, "hard"),
        ({"amount": 1}, "amount"),
        ({"tenant": ""}, "tenant"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(
    client: httpx2.AsyncClient, ledger: InMemoryLedger, change: dict[str, Any], says: str
) -> None:
    reply = await client.post(PATH, json={**BODY, **change})
    assert reply.status_code == 400
    assert says in reply.json()["error"]["message"]
    assert ledger.kept_budgets == {}


async def test_a_name_that_no_budget_may_have_is_refused(client: httpx2.AsyncClient) -> None:
    assert (await client.put(f"{PATH}/a%20b", json=BODY)).status_code in (400, 422)
    assert (await client.put(f"{PATH}/{'x' * 65}", json=BODY)).status_code in (400, 422)


async def test_a_key_that_does_not_exist_has_no_budget(client: httpx2.AsyncClient) -> None:
    assert (await client.post(PATH, json={**BODY, "key_id": "key_nobody"})).status_code == 404
