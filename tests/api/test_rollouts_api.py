"""The routes of rollouts over a real controller, whose database is a file and whose audit log is in memory."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request, Response

from deployments.clock import FixedClock
from deployments.errors import GatehouseError
from deployments.ports import Scope
from deployments.rollout.artefacts import scan
from deployments.rollout.controller import Controller
from deployments.rollout.plan import revision_of
from deployments.rollout.store import RolloutStore
from deployments.rollouts import Count, Kind, Metric
from deployments.store import open_store, sqlite_url
from serve_app.api.auth import Authorizer
from serve_app.api.errors import error_response
from serve_app.api.rollouts import create_rollouts_router
from tests.fakes_audit import InMemoryAudit
from tests.fakes_ledger import InMemoryLedger
from tests.unit.rollout.world import ScriptedWorks, evaluation

ARTEFACTS, PATH = "/v1/admin/artefacts", "/v1/admin/rollouts"
SETTINGS = {"kind": "engine", "target": "demo-20b", "settings": {"max_num_seqs": 8}}
CHANGE = {"change_id": "CHG-7"}
BEFORE = "r1"


class Running:
    """The controller behind the routes."""

    def __init__(self, folder: Path) -> None:
        self.audit, self.clock = InMemoryAudit(), FixedClock()
        self.store = RolloutStore(open_store(sqlite_url(folder / "rollout.db")))
        self.works = ScriptedWorks()
        self.controller = Controller(self.store, self.audit, self.works, self.clock)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    running = Running(tmp_path)
    await running.store.open()
    yield running
    await running.store.close()


@pytest.fixture
async def client(running: Running) -> AsyncIterator[httpx2.AsyncClient]:
    ledger = InMemoryLedger()
    ledger.add_key("root", Scope.ADMIN)
    ledger.add_key("agent", Scope.INFERENCE)
    app = FastAPI()
    app.include_router(create_rollouts_router(Authorizer(ledger), running.controller))

    async def on_error(_: Request, error: Exception) -> Response:
        return error_response(error)

    app.add_exception_handler(GatehouseError, on_error)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gatehouse") as client:
        client.headers["authorization"] = "Bearer root"
        yield client


async def begin(client: httpx2.AsyncClient, **more: object) -> dict[str, Any]:
    made = await client.post(ARTEFACTS, json=SETTINGS)
    assert made.status_code == 201
    body = {"rollout_id": "ro-1", "kind": "engine", "target": "demo-20b", "previous_revision": BEFORE, **CHANGE}
    reply = await client.post(PATH, json={**body, "revision": made.json()["revision"], **more})
    assert reply.status_code == 201, reply.text
    return reply.json()


async def test_a_rollout_is_begun_watched_and_taken_back(client: httpx2.AsyncClient, running: Running) -> None:
    begun = await begin(client)
    assert (begun["id"], begun["state"], begun["share_percent"], begun["shares"]) == (
        "ro-1", "registered", 0, [5, 25, 100],
    )  # fmt: skip
    assert await begin(client) == begun  # sent again
    for _ in range(3):
        await running.controller.tick()
    assert (await client.get(f"{PATH}/ro-1")).json()["share_percent"] == 5
    promoted = await client.post(f"{PATH}/ro-1/promote", json={**CHANGE, "to": 25, "reason": "looked at it"})
    assert (promoted.json()["share_percent"], promoted.json()["steps"]) == (25, 5)
    assert (await client.post(f"{PATH}/ro-1/hold", json=CHANGE)).json()["held"]
    assert not (await client.post(f"{PATH}/ro-1/resume", json=CHANGE)).json()["held"]
    back = (await client.post(f"{PATH}/ro-1/rollback", json=CHANGE)).json()
    assert (back["state"], back["share_percent"], back["going_back"]) == ("rolled_back", 0, False)
    steps = (await client.get(f"{PATH}/ro-1/history")).json()["data"]
    assert [each["audit_index"] for each in steps] == [1, *range(3, 10)]  # each registration is on record, too
    assert [each["share_percent"] for each in steps] == [0, 0, 0, 5, 25, 25, 25, 0]
    assert (steps[4]["reason"], steps[4]["by"], steps[4]["change_id"]) == ("looked at it", "key_1", "CHG-7")
    why = "none: there was no evaluation suite when it began"
    assert steps[3]["evidence"] == {"asked": 3, "failed": [], "evaluation": why}
    [shown] = (await client.get(PATH)).json()["data"]
    assert shown == back


async def test_the_rules_of_the_request_are_the_judge_s(client: httpx2.AsyncClient, running: Running) -> None:
    bound = {"metric": "error", "slack": 0, "tolerance": 0.5, "min_count": 5}
    await begin(client, shares=[50, 100], rules={"min_s": 1, "window_s": 1, "design_effect": 1, "bounds": [bound]})
    for _ in range(3):
        await running.controller.tick()
    await running.controller.observe([Count("ro-1", 50, side, Metric.ERROR, 100, 0) for side in (True, False)])
    running.clock.advance(1000)
    await running.controller.tick()
    assert (await client.get(f"{PATH}/ro-1")).json()["state"] == "watch"


async def test_a_rollout_asks_its_cases_before_it_gets_traffic(client: httpx2.AsyncClient, running: Running) -> None:
    running.works.cases = 64
    assert (await begin(client, eval_cases="all"))["eval_cases"] == 64
    for _ in range(4):
        await running.controller.tick()
    assert (await client.get(f"{PATH}/ro-1")).json()["state"] == "eval"
    assert (await client.post(f"{PATH}/ro-1/promote", json={**CHANGE, "to": 5})).status_code == 400
    assert (await client.post(f"{PATH}/ro-1/hold", json=CHANGE)).json()["held"]
    running.works.evaluation = evaluation(20, 40)
    await running.controller.tick()
    assert (await client.get(f"{PATH}/ro-1")).json()["state"] == "rolled_back"
    last = (await client.get(f"{PATH}/ro-1/history")).json()["data"][-1]
    assert last["evidence"]["eval"]["only_baseline"] == 20
    assert running.audit.events[-1].data["only_baseline"] == 20


@pytest.mark.parametrize("cases", [0, -1, 10_001, "some", True, 1.5], ids=str)
async def test_a_number_of_cases_that_cannot_be_is_refused(client: httpx2.AsyncClient, cases: object) -> None:
    revision = (await client.post(ARTEFACTS, json=SETTINGS)).json()["revision"]
    body = {"rollout_id": "ro-1", "kind": "engine", "target": "demo-20b", "previous_revision": BEFORE, **CHANGE}
    reply = await client.post(PATH, json={**body, "revision": revision, "eval_cases": cases})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"].startswith("eval_cases")


async def test_a_registration_is_on_record_before_it_is_answered(client: httpx2.AsyncClient, running: Running) -> None:
    assert (await client.post(ARTEFACTS, json={**SETTINGS, **CHANGE})).status_code == 201
    assert (await client.post(ARTEFACTS, json=SETTINGS)).status_code == 201
    first, again = running.audit.events
    assert (first.name, first.principal, first.data["change_id"]) == ("rollout.registered", "key_1", "CHG-7")
    assert "change_id" not in again.data
    running.audit.down = True
    assert (await client.post(ARTEFACTS, json={**SETTINGS, "settings": {"max_num_seqs": 9}})).status_code == 503
    assert (await client.post(ARTEFACTS, json={**SETTINGS, "change_id": "a b"})).status_code == 400


async def test_files_are_read_before_the_revision_is_known(client: httpx2.AsyncClient, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"weights")
    found = scan(Kind.MODEL, "demo-20b", tmp_path / "model")
    files = [{"path": each.path, "size": each.size, "sha256": each.sha256} for each in found.files]
    body = {"kind": "model", "target": "demo-20b", "path": found.path, "files": files}
    assert (await client.post(ARTEFACTS, json=body)).json() == {"object": "artefact", "revision": revision_of(found)}
    (tmp_path / "model" / "weights.bin").write_bytes(b"changed")
    refused = await client.post(ARTEFACTS, json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "artefact_refused")
    assert "weights.bin" in refused.json()["error"]["message"]


@pytest.mark.parametrize("path", ["promote", "hold", "resume", "rollback"])
async def test_every_move_needs_a_change(client: httpx2.AsyncClient, path: str) -> None:
    await begin(client)
    body = {"to": 25} if path == "promote" else {}
    for change in ({}, {"change_id": ""}, {"change_id": None}):
        assert (await client.post(f"{PATH}/ro-1/{path}", json={**body, **change})).status_code == 400
    assert (await client.get(f"{PATH}/ro-1")).json()["steps"] == 1


@pytest.mark.parametrize(
    "more",
    [
        {"change_id": None},
        {"rollout_id": "a/b"},
        {"shares": [25, 5, 100]},
        {"shares": [5, 25]},
        {"rules": {"min_s": -1}},
        {"rules": {"bounds": []}},
        {"revision": "0" * 64},
        {"previous_revision": ""},
        {"surprise": 1},
    ],
    ids=["change", "id", "shrinks", "no-100", "time", "bounds", "unknown-revision", "previous", "surprise"],
)
async def test_what_cannot_begin_is_refused(client: httpx2.AsyncClient, more: dict[str, object]) -> None:
    revision = (await client.post(ARTEFACTS, json=SETTINGS)).json()["revision"]
    body = {"rollout_id": "ro-1", "kind": "engine", "target": "demo-20b", "previous_revision": BEFORE, **CHANGE}
    reply = await client.post(PATH, json={**body, "revision": revision, **more})
    assert reply.status_code == 400
    assert (await client.get(PATH)).json()["data"] == []


async def test_a_rollback_is_in_force_while_the_log_is_down(client: httpx2.AsyncClient, running: Running) -> None:
    await begin(client)
    for _ in range(3):
        await running.controller.tick()
    running.audit.down = True
    assert (await client.post(f"{PATH}/ro-1/rollback", json=CHANGE)).status_code == 503
    now = (await client.get(f"{PATH}/ro-1")).json()
    assert (now["share_percent"], now["going_back"], now["state"]) == (0, True, "slice")
    running.audit.down = False
    assert (await client.post(f"{PATH}/ro-1/rollback", json=CHANGE)).json()["state"] == "rolled_back"


async def test_only_an_administrator_sees_and_moves(client: httpx2.AsyncClient) -> None:
    await begin(client)
    client.headers["authorization"] = "Bearer agent"
    for method, path in (
        ("POST", ARTEFACTS), ("POST", PATH), ("GET", PATH), ("GET", f"{PATH}/ro-1"), ("GET", f"{PATH}/ro-1/history"),
        *(("POST", f"{PATH}/ro-1/{each}") for each in ("promote", "hold", "resume", "rollback")),
    ):  # fmt: skip
        assert (await client.request(method, path, json={})).status_code == 403


async def test_an_unknown_rollout_is_not_found(client: httpx2.AsyncClient) -> None:
    for path in ("ro-9", "ro-9/history"):
        assert (await client.get(f"{PATH}/{path}")).status_code == 404
    assert (await client.post(f"{PATH}/ro-9/hold", json=CHANGE)).status_code == 404
