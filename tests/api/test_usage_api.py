import csv
import io
import json
import re
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from deployments.clock import FixedClock
from deployments.errors import GatehouseError, PartUnavailable
from deployments.ports import Scope
from deployments.usage import Place, UsagePage, UsageQuery, UsageRow
from serve_app.api.auth import Authorizer
from serve_app.api.errors import error_response
from serve_app.api.factory import invalid
from serve_app.api.usage import METHOD, create_usage_router, parse_time
from tests.fakes_ledger import InMemoryLedger
from tests.fakes_usage import BASE, STRONG, InMemoryUsage, numbered

NEW_YEAR = 1_767_225_600_000  # 2026-01-01T00:00:00Z
DAY = 86_400_000
ROW = UsageRow(
    settled_ms=NEW_YEAR + 500,
    grant_id="grant_1",
    tenant="acme",
    team="web",
    key_id="key_1",
    request_id="req_1",
    model="auto",
    served_model=BASE,
    tier="20b",
    reason="easy",
    outcome="completed",
    input_tokens=100,
    cached_tokens=40,
    output_tokens=50,
    reasoning_tokens=20,
    estimated=False,
    admitted_ms=NEW_YEAR,
    cost_micros=150,
)
OTHERS = replace(ROW, tenant="rival", key_id="key_secret", grant_id="grant_2", input_tokens=7_777)


@pytest.fixture
def books() -> InMemoryUsage:
    books = InMemoryUsage(FixedClock(NEW_YEAR + 10 * DAY))
    books.add(ROW)
    books.add(OTHERS)
    return books


@pytest.fixture
async def client(books: InMemoryUsage) -> AsyncIterator[httpx2.AsyncClient]:
    ledger = InMemoryLedger()
    ledger.add_key("agent")
    ledger.add_key("voter", Scope.APPROVE, Scope.AUDIT_READ)
    ledger.add_key("root", Scope.ADMIN, tenant="house")
    app = FastAPI()
    app.include_router(create_usage_router(Authorizer(ledger), books))

    async def on_error(_: Request, error: Exception) -> Response:
        return error_response(invalid(error) if isinstance(error, RequestValidationError) else error)

    app.add_exception_handler(GatehouseError, on_error)
    app.add_exception_handler(RequestValidationError, on_error)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://gatehouse") as client:
        client.headers["authorization"] = "Bearer agent"
        yield client


