"""`/healthz/approvals`, its metrics, and reviews: what a probe, a scraper and an approver are told."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deployments.errors import GateUnavailable
from deployments.gate.canary import PROFILES
from deployments.ports import SYSTEM_TENANT, EngineCall, EngineItem, Scope
from tests.api.permitting import AGENT, House
from tests.fakes import JSON_START

REVIEW = {
    "summary": "Deletes a namespace.\u202e",
    "concerns": ["Volumes may go with it."],
    "rollback": {"steps": ["kubectl apply -f b.yaml"], "verify": "kubectl get ns"},
}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    found = House(tmp_path)
    found.world.ledger.add_key("gh-root", Scope.ADMIN, tenant="operators", person="root")
    async with found.opened():
        yield found


async def get(house: House, path: str, key: str = AGENT) -> httpx2.Response:
    async with house.client(key) as client:
        return await client.get(path)


async def metrics(house: House) -> dict[str, float]:
    text = (await get(house, "/metrics")).text
    rows = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in rows}


async def held(house: House, command: str = "kubectl delete namespace staging") -> dict[str, Any]:
    body = {"tool": "shell", "arguments": {"command": command}, "audience": "runner"}
    async with house.client() as client:
        return (await client.post("/v1/gate/calls", json=body)).json()


async def test_a_gate_that_holds_is_well_and_the_canary_is_nobodys_work(house: House) -> None:
    reply = await get(house, "/healthz/approvals")
    told = reply.json()
    assert (reply.status_code, told["status"], told["problem"]) == (200, "ok", None)
    assert told["queue"]["waiting"] == 0
    assert told["canary"]["escaped"] is False
    held_canaries = [event for event in house.audit.events if event.name == "tool_call.held"]
    assert [event.tenant for event in held_canaries] == [SYSTEM_TENANT] * len(PROFILES)
    listed = (await get(house, "/v1/approvals", "gh-root")).json()["data"]
    assert listed == [], "an administrator's list is not full of canaries"
    await held(house)
    house.clock.advance(40_000)
    told = (await get(house, "/healthz/approvals")).json()
    assert told["queue"]["waiting"] == 1
    assert told["queue"]["oldest_s"] == 40
    assert "kubectl" not in json.dumps(told)


async def test_a_store_that_is_down_fails_the_probe_and_shows_in_the_metrics(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await get(house, "/healthz/approvals")
    well = await metrics(house)
    assert well["gatehouse_gate_canary_held"] == 1
    assert well["gatehouse_gate_canary_escaped"] == 0
    assert well["gatehouse_gate_canary_timestamp_seconds"] == house.clock.now_ms() / 1000
    assert well["gatehouse_approvals_up"] == 1

    async def down(*_: object) -> None:
        raise GateUnavailable("The approval store does not answer.")

    monkeypatch.setattr(house.desk, "propose", down)
    monkeypatch.setattr(house.desk, "health", down)
    house.clock.advance(31_000)
    reply = await get(house, "/healthz/approvals")
    assert reply.status_code == 503
    assert "could not be put before them" in reply.json()["problem"]
    ill = await metrics(house)
    assert ill["gatehouse_gate_canary_held"] == 0
    assert ill["gatehouse_approvals_up"] == 0


async def test_a_review_is_asked_for_kept_and_shown_escaped(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = await held(house)
    place = f"/v1/approvals/{waiting['approval_id']}/review"
    assert (await get(house, place)).status_code == 404
    body = {"choices": [{"message": {"content": json.dumps(REVIEW)}}], "usage": {}}

    async def written(call: EngineCall) -> AsyncGenerator[EngineItem, None]:
        assert json.loads(call.body)["reasoning_effort"] == "high"
        yield JSON_START
        yield json.dumps(body).encode()

    monkeypatch.setattr(house.world.strong, "call", written)
    async with house.client() as client:
        made = await client.post(place)
    assert made.status_code == 200, made.text
    told = made.json()
    assert told["summary"] == "Deletes a namespace.\\u202e"
    assert told["plan"]["steps"] == ["kubectl apply -f b.yaml"]
    assert "counts for nothing" in told["note"]
    assert (await get(house, place)).json() == told
    assert "approval.advised" in house.audit.names()
    shown = (await get(house, f"/v1/approvals/{waiting['approval_id']}")).json()
    assert shown["state"] == "NEEDS_PLAN", "advice moves nothing"
    async with house.client("gh-rival") as client:
        assert (await client.post(place)).status_code == 404


async def test_without_the_model_the_refusal_is_polite(house: House) -> None:
    waiting = await held(house)
    house.world.strong.is_cold = True
    async with house.client() as client:
        refused = await client.post(f"/v1/approvals/{waiting['approval_id']}/review")
    assert refused.status_code == 503
    assert "can be decided without one" in refused.json()["error"]["message"]
