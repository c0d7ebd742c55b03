"""Where the borders of tenants run by design: between keys of one tenant, for administrators, and in the one log."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from deployments.audit.notes import parse_checkpoint, parse_note
from deployments.audit.proofs import parse_inclusion_proof
from deployments.audit.tiles import parse_bundle
from deployments.ports import Scope
from deployments.store import sqlite_url
from tests.api.isolating import (
    ACME,
    AGENT,
    AUDITOR,
    BOB,
    HOUSE,
    MATE,
    PLAN,
    RIVAL,
    ROOT,
    RUNNER,
    Ids,
    Request,
    Tenants,
    quoted,
    tenants,
)

ENDED = {"outcome": "failed", "output_digest": "7" * 64, "started_ms": 1, "ended_ms": 2}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Tenants]:
    async with tenants(tmp_path, sqlite_url(tmp_path / "state.db")) as opened:
        yield opened


async def status(house: Tenants, key: str, method: str, path: str, json: object = None) -> int:
    return (await house.send(key, Request(method, path, json=json))).status_code


# --- keys of one tenant ----------------------------------------------------------------------------------------------


def shared(ids: Ids) -> list[tuple[str, str, object]]:
    """What every key of the tenant with the scope `inference` may do, whoever's it is."""
    said = {"verdict": "ok", "source": "user", "event_id": "mates-verdict", "route_id": ids.route}
    return [
        ("get", f"/v1/responses/{ids.response}", None),
        ("get", f"/v1/responses/{ids.response}/input_items", None),
        ("post", "/v1/responses", {"input": "go", "previous_response_id": ids.response}),
        ("get", f"/v1/route/{ids.route}", None),
        ("post", "/v1/feedback", said),
        ("get", f"/v1/approvals/{ids.approval}", None),
        ("get", f"/v1/approvals/{ids.approval}/review", None),
        ("post", f"/v1/approvals/{ids.approval}/plan", PLAN),
        ("get", f"/v1/gate/calls/{ids.call}", None),
        ("get", f"/v1/permits/{ids.permit}", None),
        ("post", f"/v1/permits/{ids.done}/rollback", {"step": 0, "audience": RUNNER}),
        ("post", f"/v1/approvals/{ids.approval}/cancel", {"reason": "no more"}),
        ("post", f"/v1/responses/{ids.live}/cancel", None),
        ("delete", f"/v1/responses/{ids.response}", None),
    ]


async def test_keys_of_one_tenant_share_its_answers_routes_and_requests(house: Tenants) -> None:
    ids = await house.furnish()
    for method, path, body in shared(ids):
        assert await status(house, MATE, method, path, body) == 200, path


async def test_what_one_key_executes_is_that_keys_alone(house: Tenants) -> None:
    ids = await house.furnish()
    vote = {"decision": "approve", "action_digest": ids.action_digest, "display_digest": ids.display_digest}
    claim = {"tool": "run", "arguments": {"command": ids.command}, "audience": RUNNER}
    for method, path, body, expected in (
        ("post", f"/v1/permits/{ids.done}/report", ENDED, 403),
        ("post", f"/v1/approvals/{ids.spent}/report", {"outcome": "failed"}, 403),
        ("post", f"/v1/approvals/{ids.spent}/rollback", {"outcome": "failed"}, 403),
        ("post", f"/v1/approvals/{ids.approval}/votes", vote, 403),
        ("post", f"/v1/approvals/{ids.approval}/expire", {}, 403),
        ("get", "/v1/gate/frozen", None, 403),
        ("get", "/v1/audit/records", None, 403),
        ("post", "/v1/permits/claim", claim, 404),
        # An attempt to execute what another key was permitted is one to bypass the gate.
        ("post", f"/v1/permits/{ids.permit}/redeem", {"action_digest": ids.permit_digest, "audience": RUNNER}, 400),
    ):
        assert await status(house, MATE, method, path, body) == expected, path
    shown = await house.done(MATE, "get", f"/v1/permits/{ids.permit}")
    assert (shown["token"], shown["binding"], shown["state"]) == (None, None, "ISSUED")
    mate = await house.ledger.authenticate(MATE)
    assert mate.key_id in {each["key_id"] for each in (await house.done(BOB, "get", "/v1/gate/frozen"))["data"]}
    await house.done(AGENT, "post", "/v1/permits/claim", claim)


# --- administrators --------------------------------------------------------------------------------------------------


async def test_an_administrator_sees_the_gate_the_keys_and_the_log_of_every_tenant(house: Tenants) -> None:
    ids = await house.furnish()
    runner = house.new_key(RIVAL, frozenset({Scope.INFERENCE}))
    await house.propose(runner, "rm rivals-marker")
    both = {ACME, RIVAL}
    assert {each["tenant"] for each in (await house.done(ROOT, "get", "/v1/approvals"))["data"]} == both
    assert (await house.done(ROOT, "get", f"/v1/approvals/{ids.approval}"))["tenant"] == ACME
    assert {each["tenant"] for each in (await house.done(ROOT, "get", "/v1/gate/frozen"))["data"]} == {ACME}
    assert {each["tenant"] for each in (await house.done(ROOT, "get", "/v1/admin/keys"))["data"]} >= both
    records = (await house.done(ROOT, "get", "/v1/audit/records", query={"limit": "1000"}))["data"]
    assert {each["record"]["tenant"] for each in records} >= both
    assert (await house.done(ROOT, "post", f"/v1/approvals/{ids.approval}/cancel", {}))["state"] == "CANCELLED"