def as_key(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def get(client: httpx2.AsyncClient, path: str = "/v1/usage", key: str = "agent", **query: str) -> Any:
    reply = await client.get(path, params=query, headers=as_key(key))
    assert reply.status_code == 200, reply.text
    return reply.json()


# --- whose -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/usage/export"])
async def test_a_key_sees_its_own_tenant_and_an_administrator_every_one(
    client: httpx2.AsyncClient, books: InMemoryUsage, path: str
) -> None:
    for key, query, tenant in (
        ("agent", {}, "acme"),
        ("agent", {"tenant": "acme"}, "acme"),
        ("root", {"tenant": "rival"}, "rival"),
        ("root", {}, None),
    ):
        assert (await client.get(path, params=query, headers=as_key(key))).status_code == 200
        assert books.asked.pop() == UsageQuery(tenant)
    for key, query, status in (
        ("agent", {"tenant": "rival"}, 403),
        ("agent", {"tenant": "nobody"}, 403),
        ("voter", {}, 403),
        ("stranger", {}, 401),
    ):
        reply = await client.get(path, params=query, headers=as_key(key))
        assert reply.status_code == status
        assert "rival" not in reply.text.replace(query.get("tenant", "-"), "")
    assert books.asked == []


async def test_nothing_of_another_tenant_is_in_an_answer(client: httpx2.AsyncClient) -> None:
    for path in ("/v1/usage?group_by=key,tenant", *(f"/v1/usage/export?format={each}" for each in ("csv", "json"))):
        text = (await client.get(path)).text
        assert "key_1" in text
        assert not re.search("rival|key_secret|7777|grant_2", text)


# --- totals ----------------------------------------------------------------------------------------------------------


async def test_totals_say_what_was_used_what_it_cost_and_what_routing_saved(client: httpx2.AsyncClient) -> None:
    sums = {
        "requests": 1, "input_tokens": 100, "cached_tokens": 40, "output_tokens": 50, "reasoning_tokens": 20,
        "cost_micros": 150, "cost": "0.00015",
    }  # fmt: skip
    nothing = {**dict.fromkeys(sums, 0), "cost": "0.00"}
    assert await get(client, group_by="served_model,tier", bucket="day") == {
        "object": "usage.report",
        "tenant": "acme",
        "from": None,
        "to": None,
        "bucket": "day",
        "group_by": ["served_model", "tier"],
        "currency": "USD",
        "data": [
            {
                **sums,
                "group": {"served_model": BASE, "tier": "20b"},
                "start": "2026-01-01T00:00:00.000Z",
                "estimated": nothing,
            }
        ],
        "total": {**sums, "estimated": nothing},
        "unpriced_models": [],
        "saved_by_routing": {
            "compared_with": STRONG,
            "requests": 1,
            "cost_micros": 150,
            "would_have_cost_micros": 450,
            "thrown_away_micros": 0,
            "saved_micros": 300,
            "saved": "0.0003",
            "left_out": 0,
            "method": METHOD,
        },
    }


async def test_what_was_estimated_is_shown_apart_and_models_without_a_price_are_named(
    client: httpx2.AsyncClient, books: InMemoryUsage
) -> None:
    books.add(replace(numbered(ROW, 9), estimated=True, served_model="demo-embed", tier=None, cost_micros=0))
    report = await get(client)
    assert (report["total"]["requests"], report["total"]["estimated"]["requests"]) == (2, 1)
    assert (report["total"]["input_tokens"], report["total"]["estimated"]["input_tokens"]) == (200, 100)
    assert report["unpriced_models"] == ["demo-embed"]


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1767225600", NEW_YEAR),
        ("0", 0),
        ("2026-01-01", NEW_YEAR),
        ("2026-01-01T00:00:00Z", NEW_YEAR),
        ("2026-01-01t01:00:00+01:00", NEW_YEAR),
        ("2026-01-01T00:00:00.0019z", NEW_YEAR + 1),
    ],
)
async def test_a_time_is_epoch_seconds_or_rfc_3339(
    client: httpx2.AsyncClient, books: InMemoryUsage, text: str, ms: int
) -> None:
    report = await get(client, **{"from": text, "to": text})
    assert books.asked == [UsageQuery("acme", ms, ms)]
    assert parse_time(report["from"], "from") == ms


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"from": "yesterday"}, "query.from"),
        ({"from": "1767225600000"}, "query.from"),  # milliseconds
        ({"to": "2026-01-01T00:00:00"}, "query.to"),  # of which place?
        ({"to": "2026-13-01"}, "to"),
        ({"from": "9999-12-31T23:59:59-23:59"}, "from"),
        ({"from": "1969-12-31T23:59:59Z"}, "from"),
        ({"group_by": "colour"}, "group_by"),
        ({"group_by": "model,model"}, "group_by"),
        ({"group_by": "model,,tier"}, "group_by"),
        ({"group_by": "tenant,team,key,model,tier"}, "group_by"),
        ({"bucket": "week"}, "query.bucket"),
        ({"tenant": "acme\x00"}, "query.tenant"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_its_name(
    client: httpx2.AsyncClient, query: dict[str, str], param: str
) -> None:
    reply = await client.get("/v1/usage", params=query)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


# --- rows ------------------------------------------------------------------------------------------------------------


def many(books: InMemoryUsage, count: int) -> list[UsageRow]:
    """Rows of acme, of which more than one page has the same time."""
    books.rows = [replace(numbered(ROW, number), settled_ms=NEW_YEAR + number // 700) for number in range(count)]
    return books.rows


@pytest.mark.parametrize("count", [0, 1, 500, 501, 1_234])
async def test_every_format_has_every_row_once_and_in_order(
    client: httpx2.AsyncClient, books: InMemoryUsage, count: int
) -> None:
    rows = [asdict(row) for row in many(books, count)]
    whole = await client.get("/v1/usage/export?format=json")
    assert whole.json() == {"object": "list", "next": str(NEW_YEAR + 10 * DAY + 1), "data": rows}
    lines = await client.get("/v1/usage/export?format=jsonl")
    assert [json.loads(line) for line in lines.text.splitlines()] == rows
    table = await client.get("/v1/usage/export")
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    assert table.headers["content-disposition"] == 'attachment; filename="usage.csv"'
    read = list(csv.DictReader(io.StringIO(table.text, newline="")))
    assert [each["grant_id"] for each in read] == [row["grant_id"] for row in rows]
    assert [int(each["cost_micros"]) for each in read] == [150] * count
    assert {each["estimated"] for each in read} <= {"false"}
    assert {reply.headers["x-gatehouse-next"] for reply in (whole, lines, table)} == {str(NEW_YEAR + 10 * DAY + 1)}


async def test_an_export_goes_on_after_any_of_its_rows(client: httpx2.AsyncClient, books: InMemoryUsage) -> None:
    rows = many(books, 1_234)
    for number in (0, 499, 500, 700, 1_233):
        after = f"{rows[number].settled_ms}:{rows[number].grant_id}"
        found = await get(client, "/v1/usage/export", format="json", after=after)
        assert [each["grant_id"] for each in found["data"]] == [row.grant_id for row in rows[number + 1 :]]
    assert (await get(client, "/v1/usage/export", format="json", after=str(NEW_YEAR)))["data"][0]["grant_id"]
    last = await get(client, "/v1/usage/export", format="json", after=found["next"])
    assert (last["data"], last["next"]) == ([], found["next"])


async def test_pages_of_one_export_end_at_the_same_moment(client: httpx2.AsyncClient, books: InMemoryUsage) -> None:
    """What is settled while an export runs belongs to the next one, which begins where this one says."""
    many(books, 600)
    late = replace(numbered(ROW, 10**6), settled_ms=NEW_YEAR + 10 * DAY + 1)
    pages = books.usage_rows

    async def busy(query: UsageQuery, after: Place | None, complete_ms: int | None, limit: int) -> UsagePage:
        page = await pages(query, after, complete_ms, limit)
        if late not in books.rows:
            books.add(late)
        books._clock = FixedClock(NEW_YEAR + 11 * DAY)
        return page

    books.usage_rows = busy  # pyright: ignore[reportAttributeAccessIssue]
    first = await get(client, "/v1/usage/export", format="json")
    assert len(first["data"]) == 600
    second = await get(client, "/v1/usage/export", format="json", after=first["next"])
    assert [each["grant_id"] for each in second["data"]] == [late.grant_id]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", '=HYPERLINK("http://x")'])
async def test_no_text_of_a_client_is_a_formula_in_a_spreadsheet(
    client: httpx2.AsyncClient, books: InMemoryUsage, text: str
) -> None:
    books.rows = [replace(ROW, request_id=text, model=text, team=text)]
    (row,) = csv.DictReader(io.StringIO((await client.get("/v1/usage/export")).text, newline=""))
    assert {row["request_id"], row["model"], row["team"]} == {"'" + text}
    (kept,) = (await get(client, "/v1/usage/export", format="json"))["data"]
    assert kept["request_id"] == text


async def test_what_an_earlier_version_did_not_write_is_empty(client: httpx2.AsyncClient, books: InMemoryUsage) -> None:
    nothing = ("team", "served_model", "tier", "reason", "outcome", "admitted_ms", "cost_micros")
    books.rows = [replace(ROW, **dict.fromkeys(nothing))]
    (row,) = csv.DictReader(io.StringIO((await client.get("/v1/usage/export")).text, newline=""))
    assert {row[name] for name in nothing} == {""}
    (kept,) = (await get(client, "/v1/usage/export", format="json"))["data"]
    assert {kept[name] for name in nothing} == {None}


@pytest.mark.parametrize("after", ["x", "1:", ":grant_1", "1:a b", "1:%00", "9" * 16, "-1", "1:" + "a" * 65])
async def test_a_place_that_is_none_is_refused(client: httpx2.AsyncClient, books: InMemoryUsage, after: str) -> None:
    assert (await client.get("/v1/usage/export", params={"after": after})).status_code == 400
    assert books.asked == []


async def test_a_ledger_that_is_away_is_said_before_the_reply_begins(
    client: httpx2.AsyncClient, books: InMemoryUsage
) -> None:
    async def away(*_: object) -> UsagePage:
        raise PartUnavailable("The ledger is not available.")

    books.usage_rows = away  # pyright: ignore[reportAttributeAccessIssue]
    assert (await client.get("/v1/usage/export")).status_code == 503


async def test_an_export_that_breaks_off_does_not_look_finished(
    client: httpx2.AsyncClient, books: InMemoryUsage
) -> None:
    many(books, 600)
    pages = books.usage_rows

    async def once(query: UsageQuery, after: Place | None, complete_ms: int | None, limit: int) -> UsagePage:
        if after is not None:
            raise PartUnavailable("The ledger is not available.")
        return await pages(query, after, complete_ms, limit)

    books.usage_rows = once  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(Exception, match=r"already started|not available"):
        await client.get("/v1/usage/export")
