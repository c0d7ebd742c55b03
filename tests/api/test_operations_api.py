"""What operators report: each report a record before the answer, once, and nothing of a person's words in clear."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from deployments.audit.record import validate
from deployments.clock import FixedClock
from deployments.errors import AuditOverloaded, AuditRefused, GatehouseError
from deployments.ports import AuditEvent, Body, BodyField, Receipt, Scope
from deployments.rollouts import Kind
from serve_app.api.auth import Authorizer
from serve_app.api.errors import error_response
from serve_app.api.operations import create_operations_router
from serve_app.canary.driver import AuditBook
from serve_app.canary.values import Memory, Record, Unreachable
from serve_app.cli import change, incident
from tests.fakes_audit import InMemoryAudit
from tests.fakes_ledger import InMemoryLedger

CLOSED = {"outcome": "succeeded", "rollback_status": "not_needed", "title": "Move to 120b", "reason": "it went well"}
INCIDENT = {"kind": "outage", "severity": "high"}
ROLLOUT = {"event": "promoted", "rollout_id": "ro-1", "kind": "model", "share_percent": 25}
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/changes/CHG-1/close", CLOSED),
    ("/v1/incidents", INCIDENT),
    ("/v1/incidents/INC-1/update", {"severity": "low"}),
    ("/v1/incidents/INC-1/close", {"outcome": "resolved"}),
    ("/v1/rollouts/events", ROLLOUT),
]


class Committing(InMemoryAudit):
    """Turns bodies into commitments as the sink does. `reported` is what it was given and took, each report once."""

    def __init__(self) -> None:
        super().__init__()
        self.reported: list[AuditEvent] = []
        self.conflicts = 0

    async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        before = len(self.events)
        try:
            receipts = await super().append([_committed(event) for event in events])
        except AuditRefused:
            self.conflicts += 1
            raise
        self.reported += [event for event, receipt in zip(events, receipts, strict=True) if receipt.index >= before]
        return receipts


def _committed(event: AuditEvent) -> AuditEvent:
    commits = {
        f"{field.value}_commit": hashlib.sha256(b"salt" + body.digest).hexdigest()
        for field, body in event.bodies.items()
    }
    return replace(event, data={**event.data, **commits}, bodies={})


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def audit() -> Committing:
    return Committing()


@pytest.fixture
def ledger() -> InMemoryLedger:
    ledger = InMemoryLedger()
    for scope in Scope:
        ledger.add_key(scope.value, scope, tenant="acme")
    ledger.add_key("alice", Scope.ADMIN, tenant="acme", person="alice")
    return ledger


def app_of(audit: InMemoryAudit, ledger: InMemoryLedger, clock: FixedClock, keeps: bool = False) -> FastAPI:
    app = FastAPI()
    app.include_router(create_operations_router(Authorizer(ledger), audit, clock, lambda _: keeps))

    async def on_error(_: Request, error: Exception) -> Response:
        return error_response(error)

    app.add_exception_handler(GatehouseError, on_error)
    return app


def client_of(
    audit: InMemoryAudit, ledger: InMemoryLedger, clock: FixedClock, keeps: bool = False
) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app_of(audit, ledger, clock, keeps))
    return httpx2.AsyncClient(transport=transport, base_url="http://gatehouse", headers={"x-api-key": "alice"})


@pytest.fixture
async def client(audit: InMemoryAudit, ledger: InMemoryLedger, clock: FixedClock) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(audit, ledger, clock) as client:
        yield client


# --- what is recorded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "body"), CALLS)
async def test_a_report_is_a_record_and_answers_its_receipt(
    client: httpx2.AsyncClient, audit: Committing, path: str, body: dict[str, Any]
) -> None:
    reply = await client.post(path, json=body)
    assert reply.status_code == 201
    [event] = audit.reported
    validate(event)
    [receipt] = await audit.append([event])
    told = reply.json()
    assert (told["object"], told["event"]) == ("audit.appended", event.name)
    assert (told["index"], told["leaf_hash"]) == (receipt.index, receipt.leaf_hash.hex())


async def test_a_closed_change_says_how_it_ended_and_who_says_so(client: httpx2.AsyncClient, audit: Committing) -> None:
    assert (await client.post("/v1/changes/team/CHG-1/close", json=CLOSED)).json()["id"] == "team/CHG-1"
    [event] = audit.reported
    assert (event.name, event.tenant) == ("change.closed", "acme")
    assert event.data == {
        "change_id": "team/CHG-1",
        "outcome": "succeeded",
        "rollback_status": "not_needed",
        "title": "Move to 120b",
        "reporter": "alice",
    }


@pytest.mark.parametrize("keeps", [False, True])
async def test_a_reason_is_no_field_of_the_record(
    audit: Committing, ledger: InMemoryLedger, clock: FixedClock, keeps: bool
) -> None:
    async with client_of(audit, ledger, clock, keeps) as client:
        await client.post("/v1/changes/CHG-1/close", json=CLOSED)
    [event] = audit.reported
    digest = hashlib.sha256(b"it went well").digest()
    assert event.bodies == {BodyField.REASON: Body(digest, b"it went well" if keeps else None)}
    assert "it went well" not in json.dumps(dict(event.data))


async def test_a_key_of_a_service_names_no_person(client: httpx2.AsyncClient, audit: InMemoryAudit) -> None:
    await client.post("/v1/incidents", json=INCIDENT, headers={"x-api-key": "admin"})
    assert "reporter" not in audit.events[0].data


async def test_an_incident_is_told_from_its_opening_to_its_end(
    client: httpx2.AsyncClient, audit: InMemoryAudit
) -> None:
    opened = await client.post("/v1/incidents", json={**INCIDENT, "change_id": "CHG-1", "title": "Slow"})
    incident_id = opened.json()["id"]
    await client.post(f"/v1/incidents/{incident_id}/update", json={"severity": "low", "outcome": "mitigated"})
    await client.post(f"/v1/incidents/{incident_id}/update", json={"severity": "low", "outcome": "mitigated"})
    await client.post(f"/v1/incidents/{incident_id}/close", json={"outcome": "resolved"})
    assert audit.names() == ["incident.opened", "incident.updated", "incident.updated", "incident.closed"]
    assert [event.data["incident_id"] for event in audit.events] == [incident_id] * 4
    assert audit.events[0].data["change_id"] == "CHG-1"


async def test_a_rollout_belongs_to_no_tenant(client: httpx2.AsyncClient, audit: InMemoryAudit) -> None:
    body = {**ROLLOUT, "model": "demo-20b", "revision": "r2", "previous_revision": "r1", "reason": "error rate 0.1 %"}
    await client.post("/v1/rollouts/events", json=body)
    [event] = audit.events
    assert (event.name, event.tenant) == ("rollout.promoted", "system")
    assert event.data == {name: value for name, value in body.items() if name != "event"}


@pytest.mark.parametrize(("path", "body"), CALLS[:4])
async def test_an_administrator_may_report_for_another_tenant(
    client: httpx2.AsyncClient, audit: InMemoryAudit, path: str, body: dict[str, Any]
) -> None:
    await client.post(path, json={**body, "tenant": "other"})
    assert audit.events[0].tenant == "other"


# --- repetitions -------------------------------------------------------------------------------------------------

ONCE = [
    CALLS[0],
    ("/v1/incidents", {**INCIDENT, "incident_id": "INC-1", "reason": "why"}),
    CALLS[3],
    ("/v1/rollouts/events", {**ROLLOUT, "event": "started"}),
    ("/v1/rollouts/events", {**ROLLOUT, "event": "finished"}),
]


@pytest.mark.parametrize(("path", "body"), ONCE)
async def test_what_happens_once_is_recorded_once(
    client: httpx2.AsyncClient, audit: InMemoryAudit, clock: FixedClock, path: str, body: dict[str, Any]
) -> None:
    first = await client.post(path, json=body)
    clock.advance(3_600_000)
    again = await client.post(path, json=body, headers={"idempotency-key": "another"})
    assert (again.status_code, again.json()) == (201, first.json())
    assert len(audit.events) == 1


@pytest.mark.parametrize(("path", "body"), CALLS)
async def test_a_repetition_with_the_same_key_answers_the_first_receipt(
    client: httpx2.AsyncClient, audit: InMemoryAudit, clock: FixedClock, path: str, body: dict[str, Any]
) -> None:
    headers = {"idempotency-key": "k1"}
    first = await client.post(path, json=body, headers=headers)
    clock.advance(1_000)
    again = await client.post(path, json=body, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    assert len(audit.events) == 1


async def test_a_repetition_is_no_conflict_in_the_log(
    client: httpx2.AsyncClient, audit: Committing, clock: FixedClock
) -> None:
    for body in (CLOSED, CLOSED, {**CLOSED, "outcome": "failed"}):
        await client.post("/v1/changes/CHG-1/close", json=body)
        clock.advance(1_000)
    assert audit.conflicts == 0, "the sink would take it for an attempt at forgery"


async def test_two_repetitions_at_once_are_one_record(client: httpx2.AsyncClient, audit: Committing) -> None:
    calls = [client.post("/v1/changes/CHG-1/close", json=CLOSED) for _ in range(5)]
    replies = await asyncio.gather(*calls)
    assert len({reply.text for reply in replies}) == 1
    assert (len(audit.events), audit.conflicts) == (1, 0)


async def test_without_a_key_what_may_happen_again_happens_again(
    client: httpx2.AsyncClient, audit: InMemoryAudit
) -> None:
    indices = [(await client.post("/v1/rollouts/events", json=ROLLOUT)).json()["index"] for _ in range(2)]
    assert indices == [0, 1]
    assert len(audit.events) == 2


CONFLICTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("/v1/changes/CHG-1/close", CLOSED, {**CLOSED, "outcome": "failed"}),
    ("/v1/changes/CHG-1/close", CLOSED, {name: value for name, value in CLOSED.items() if name != "reason"}),
    ("/v1/incidents/INC-1/close", {"outcome": "resolved"}, {"outcome": "false_alarm"}),
    ("/v1/rollouts/events", ROLLOUT, {**ROLLOUT, "share_percent": 50}),
]


@pytest.mark.parametrize(("path", "body", "other"), CONFLICTS)
async def test_a_repetition_that_says_something_else_is_refused(
    client: httpx2.AsyncClient, audit: InMemoryAudit, path: str, body: dict[str, Any], other: dict[str, Any]
) -> None:
    headers = {"idempotency-key": "k1"}
    await client.post(path, json=body, headers=headers)
    again = await client.post(path, json=other, headers=headers)
    assert (again.status_code, again.json()["error"]["code"]) == (400, "already_recorded")
    assert len(audit.events) == 1


async def test_a_change_is_not_closed_again_by_somebody_else(client: httpx2.AsyncClient, audit: InMemoryAudit) -> None:
    await client.post("/v1/changes/CHG-1/close", json=CLOSED)
    again = await client.post("/v1/changes/CHG-1/close", json=CLOSED, headers={"x-api-key": "admin"})
    assert again.json()["error"]["code"] == "already_recorded"


async def test_a_first_record_is_found_behind_many_others(client: httpx2.AsyncClient, clock: FixedClock) -> None:
    first = await client.post("/v1/changes/CHG-1/close", json=CLOSED)
    for _ in range(11):
        await client.post("/v1/rollouts/events", json=ROLLOUT)
    clock.advance(1_000)
    assert (await client.post("/v1/changes/CHG-1/close", json=CLOSED)).json() == first.json()


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "body"), CALLS)
@pytest.mark.parametrize("key", [each.value for each in Scope if each is not Scope.ADMIN])
async def test_a_report_needs_the_admin_scope(
    client: httpx2.AsyncClient, audit: InMemoryAudit, path: str, body: dict[str, Any], key: str
) -> None:
    assert (await client.post(path, json=body, headers={"x-api-key": key})).status_code == 403
    assert audit.events == []


async def test_a_tool_that_drives_a_rollout_needs_a_narrow_scope_alone(
    client: httpx2.AsyncClient, audit: InMemoryAudit
) -> None:
    narrow = {"x-api-key": "rollout-events", "idempotency-key": "k1"}
    step = {**ROLLOUT, "kind": "cluster"}
    first = await client.post("/v1/rollouts/events", json=step, headers=narrow)
    again = await client.post("/v1/rollouts/events", json=step, headers=narrow)
    assert (first.status_code, again.json()) == (201, first.json())
    [event] = audit.events
    assert (event.name, event.tenant, event.data["kind"]) == ("rollout.promoted", "system", "cluster")


class _Through(httpx2.BaseTransport):
    """To an app in this process, for a client that waits."""

    def __init__(self, app: FastAPI) -> None:
        self._client = TestClient(app)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        reply = self._client.request(
            request.method, str(request.url), content=request.read(), headers=dict(request.headers)
        )
        return httpx2.Response(reply.status_code, content=reply.content)


@pytest.mark.parametrize(("key", "why"), [("rollout-events", None), ("audit-read", "scope")])
def test_the_driver_of_a_canary_needs_no_more_than_that(
    audit: InMemoryAudit, ledger: InMemoryLedger, clock: FixedClock, key: str, why: str | None
) -> None:
    app = app_of(audit, ledger, clock)
    memory = Memory(id="rel-1", change_id="CHG-1", by="ada", revision="b" * 64, previous="a" * 64, old="a", since_ms=1)
    step = Record(number=2, event="promoted", share=5, state="step", reason="all is well", change_id="CHG-1")
    with AuditBook("http://gatehouse", key, _Through(app)) as book:
        if why is None:
            book.record(memory, step)
            book.record(memory, step)
        else:
            with pytest.raises(Unreachable, match=why):
                book.record(memory, step)
    assert [event.data["rollout_id"] for event in audit.events] == ["rel-1"] * (why is None)


@pytest.mark.parametrize("kind", [each.value for each in Kind])
async def test_the_narrow_scope_tells_nothing_of_gatehouse_s_own_rollouts(
    client: httpx2.AsyncClient, audit: InMemoryAudit, kind: str
) -> None:
    body = {**ROLLOUT, "kind": kind}
    refused = await client.post("/v1/rollouts/events", json=body, headers={"x-api-key": "rollout-events"})
    assert (refused.status_code, kind in refused.json()["error"]["message"]) == (403, True)
    assert audit.events == []
    assert (await client.post("/v1/rollouts/events", json=body)).status_code == 201


@pytest.mark.parametrize(("path", "body"), CALLS)
async def test_a_log_that_is_down_is_no_report(
    client: httpx2.AsyncClient, audit: InMemoryAudit, path: str, body: dict[str, Any]
) -> None:
    audit.down = True
    reply = await client.post(path, json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "audit_unavailable")


async def test_back_pressure_is_told_by_its_name(ledger: InMemoryLedger, clock: FixedClock) -> None:
    class Full(InMemoryAudit):
        async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
            raise AuditOverloaded("Too many events wait.")

    async with client_of(Full(), ledger, clock) as client:
        reply = await client.post("/v1/incidents", json=INCIDENT)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "audit_overloaded")
    assert "retry-after" in reply.headers


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/changes/CHG-1/close", {}, "outcome"),
    ("/v1/changes/CHG-1/close", {"outcome": "great"}, "outcome"),
    ("/v1/changes/CHG-1/close", {**CLOSED, "rollback_status": "perhaps"}, "rollback_status"),
    ("/v1/changes/CHG-1/close", {**CLOSED, "title": "two\nlines"}, "title"),
    ("/v1/changes/CHG-1/close", {**CLOSED, "title": "x" * 257}, "title"),
    ("/v1/changes/CHG-1/close", {**CLOSED, "reason": ""}, "reason"),
    ("/v1/changes/CHG-1/close", {**CLOSED, "reason": "x" * 4001}, "reason"),
    ("/v1/changes/CHG-1/close", {**CLOSED, "tenant": "Acme Inc"}, "tenant"),
    ("/v1/changes/CHG-1/close", {**CLOSED, "colour": "red"}, "colour"),
    ("/v1/changes/no change/close", CLOSED, "change_id"),
    ("/v1/changes/%00/close", CLOSED, "change_id"),
    (f"/v1/changes/{'x' * 129}/close", CLOSED, "change_id"),
    ("/v1/incidents", {"severity": "high"}, "kind"),
    ("/v1/incidents", {**INCIDENT, "severity": "SEV1"}, "severity"),
    ("/v1/incidents", {**INCIDENT, "kind": "Out age"}, "kind"),
    ("/v1/incidents", {**INCIDENT, "incident_id": "-"}, "incident_id"),
    ("/v1/incidents/INC-1/update", {}, "body"),
    ("/v1/incidents/INC-1/update", {"tenant": "acme"}, "body"),
    ("/v1/incidents/ü/update", {"severity": "low"}, "incident_id"),
    ("/v1/incidents/INC-1/close", {}, "outcome"),
    ("/v1/rollouts/events", {**ROLLOUT, "event": "paused"}, "event"),
    ("/v1/rollouts/events", {**ROLLOUT, "share_percent": 100.5}, "share_percent"),
    ("/v1/rollouts/events", {**ROLLOUT, "share_percent": "25"}, "share_percent"),
    ("/v1/rollouts/events", {**ROLLOUT, "rollout_id": None}, "rollout_id"),
]


@pytest.mark.parametrize(("path", "body", "param"), BAD)
async def test_a_bad_report_names_its_field(
    client: httpx2.AsyncClient, audit: InMemoryAudit, path: str, body: dict[str, Any], param: str
) -> None:
    reply = await client.post(path, json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert audit.events == []


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\t"])
async def test_a_bad_idempotency_key_is_refused(client: httpx2.AsyncClient, audit: InMemoryAudit, key: str) -> None:
    reply = await client.post("/v1/incidents", json=INCIDENT, headers={"idempotency-key": key})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "idempotency-key")
    assert audit.events == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
async def test_what_is_not_an_object_is_refused(client: httpx2.AsyncClient, content: bytes) -> None:
    assert (await client.post("/v1/incidents", content=content)).status_code == 400


# --- the command line --------------------------------------------------------------------------------------------


class Server:
    """Stands in for `ApiClient`: remembers what was asked and answers a receipt."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, object]]] = []

    def request(self, method: str, path: str, body: Mapping[str, object]) -> Any:
        self.asked.append((method, path, {name: value for name, value in body.items() if value is not None}))
        return {"object": "audit.appended", "id": "X-1", "event": "some.event", "index": 7, "leaf_hash": "ab" * 32}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(change, "ApiClient", lambda: server)
    monkeypatch.setattr(incident, "ApiClient", lambda: server)
    return server