async def test_an_administrator_has_no_part_in_what_tenants_asked_and_executed(house: Tenants) -> None:
    ids = await house.furnish()
    both = house.new_key(HOUSE, frozenset({Scope.ADMIN, Scope.INFERENCE}))
    for method, path, body in (
        ("get", f"/v1/responses/{ids.response}", None),
        ("delete", f"/v1/responses/{ids.response}", None),
        ("post", "/v1/responses", {"input": "go", "previous_response_id": ids.response}),
        ("get", f"/v1/route/{ids.route}", None),
        ("get", f"/v1/permits/{ids.permit}", None),
        ("post", f"/v1/permits/{ids.done}/report", ENDED),
        ("post", "/v1/permits/claim", {"tool": "run", "arguments": {"command": ids.command}, "audience": RUNNER}),
    ):
        assert await status(house, ROOT, method, path, body) == (400 if "responses" in path else 403), path
        assert await status(house, both, method, path, body) == 404, path


async def test_the_same_repetition_key_of_two_tenants_is_two_incidents(house: Tenants) -> None:
    opened = {"kind": "outage", "severity": "low"}
    headers = {"idempotency-key": "again"}
    other = house.new_key(ACME, frozenset({Scope.ADMIN}))
    ids = list[str]()
    for key in (ROOT, ROOT, other):
        ids.append((await house.done(key, "post", "/v1/incidents", opened, headers=headers))["id"])
    assert ids[0] == ids[1] != ids[2]
    assert (await house.done(ROOT, "post", "/v1/incidents", {**opened, "tenant": ACME}, headers=headers))[
        "id"
    ] not in ids


# --- the one log -----------------------------------------------------------------------------------------------------


async def test_pages_of_the_log_bring_every_record_of_ones_own_and_no_other(house: Tenants) -> None:
    ids = await house.furnish()
    rival = house.new_key(RIVAL, frozenset({Scope.AUDIT_READ}))
    for key, tenant in ((rival, RIVAL), (AUDITOR, ACME)):
        query = {"limit": "1000", "tenant": tenant}
        whole = (await house.done(ROOT, "get", "/v1/audit/records", query=query))["data"]
        assert len(whole) > 1
        found, begin = [], 0
        while begin is not None:
            page = await house.send(key, Request("get", "/v1/audit/records", query={"limit": "1", "begin": str(begin)}))
            if key == rival:
                assert quoted(page, house.marks(ids), "") == []
            found += page.json()["data"]
            begin = page.json()["next"]
        assert found == whole


async def test_a_proof_of_a_strangers_record_has_hashes_alone(house: Tenants) -> None:
    ids = await house.furnish()
    records = (await house.done(AUDITOR, "get", "/v1/audit/records", query={"limit": "1000"}))["data"]
    record = records[-1]
    await house.sink.prove(record["index"])
    rival = house.new_key(RIVAL, frozenset({Scope.AUDIT_READ}))
    path = "/v1/audit/receipts/{index}"
    receipt = Request("get", path, {"index": str(record["index"])})
    reply = await house.send(rival, receipt)
    assert reply.json()["leaf_hash"] == record["leaf_hash"]
    assert quoted(reply, house.marks(ids), "") == []
    proof = parse_inclusion_proof(reply.json()["proof"].encode())
    assert reply.json().keys() == {"object", "index", "leaf_hash", "hashes", "checkpoint", "proof"}
    assert [each.hex() for each in proof.hashes] == reply.json()["hashes"]
    # A key without the scope must hold the receipt: a guess finds nothing, whatever lies there.
    runner = house.new_key(RIVAL, frozenset({Scope.INFERENCE}))
    guessed = replace(receipt, query={"leaf": "7" * 64})
    assert (await house.send(runner, receipt)).status_code == 403
    assert (await house.send(runner, guessed)).status_code == 404
    held = replace(receipt, query={"leaf": record["leaf_hash"]})
    assert (await house.send(runner, held)).status_code == 200


async def bundle(house: Tenants, key: str) -> httpx2.Response:
    """All entries of the log, as a monitor takes them."""
    await house.sink.prove((await house.sink.head()).size - 1)
    size = parse_checkpoint(parse_note(await house.sink.checkpoint()).text).size
    return await house.send(key, Request("get", "/v1/audit/tile/{tile}", {"tile": f"entries/000.p/{size}"}))


async def test_an_administrator_takes_bundles_of_every_tenants_entries(house: Tenants) -> None:
    ids = await house.furnish()
    entries = [json.loads(each) for each in parse_bundle((await bundle(house, ROOT)).content)]
    assert {each["tenant"] for each in entries} >= {ACME, RIVAL}
    assert ids.approval in json.dumps(entries)


async def test_a_bundle_of_entries_shows_no_other_tenant(house: Tenants) -> None:
    ids = await house.furnish()
    reply = await bundle(house, house.new_key(RIVAL, frozenset({Scope.AUDIT_READ})))
    assert quoted(reply, house.marks(ids), "") == []
