from collections.abc import AsyncIterator
from dataclasses import replace
from typing import cast

import httpx2
import pytest
import rfc8785
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from deployments.audit.merkle import leaf_hash, verify_consistency
from deployments.audit.notes import parse_checkpoint, parse_note
from deployments.audit.proofs import Trust, parse_inclusion_proof, verify_inclusion_proof
from deployments.audit.tiles import parse_bundle
from deployments.errors import GatehouseError
from deployments.ports import Scope, TenantId
from serve_app.api.audit import create_audit_router
from serve_app.api.auth import Authorizer
from serve_app.api.errors import error_response
from serve_app.api.factory import create_api, invalid
from tests.fakes import ScriptedEngine, World
from tests.fakes_audit import ORIGIN, InMemoryAudit
from tests.fakes_ledger import InMemoryLedger
from tests.unit.audit.logs import routed


@pytest.fixture
def audit() -> InMemoryAudit:
    return InMemoryAudit()


@pytest.fixture
async def client(audit: InMemoryAudit) -> AsyncIterator[httpx2.AsyncClient]:
    ledger = InMemoryLedger()
    for scope in Scope:
        ledger.add_key(scope.value, scope)
    app = FastAPI()
    app.include_router(create_audit_router(Authorizer(ledger), audit))

    async def on_error(_: Request, error: Exception) -> Response:
        return error_response(error)

    async def on_invalid(_: Request, error: Exception) -> Response:
        return error_response(invalid(cast(RequestValidationError, error)))

    app.add_exception_handler(GatehouseError, on_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gatehouse") as client:
        yield client


@pytest.mark.parametrize("scope", [Scope.AUDIT_READ, Scope.ADMIN])
async def test_the_head_is_what_the_log_says(client: httpx2.AsyncClient, audit: InMemoryAudit, scope: Scope) -> None:
    await audit.append([routed(1)])
    reply = await client.get("/v1/audit/head", headers={"x-api-key": scope.value})
    head = await audit.head()
    assert reply.json() == {"object": "audit.head", "size": 1, "head_hash": head.head_hash}


@pytest.mark.parametrize(("key", "status"), [("inference", 403), ("approve", 403), ("stranger", 401)])
async def test_the_head_is_not_for_everybody(client: httpx2.AsyncClient, key: str, status: int) -> None:
    assert (await client.get("/v1/audit/head", headers={"x-api-key": key})).status_code == status


async def test_a_log_that_is_down_is_503(client: httpx2.AsyncClient, audit: InMemoryAudit) -> None:
    audit.down = True
    reply = await client.get("/v1/audit/head", headers={"x-api-key": "admin"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "audit_unavailable")


READ = {"x-api-key": "audit-read"}
ADMIN = {"x-api-key": "admin"}
READERS = [
    "/v1/audit/head",
    "/v1/audit/status",
    "/v1/audit/keys",
    "/v1/audit/checkpoint",
    "/v1/audit/tile/0/000.p/1",
    "/v1/audit/consistency?old_size=0",
    "/v1/audit/receipts/0",
    "/v1/audit/records",
]


@pytest.mark.parametrize("path", READERS)
@pytest.mark.parametrize(("key", "status"), [("audit-read", 200), ("admin", 200), ("approve", 403), ("inference", 403)])
async def test_the_log_is_for_its_readers(
    client: httpx2.AsyncClient, audit: InMemoryAudit, path: str, key: str, status: int
) -> None:
    await audit.append([routed(1)])
    assert (await client.get(path, headers={"x-api-key": key})).status_code == status


async def test_a_receipt_is_proven_under_the_checkpoint_that_it_brings(
    client: httpx2.AsyncClient, audit: InMemoryAudit
) -> None:
    receipts = await audit.append([routed(number) for number in range(20)])
    reply = (await client.get("/v1/audit/receipts/7", headers=READ)).json()
    assert (reply["object"], reply["index"]) == ("audit.receipt", 7)
    assert reply["leaf_hash"] == receipts[7].leaf_hash.hex()
    proof = parse_inclusion_proof(reply["proof"].encode())
    trust = Trust(ORIGIN, (audit.key.verifier,))
    trusted = verify_inclusion_proof(proof, 7, receipts[7].leaf_hash, trust)
    assert trusted.checkpoint.size == 20
    assert [each.hex() for each in proof.hashes] == reply["hashes"]
    assert proof.checkpoint.decode() == reply["checkpoint"]


async def test_a_receipt_comes_as_one_text_too(client: httpx2.AsyncClient, audit: InMemoryAudit) -> None:
    await audit.append([routed(1), routed(2)])
    reply = await client.get("/v1/audit/receipts/1?format=tlog-proof", headers=READ)
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert parse_inclusion_proof(reply.content).index == 1


async def test_whoever_holds_a_receipt_may_have_it_proven_with_any_key(
    client: httpx2.AsyncClient, audit: InMemoryAudit
) -> None:
    [receipt] = await audit.append([routed(1)])
    leaf = receipt.leaf_hash.hex()
    headers = {"x-api-key": "inference"}
    assert (await client.get(f"/v1/audit/receipts/0?leaf={leaf}", headers=headers)).status_code == 200
    assert (await client.get(f"/v1/audit/receipts/0?leaf={'0' * 64}", headers=headers)).status_code == 404
    assert (await client.get(f"/v1/audit/receipts/0?leaf={leaf}")).status_code == 401


@pytest.mark.parametrize("index", ["1", "999999999999999", "01", "-1", "x", "9" * 40])
async def test_a_receipt_beyond_the_log_is_not_found(
    client: httpx2.AsyncClient, audit: InMemoryAudit, index: str
) -> None:
    await audit.append([routed(1)])
    assert (await client.get(f"/v1/audit/receipts/{index}", headers=READ)).status_code == 404


async def test_the_newest_tree_is_shown_to_begin_with_an_older_one(
    client: httpx2.AsyncClient, audit: InMemoryAudit
) -> None:
    await audit.append([routed(1), routed(2), routed(3)])
    old = parse_checkpoint(parse_note(await audit.checkpoint()).text)
    await audit.append([routed(4), routed(5)])
    reply = (await client.get("/v1/audit/consistency?old_size=3", headers=READ)).json()
    new = parse_checkpoint(parse_note(reply["checkpoint"].encode()).text)
    hashes = [bytes.fromhex(each) for each in reply["hashes"]]
    assert verify_consistency(3, 5, old.root, new.root, hashes)
    assert (await client.get("/v1/audit/consistency?old_size=6", headers=READ)).status_code == 404


async def test_a_monitor_reads_tiles_and_entries(client: httpx2.AsyncClient, audit: InMemoryAudit) -> None:
    await audit.append([routed(number) for number in range(3)])
    hashes = (await client.get("/v1/audit/tile/0/000.p/3", headers=READ)).content
    entries = parse_bundle((await client.get("/v1/audit/tile/entries/000.p/3", headers=ADMIN)).content)
    assert b"".join(map(leaf_hash, entries)) == hashes


@pytest.mark.parametrize("path", ["0/001", "0/%2e%2e/%2e%2e/head", "entries/999", "%2e%2e/secret", "0/000/../000"])
async def test_what_is_no_tile_is_not_found(client: httpx2.AsyncClient, audit: InMemoryAudit, path: str) -> None:
    await audit.append([routed(1)])
    assert (await client.get(f"/v1/audit/tile/{path}", headers=ADMIN)).status_code == 404


async def test_the_pinned_key_is_the_logs(client: httpx2.AsyncClient, audit: InMemoryAudit) -> None:
    assert (await client.get("/v1/audit/keys", headers=READ)).json()["keys"] == [str(audit.key.verifier)]


async def test_a_reader_sees_the_records_of_its_own_tenant_only(
    client: httpx2.AsyncClient, audit: InMemoryAudit
) -> None:
    own, other = routed(1), replace(routed(2), tenant=TenantId("other"))
    await audit.append([replace(own, tenant=TenantId("acme")), other])
    assert [each["index"] for each in (await client.get("/v1/audit/records", headers=READ)).json()["data"]] == [0]
    assert (await client.get("/v1/audit/records?tenant=other", headers=READ)).status_code == 403
    everything = (await client.get("/v1/audit/records", headers={"x-api-key": "admin"})).json()
    assert [each["index"] for each in everything["data"]] == [0, 1]


async def test_records_come_in_pages_and_as_they_were_hashed(client: httpx2.AsyncClient, audit: InMemoryAudit) -> None:
    receipts = await audit.append([routed(number) for number in range(5)])
    page = (await client.get("/v1/audit/records?begin=1&limit=2", headers={"x-api-key": "admin"})).json()
    assert ([each["index"] for each in page["data"]], page["next"]) == ([1, 2], 3)
    assert leaf_hash(rfc8785.dumps(page["data"][0]["record"])) == receipts[1].leaf_hash
    last = (await client.get("/v1/audit/records?begin=3", headers={"x-api-key": "admin"})).json()
    assert last["next"] is None


@pytest.mark.parametrize("query", ["begin=-1", "limit=0", "limit=1001", "begin=x", "tenant="])
async def test_a_wrong_page_is_refused_by_name(client: httpx2.AsyncClient, query: str) -> None:
    reply = await client.get(f"/v1/audit/records?{query}", headers=READ)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, f"query.{query.partition('=')[0]}")


async def test_shredding_is_for_admins_and_answers_its_record(client: httpx2.AsyncClient, audit: InMemoryAudit) -> None:
    body = {"tenant": "acme", "change_id": "CHG-1", "reason": "contract ended"}
    assert (await client.post("/v1/audit/shred", json=body, headers=READ)).status_code == 403
    reply = await client.post("/v1/audit/shred", json=body, headers={"x-api-key": "admin"})
    assert (reply.status_code, reply.json()["index"]) == (201, 0)
    assert audit.names() == ["tenant.shredded"]


@pytest.mark.parametrize(
    "body", [{}, {"tenant": "acme"}, {"tenant": "../x", "change_id": "C"}, {"tenant": "acme", "change_id": ""}]
)
async def test_shredding_wants_a_tenant_and_a_change(
    client: httpx2.AsyncClient, audit: InMemoryAudit, body: dict[str, str]
) -> None:
    reply = await client.post("/v1/audit/shred", json=body, headers={"x-api-key": "admin"})
    assert reply.status_code == 400
    assert audit.events == []


async def test_health_says_that_evidence_is_made(client: httpx2.AsyncClient) -> None:
    reply = await client.get("/healthz/audit")
    assert (reply.status_code, reply.json()["status"], reply.json()["problem"]) == (200, "ok", None)


async def test_health_fails_with_the_canary(client: httpx2.AsyncClient, audit: InMemoryAudit) -> None:
    audit.problem = "The record was read back with other bytes."
    reply = await client.get("/healthz/audit")
    assert (reply.status_code, reply.json()["status"], reply.json()["problem"]) == (503, "failing", audit.problem)


async def test_health_fails_while_no_witness_confirms_the_log(client: httpx2.AsyncClient, audit: InMemoryAudit) -> None:
    audit.told = replace(audit.told, witnesses=1, witness_stale=True)
    reply = await client.get("/healthz/audit")
    assert (reply.status_code, reply.json()["status"]) == (503, "failing")
    assert "R2 and R3" in reply.json()["problem"]


async def test_health_of_a_sink_that_is_down(client: httpx2.AsyncClient, audit: InMemoryAudit) -> None:
    audit.down = True
    reply = await client.get("/healthz/audit")
    assert (reply.status_code, reply.json()) == (503, {"status": "down", "problem": "The audit log is down."})


async def metrics_of(world: World) -> dict[str, float]:
    transport = httpx2.ASGITransport(create_api(world.surface()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://gatehouse") as http:
        lines = (await http.get("/metrics")).text.splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("gatehouse_audit_")}


async def test_metrics_say_how_the_log_is() -> None:
    world = World(ScriptedEngine([]))
    await world.audit.append([routed(number) for number in range(9)])
    world.audit.told = replace(
        world.audit.told, witnesses=2, witnessed_size=4, witnessed_age_s=7.5, exported_size=6, exported_age_s=60.0,
        unsealed=3, unsealed_s=1.5,
    )  # fmt: skip
    found = await metrics_of(world)
    assert found["gatehouse_audit_up"] == 1
    assert found["gatehouse_audit_records"] == 9
    assert found["gatehouse_audit_witness_lag_records"] == 5
    assert found["gatehouse_audit_witness_age_seconds"] == 7.5
    assert found["gatehouse_audit_export_lag_records"] == 3
    assert found["gatehouse_audit_checkpoint_age_seconds"] == 1.5


async def test_metrics_say_that_an_export_has_not_begun() -> None:
    world = World(ScriptedEngine([]))
    await world.audit.append([routed(number) for number in range(9)])
    world.audit.told = replace(world.audit.told, exported_size=None, exported_age_s=901.0)
    found = await metrics_of(world)
    assert found["gatehouse_audit_export_lag_records"] == 9
    assert found["gatehouse_audit_export_age_seconds"] == 901


@pytest.mark.parametrize("failure", [None, "The audit log stopped: No space left on device (errno 28)."])
async def test_metrics_say_that_the_sink_is_down(failure: str | None) -> None:
    world = World(ScriptedEngine([]))
    world.audit.down = failure is None
    world.audit.told = replace(world.audit.told, failure=failure)
    assert (await metrics_of(world))["gatehouse_audit_up"] == 0