COMMANDS: list[tuple[Any, list[str], str, dict[str, object]]] = [
    (
        change.app,
        ["close", "team/CHG 1", "--outcome", "rolled_back", "--rollback", "succeeded", "--reason", "too slow"],
        "/v1/changes/team/CHG%201/close",
        {"outcome": "rolled_back", "rollback_status": "succeeded", "reason": "too slow"},
    ),
    (
        incident.app,
        ["open", "--kind", "outage", "--severity", "high", "--id", "INC-1", "--change-id", "CHG-1", "--tenant", "acme"],
        "/v1/incidents",
        {"kind": "outage", "severity": "high", "incident_id": "INC-1", "change_id": "CHG-1", "tenant": "acme"},
    ),
    (
        incident.app,
        ["update", "INC-1", "--severity", "low", "--outcome", "mitigated"],
        "/v1/incidents/INC-1/update",
        {"severity": "low", "outcome": "mitigated"},
    ),
    (incident.app, ["close", "INC-1", "--outcome", "resolved"], "/v1/incidents/INC-1/close", {"outcome": "resolved"}),
]


@pytest.mark.parametrize(("app", "arguments", "path", "body"), COMMANDS)
def test_a_command_reports_and_prints_the_receipt(
    server: Server, app: Any, arguments: list[str], path: str, body: dict[str, object]
) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert server.asked == [("POST", path, body)]
    assert done.stdout == f"X-1: some.event, record 7, leaf {'ab' * 32}\n"
    as_json = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(as_json.stdout)["index"] == 7


@pytest.mark.parametrize(("app", "arguments", "path", "body"), COMMANDS)
async def test_the_server_takes_what_a_command_sends(
    client: httpx2.AsyncClient,
    audit: InMemoryAudit,
    server: Server,
    app: Any,
    arguments: list[str],
    path: str,
    body: dict[str, object],
) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 0
    [(_, sent_path, sent)] = server.asked
    reply = await client.post(sent_path.replace("%20", "-"), json=sent)
    assert reply.status_code == 201, reply.text
    assert len(audit.events) == 1
