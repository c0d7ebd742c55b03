import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request, Response
from typer.testing import CliRunner

from deployments.errors import GatehouseError
from deployments.gate.bundle import bundle_path
from deployments.gate.classify import Classifier
from deployments.gate.display import render
from deployments.gate.policy import read_policy
from deployments.gate.shell.reader import ShellReader
from deployments.ports import (
    Advice,
    Approval,
    ApprovalId,
    ApprovalState,
    Conclusion,
    Digests,
    Effort,
    KeyId,
    ModelId,
    Permit,
    Principal,
    Proposal,
    RequestId,
    Risk,
    RollbackPlan,
    Scope,
    SessionId,
    TenantId,
)
from serve_app.api.approvals import create_approvals_router
from serve_app.api.auth import Authorizer
from serve_app.api.errors import error_response
from serve_app.cli import approvals as cli
from tests.fakes_gate import InMemoryApprovals
from tests.fakes_ledger import InMemoryLedger

CLI = CliRunner()
PLAN = {"change_id": "CHG-1", "steps": ["recreate it"], "verify": "it is there"}
ARGUMENTS = '{"command":"kubectl delete namespace staging"}'


def proposal(tenant: str = "acme", risk: Risk = Risk.R2, number: int = 1) -> Proposal:
    display = render(
        tool="shell", arguments=ARGUMENTS, commands=("kubectl delete namespace staging",), risk=risk,
        reasons=("k8s.delete: deletes objects of the cluster",), tenant=tenant, requester="ann", session="s1",
        policy_digest="a" * 64, action_digest="b" * 64,
    )  # fmt: skip
    return Proposal(
        gate_call_id=f"{number:032x}",
        action_digest="b" * 64,
        fingerprint=f"{number:064x}",
        request_id=RequestId("req_1"),
        session=SessionId("s1"),
        tenant=TenantId(tenant),
        requester_key=KeyId("key_of_ann"),
        requester_person="ann",
        tool="shell",
        arguments=ARGUMENTS,
        display=display.text,
        display_digest=display.digest,
        risk=risk,
        reasons=("k8s.delete: deletes objects of the cluster",),
        policy_digest="a" * 64,
        model=ModelId("demo-20b"),
    )


@pytest.fixture
def approvals() -> InMemoryApprovals:
    return InMemoryApprovals()


@pytest.fixture
def ledger() -> InMemoryLedger:
    ledger = InMemoryLedger()
    ledger.add_key("agent", Scope.INFERENCE)
    ledger.add_key("bob", Scope.APPROVE, person="bob")
    ledger.add_key("carol", Scope.APPROVE, person="carol")
    ledger.add_key("nobody", Scope.APPROVE)
    ledger.add_key("root", Scope.ADMIN, Scope.APPROVE, tenant="operators", person="root")
    ledger.add_key("eve", Scope.APPROVE, Scope.INFERENCE, tenant="other", person="eve")
    ledger.add_key("auditor", Scope.AUDIT_READ)
    return ledger


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(read_policy(bundle_path("default")), ShellReader(20.0))


@pytest.fixture
def app(ledger: InMemoryLedger, approvals: InMemoryApprovals, classifier: Classifier) -> FastAPI:
    app = FastAPI()
    app.include_router(create_approvals_router(Authorizer(ledger), approvals, classifier))

    async def on_error(_: Request, error: Exception) -> Response:
        return error_response(error)

    app.add_exception_handler(GatehouseError, on_error)
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gatehouse") as client:
        yield client


@pytest.fixture
async def held(approvals: InMemoryApprovals) -> Approval:
    found = await approvals.propose(proposal())
    assert isinstance(found, Approval)
    return found


def as_(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def ballot(shown: dict[str, Any] | None = None, decision: str = "approve", **changes: str) -> dict[str, str]:
    """A vote on what a reply has shown; without one, on nothing that was ever shown."""
    digests = shown or {"action_digest": "b" * 64, "display_digest": "d" * 64}
    return {
        "decision": decision,
        "reason": "looks right",
        "action_digest": digests["action_digest"],
        "display_digest": digests["display_digest"],
        **changes,
    }


async def test_from_held_to_approved(client: httpx2.AsyncClient, held: Approval) -> None:
    path = f"/v1/approvals/{held.approval_id}"
    (listed,) = (await client.get("/v1/approvals", headers=as_("bob"))).json()["data"]
    assert (listed["id"], listed["state"]) == (held.approval_id, "NEEDS_PLAN")
    assert listed["missing"] == "A change id and a rollback plan are needed."
    assert "kubectl delete namespace staging" in listed["display"]
    planned = await client.post(f"{path}/plan", headers=as_("agent"), json=PLAN)
    assert planned.json()["state"] == "PENDING"
    assert planned.json()["missing"] == "0 of 1 votes: a person other than the requester must approve."
    assert planned.json()["display"].startswith(listed["display"])
    assert "change id:  CHG-1\nrollback 1: recreate it\nverify:     it is there\n" in planned.json()["display"]
    early = await client.post(f"{path}/votes", headers=as_("bob"), json=ballot(listed))
    assert early.json()["error"]["code"] == "approval_conflict", "the plan was not shown to this voter"
    voted = await client.post(f"{path}/votes", headers=as_("bob"), json=ballot(planned.json()))
    assert (voted.status_code, voted.json()["state"]) == (200, "APPROVED")
    assert voted.json()["votes"][0]["person"] == "bob"


async def test_r3_says_that_a_second_person_is_missing(
    client: httpx2.AsyncClient, approvals: InMemoryApprovals
) -> None:
    found = await approvals.propose(proposal(risk=Risk.R3))
    assert isinstance(found, Approval)
    path = f"/v1/approvals/{found.approval_id}"
    shown = (await client.post(f"{path}/plan", headers=as_("bob"), json=PLAN)).json()
    first = (await client.post(f"{path}/votes", headers=as_("bob"), json=ballot(shown))).json()
    assert (first["state"], first["missing"]) == ("PENDING", "1 of 2 votes: a second person must approve.")
    again = await client.post(f"{path}/votes", headers=as_("bob"), json=ballot(shown))
    assert again.json()["error"]["code"] == "approval_conflict"
    second = await client.post(f"{path}/votes", headers=as_("carol"), json=ballot(shown))
    assert second.json()["state"] == "APPROVED"


async def test_a_plan_goes_to_the_call_as_well(client: httpx2.AsyncClient, held: Approval) -> None:
    path = f"/v1/gate/calls/{held.proposal.gate_call_id}"
    reply = await client.post(f"{path}/plan", headers=as_("agent"), json=PLAN)
    assert (reply.json()["id"], reply.json()["state"]) == (held.approval_id, "PENDING")


async def test_the_call_shows_once_it_is_approved(client: httpx2.AsyncClient, held: Approval) -> None:
    path = f"/v1/gate/calls/{held.proposal.gate_call_id}"
    before = (await client.get(path, headers=as_("agent"))).json()
    assert (before["state"], before["arguments"]) == ("NEEDS_PLAN", None)
    shown = (await client.post(f"{path}/plan", headers=as_("agent"), json=PLAN)).json()
    await client.post(f"/v1/approvals/{held.approval_id}/votes", headers=as_("bob"), json=ballot(shown))
    after = (await client.get(path, headers=as_("agent"))).json()
    assert (after["state"], after["arguments"]) == ("APPROVED", ARGUMENTS)


@pytest.mark.parametrize(
    ("key", "status"),
    [("agent", 403), ("auditor", 403), ("nobody", 403), ("eve", 404), ("stranger", 401)],
)
async def test_who_may_not_vote(client: httpx2.AsyncClient, held: Approval, key: str, status: int) -> None:
    planned = await client.post(f"/v1/approvals/{held.approval_id}/plan", headers=as_("agent"), json=PLAN)
    body = ballot(planned.json())
    reply = await client.post(f"/v1/approvals/{held.approval_id}/votes", headers=as_(key), json=body)
    assert reply.status_code == status
    state = (await client.get(f"/v1/approvals/{held.approval_id}", headers=as_("bob"))).json()["state"]
    assert state == "PENDING"


async def test_the_requester_does_not_vote(client: httpx2.AsyncClient, ledger: InMemoryLedger, held: Approval) -> None:
    ledger.add_key("ann-2", Scope.APPROVE, person="Ann")
    planned = await client.post(f"/v1/approvals/{held.approval_id}/plan", headers=as_("agent"), json=PLAN)
    body = ballot(planned.json())
    reply = await client.post(f"/v1/approvals/{held.approval_id}/votes", headers=as_("ann-2"), json=body)
    assert reply.json()["error"]["code"] == "approval_conflict"


@pytest.mark.parametrize("field", ["action_digest", "display_digest"])
async def test_a_vote_echoes_what_was_shown(client: httpx2.AsyncClient, held: Approval, field: str) -> None:
    planned = await client.post(f"/v1/approvals/{held.approval_id}/plan", headers=as_("agent"), json=PLAN)
    body = ballot(planned.json(), **{field: "0" * 64})
    reply = await client.post(f"/v1/approvals/{held.approval_id}/votes", headers=as_("bob"), json=body)
    assert reply.json()["error"]["code"] == "approval_conflict"


async def test_each_tenant_has_its_own_queue(
    client: httpx2.AsyncClient, approvals: InMemoryApprovals, held: Approval
) -> None:
    foreign = await approvals.propose(proposal("other", number=2))
    assert isinstance(foreign, Approval)

    async def queue(key: str) -> set[str]:
        return {each["id"] for each in (await client.get("/v1/approvals", headers=as_(key))).json()["data"]}

    assert await queue("bob") == {held.approval_id}
    assert await queue("eve") == {foreign.approval_id}
    assert await queue("root") == {held.approval_id, foreign.approval_id}
    for method, suffix, body in (
        ("GET", "", None), ("POST", "/plan", PLAN), ("POST", "/cancel", {}), ("POST", "/votes", ballot()),
    ):  # fmt: skip
        path = f"/v1/approvals/{foreign.approval_id}{suffix}"
        assert (await client.request(method, path, headers=as_("bob"), json=body)).status_code == 404


async def test_the_queue_is_filtered_by_state(client: httpx2.AsyncClient, held: Approval) -> None:
    empty = await client.get("/v1/approvals?state=PENDING", headers=as_("bob"))
    assert empty.json()["data"] == []
    found = await client.get("/v1/approvals?state=NEEDS_PLAN", headers=as_("bob"))
    assert [each["id"] for each in found.json()["data"]] == [held.approval_id]


async def test_a_key_without_a_scope_sees_nothing(client: httpx2.AsyncClient, held: Approval) -> None:
    for path in ("/v1/approvals", f"/v1/approvals/{held.approval_id}", f"/v1/gate/calls/{held.approval_id}"):
        assert (await client.get(path, headers=as_("auditor"))).status_code == 403
        assert (await client.get(path)).status_code == 401


async def test_a_request_can_be_cancelled(client: httpx2.AsyncClient, held: Approval) -> None:
    path = f"/v1/approvals/{held.approval_id}/cancel"
    reply = await client.post(path, headers=as_("agent"), json={"reason": "no longer needed"})
    assert reply.json()["state"] == "CANCELLED"
    assert (await client.post(path, headers=as_("agent"), json={})).json()["error"]["code"] == "approval_conflict"


@pytest.mark.parametrize(
    ("suffix", "body"),
    [
        ("plan", {}),
        ("plan", {**PLAN, "change_id": ""}),
        ("plan", {**PLAN, "steps": []}),
        ("plan", {**PLAN, "steps": "one"}),
        ("plan", {**PLAN, "surprise": 1}),
        ("votes", ballot(decision="maybe")),
        ("votes", ballot(action_digest="short")),
        ("votes", {**ballot(), "person": "somebody else"}),
        ("votes", {**ballot(), "reason": 1}),
        ("cancel", {"why": "x"}),
        ("expire", {"reason": 1}),
        ("expire", {"when": "now"}),
    ],
)
async def test_a_body_that_is_not_exactly_right_is_refused(
    client: httpx2.AsyncClient, held: Approval, suffix: str, body: dict[str, Any]
) -> None:
    reply = await client.post(f"/v1/approvals/{held.approval_id}/{suffix}", headers=as_("bob"), json=body)
    assert reply.status_code == 400
    assert "somebody else" not in reply.text


# --- roles, ends, advice ---------------------------------------------------------------------------------------------


async def test_a_voter_needs_one_of_the_roles_that_the_policy_asks_for(
    client: httpx2.AsyncClient, ledger: InMemoryLedger, approvals: InMemoryApprovals
) -> None:
    ledger.add_key("dora", Scope.APPROVE, person="dora", roles=frozenset({"dba"}))
    found = await approvals.propose(replace(proposal(), approver_roles=("sre", "dba")))
    assert isinstance(found, Approval)
    path = f"/v1/approvals/{found.approval_id}"
    shown = (await client.post(f"{path}/plan", headers=as_("agent"), json=PLAN)).json()
    assert shown["approver_roles"] == ["sre", "dba"]
    assert shown["missing"].endswith("with one of the roles sre, dba must approve.")
    assert "approvers:  1 of the roles sre, dba\n" in shown["display"]
    without = await client.post(f"{path}/votes", headers=as_("bob"), json=ballot(shown))
    assert without.status_code == 403
    assert "roles sre, dba" in without.json()["error"]["message"]
    voted = await client.post(f"{path}/votes", headers=as_("dora"), json=ballot(shown))
    assert voted.json()["state"] == "APPROVED"


async def test_to_say_no_takes_no_role(client: httpx2.AsyncClient, approvals: InMemoryApprovals) -> None:
    found = await approvals.propose(replace(proposal(), approver_roles=("sre",)))
    assert isinstance(found, Approval)
    path = f"/v1/approvals/{found.approval_id}"
    shown = (await client.get(path, headers=as_("bob"))).json()
    voted = await client.post(f"{path}/votes", headers=as_("bob"), json=ballot(shown, "reject"))
    assert voted.json()["state"] == "REJECTED"


@pytest.mark.parametrize(
    ("key", "status"), [("agent", 403), ("auditor", 403), ("eve", 404), ("stranger", 401), ("bob", 200), ("root", 200)]
)
async def test_who_may_end_a_request_before_its_time(
    client: httpx2.AsyncClient, held: Approval, key: str, status: int
) -> None:
    path = f"/v1/approvals/{held.approval_id}"
    reply = await client.post(f"{path}/expire", headers=as_(key), json={"reason": "superseded"})
    assert reply.status_code == status
    state = (await client.get(path, headers=as_("bob"))).json()["state"]
    assert state == ("EXPIRED" if status == 200 else "NEEDS_PLAN")
    if status == 200:
        again = await client.post(f"{path}/expire", headers=as_(key), json={})
        assert again.json()["error"]["code"] == "approval_conflict"


async def test_a_review_is_shown_beside_the_request_and_signed_by_nobody(
    client: httpx2.AsyncClient, approvals: InMemoryApprovals, held: Approval
) -> None:
    path = f"/v1/approvals/{held.approval_id}"
    before = (await client.get(path, headers=as_("bob"))).json()
    assert before["advice"] is None
    plan = RollbackPlan(("restore it",), "look")
    await approvals.advise(
        held.approval_id, Advice(ModelId("demo-120b"), Effort.HIGH, 1, "deletes it", ("no backup",), plan)
    )
    after = (await client.get(path, headers=as_("bob"))).json()
    assert after["advice"]["concerns"] == ["no backup"]
    assert after["advice"]["plan"]["steps"] == ["restore it"]
    assert (after["display_digest"], after["plan"]) == (before["display_digest"], None)
    assert "no backup" not in after["display"]


# --- frozen keys -----------------------------------------------------------------------------------------------------


async def test_a_key_is_frozen_listed_and_released(client: httpx2.AsyncClient, held: Approval) -> None:
    key_id = held.proposal.requester_key
    path = f"/v1/gate/frozen/{key_id}"
    made = (await client.post(path, headers=as_("bob"), json={"reason": "it went astray"})).json()
    assert (made["key_id"], made["kind"]) == (key_id, "manual")
    for reader, seen in (("bob", [key_id]), ("root", [key_id]), ("eve", [])):
        found = (await client.get("/v1/gate/frozen", headers=as_(reader))).json()["data"]
        assert [each["key_id"] for each in found] == seen
    body = {"change_id": "CHG-9", "reason": "looked at"}
    assert (await client.post(f"{path}/release", headers=as_("bob"), json=body)).status_code == 403
    released = (await client.post(f"{path}/release", headers=as_("root"), json=body)).json()
    assert released == {"object": "gate.released", "key_id": key_id, "change_id": "CHG-9"}
    assert (await client.get("/v1/gate/frozen", headers=as_("root"))).json()["data"] == []
    assert (await client.post(f"{path}/release", headers=as_("root"), json=body)).status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("", {"why": "x"}),
        ("", {"reason": "x" * 4001}),
        ("/release", {}),
        ("/release", {"change_id": ""}),
        ("/release", {"change_id": "x" * 129}),
        ("/release", {"change_id": "CHG-1", "surprise": 1}),
    ],
)
async def test_a_freeze_that_is_not_exactly_right_is_refused(
    client: httpx2.AsyncClient, approvals: InMemoryApprovals, path: str, body: dict[str, Any]
) -> None:
    reply = await client.post(f"/v1/gate/frozen/key_1{path}", headers=as_("root"), json=body)
    assert reply.status_code == 400
    assert approvals.frozen_keys == {}


@pytest.mark.parametrize(("key", "status"), [("agent", 403), ("auditor", 403), ("stranger", 401)])
async def test_who_may_not_freeze(client: httpx2.AsyncClient, key: str, status: int) -> None:
    assert (await client.get("/v1/gate/frozen", headers=as_(key))).status_code == status
    assert (await client.post("/v1/gate/frozen/key_2", headers=as_(key), json={})).status_code == status


# --- reports ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def released(approvals: InMemoryApprovals, held: Approval) -> Approval:
    root = Principal(TenantId("acme"), KeyId("key_root"), "root", frozenset({Scope.APPROVE}))
    planned = await approvals.plan(root, held.approval_id, "CHG-1", RollbackPlan(("recreate it",), "it is there"))
    seen = Digests(planned.proposal.action_digest, planned.proposal.display_digest)
    await approvals.vote(root, held.approval_id, seen, True, "")
    assert isinstance(await approvals.propose(proposal()), Permit)
    return held


async def test_a_released_call_is_reported(client: httpx2.AsyncClient, released: Approval) -> None:
    path = f"/v1/approvals/{released.approval_id}"
    body = {"outcome": "failed", "exit_code": 3, "note": "it did not work"}
    found = (await client.post(f"{path}/report", headers=as_("bob"), json=body)).json()
    assert (found["object"], found["id"], found["outcome"]) == ("approval.conclusion", "apr_1", "failed")
    assert (found["rollback"], found["gate_call_id"]) == (None, proposal().gate_call_id)
    found = (await client.post(f"{path}/rollback", headers=as_("bob"), json={"outcome": "succeeded"})).json()
    assert (found["outcome"], found["rollback"]) == ("failed", "succeeded")


@pytest.mark.parametrize("suffix", ["report", "rollback"])
@pytest.mark.parametrize(
    ("key", "status"), [("agent", 403), ("auditor", 403), ("eve", 404), ("stranger", 401), ("root", 200)]
)
async def test_who_may_report(
    client: httpx2.AsyncClient, released: Approval, suffix: str, key: str, status: int
) -> None:
    path = f"/v1/approvals/{released.approval_id}/{suffix}"
    reply = await client.post(path, headers=as_(key), json={"outcome": "succeeded"})
    assert reply.status_code == status, "the key of these tests that may infer is not the one that requested"


async def test_a_call_that_was_not_released_is_not_reported(client: httpx2.AsyncClient, held: Approval) -> None:
    for suffix in ("report", "rollback"):
        path = f"/v1/approvals/{held.approval_id}/{suffix}"
        reply = await client.post(path, headers=as_("bob"), json={"outcome": "succeeded"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "approval_conflict")


@pytest.mark.parametrize(
    ("suffix", "body"),
    [
        ("report", {}),
        ("report", {"outcome": "fine"}),
        ("report", {"outcome": "succeeded", "exit_code": "0"}),
        ("report", {"outcome": "succeeded", "exit_code": 2**31}),
        ("report", {"outcome": "succeeded", "surprise": 1}),
        ("report", {"outcome": "succeeded", "note": "x" * 4001}),
        ("rollback", {"outcome": "unknown"}),
        ("rollback", {"outcome": "succeeded", "exit_code": 0}),
    ],
)
async def test_a_report_that_is_not_exactly_right_is_refused(
    client: httpx2.AsyncClient, released: Approval, suffix: str, body: dict[str, Any]
) -> None:
    reply = await client.post(f"/v1/approvals/{released.approval_id}/{suffix}", headers=as_("bob"), json=body)
    assert reply.status_code == 400


async def test_the_dry_run_explains_and_changes_nothing(
    client: httpx2.AsyncClient, approvals: InMemoryApprovals
) -> None:
    body = {"tool": "shell", "arguments": {"command": "bash -c 'kubectl delete ns prod'"}}
    found = (await client.post("/v1/gate/classify", headers=as_("agent"), json=body)).json()
    assert (found["risk"], found["outcome"], found["rules"][0]) == ("R3", "hold", "k8s.delete")
    assert "kubectl delete ns prod" in found["commands"]
    assert approvals.found == {}
    raw = {"tool": "shell", "arguments": '{"command":"ls","command":"rm x"}', "profile": "observe"}
    assert (await client.post("/v1/gate/classify", headers=as_("agent"), json=raw)).json()["outcome"] == "hold"
    for bad in ({"tool": "shell"}, {"tool": "shell", "arguments": 1}, {**body, "profile": "none"}):
        assert (await client.post("/v1/gate/classify", headers=as_("agent"), json=bad)).status_code == 400


async def test_a_store_that_is_down_is_said_so(
    client: httpx2.AsyncClient, approvals: InMemoryApprovals, held: Approval
) -> None:
    approvals.down = True
    reply = await client.get(f"/v1/approvals/{held.approval_id}", headers=as_("bob"))
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "gate_unavailable")


# --- the command line over the same routes ---------------------------------------------------------------------------


class LocalClient:
    """The command line's client with the app in place of a server."""

    key = "bob"
    app: FastAPI

    def __init__(self) -> None:
        self.url = "http://gatehouse"

    def request(self, method: str, path: str, body: dict[str, object] | None = None, **params: str) -> Any:
        async def ask() -> httpx2.Response:
            transport = httpx2.ASGITransport(self.app)
            async with httpx2.AsyncClient(transport=transport, base_url=self.url) as client:
                return await client.request(method, path, json=body, params=params or None, headers=as_(self.key))

        reply = asyncio.run(ask())
        if reply.status_code >= 400:
            cli.fail(reply.json()["error"]["message"])
        return reply.json()


@pytest.fixture
def command(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> type[LocalClient]:
    LocalClient.app, LocalClient.key = app, "bob"
    monkeypatch.setattr(cli, "ApiClient", LocalClient)
    return LocalClient


@pytest.fixture
def waiting(approvals: InMemoryApprovals) -> str:
    now_ms = approvals.clock.now_ms()
    approval = Approval(
        approval_id=ApprovalId("apr_1"),
        state=ApprovalState.NEEDS_PLAN,
        proposal=proposal(risk=Risk.R3),
        votes_required=2,
        votes=(),
        change_id=None,
        plan=None,
        created_ms=now_ms,
        expires_ms=now_ms + 60_000,
    )
    approvals.found[approval.approval_id] = approval
    return approval.approval_id


FLAGS = ["--change-id", "CHG-7", "--rollback", "first", "--rollback", "second", "--verify", "look"]


def test_the_command_shows_plans_votes_and_says_what_is_missing(command: type[LocalClient], waiting: str) -> None:
    first = CLI.invoke(cli.app, ["approve", waiting, *FLAGS])
    assert first.exit_code == 0, first.output
    assert "would run:  kubectl delete namespace staging" in first.output
    assert first.output.count("display:    ") == 2, "shown again with the plan, which is signed with the call"
    assert "change id:  CHG-7" in first.output
    assert first.output.endswith(f"{waiting}: PENDING\n1 of 2 votes: a second person must approve.\n")
    command.key = "carol"
    second = CLI.invoke(cli.app, ["approve", waiting, "--reason", "agreed"])
    assert f"{waiting}: APPROVED" in second.output
    assert second.output.count("display:    ") == 1
    assert "rollback 2: second" in second.output


def test_the_command_votes_on_nothing_that_is_not_what_it_shows(
    command: type[LocalClient], waiting: str, approvals: InMemoryApprovals
) -> None:
    honest = approvals.found[waiting]
    forged = replace(honest.proposal, display=honest.proposal.display.replace("delete", "get"))
    approvals.found[waiting] = replace(honest, proposal=forged)
    for arguments in (["approve", waiting, *FLAGS], ["reject", waiting], ["show", waiting]):
        found = CLI.invoke(cli.app, arguments)
        assert found.exit_code == 1
        assert "does not match its digest" in found.output
    assert approvals.found[waiting].votes == ()


def test_the_command_shows_a_review_that_cannot_pass_for_what_is_signed(
    command: type[LocalClient], waiting: str, approvals: InMemoryApprovals
) -> None:
    text = "harmless\nrisk:       R0\x1b[2J"
    approvals.reviews[waiting] = Advice(ModelId("m"), Effort.HIGH, 1, text, (text,), RollbackPlan((text,), text))
    output = CLI.invoke(cli.app, ["show", waiting]).output
    assert output.count("advice:     ") == 5
    assert "\nrisk:       R0" not in output
    assert "\x1b" not in output


def test_the_command_freezes_lists_and_releases(command: type[LocalClient], approvals: InMemoryApprovals) -> None:
    assert "no frozen keys" in CLI.invoke(cli.app, ["frozen"]).output
    assert "key_1: frozen since" in CLI.invoke(cli.app, ["freeze", "key_1", "--reason", "astray"]).output
    assert "key_1" in CLI.invoke(cli.app, ["frozen"]).output
    assert json.loads(CLI.invoke(cli.app, ["frozen", "--json"]).output)["kind"] == "manual"
    command.key = "root"
    assert CLI.invoke(cli.app, ["unfreeze", "key_1"]).exit_code == 2
    released = CLI.invoke(cli.app, ["unfreeze", "key_1", "--change-id", "CHG-9"])
    assert released.output == "key_1: released under CHG-9\n"
    assert approvals.frozen_keys == {}


def test_the_command_ends_a_request(command: type[LocalClient], waiting: str) -> None:
    assert f"{waiting}: EXPIRED" in CLI.invoke(cli.app, ["expire", waiting, "--reason", "superseded"]).output


def test_without_a_terminal_the_command_names_the_flags_it_needs(command: type[LocalClient], waiting: str) -> None:
    found = CLI.invoke(cli.app, ["approve", waiting, "--change-id", "CHG-7"])
    assert found.exit_code == 1
    assert "add --rollback, --verify" in found.output


def test_the_command_does_not_edit_a_plan(command: type[LocalClient], waiting: str) -> None:
    planned = CLI.invoke(cli.app, ["plan", waiting, "--change-id", "CHG-7", "--step", "first", "--verify", "look"])
    assert f"{waiting}: PENDING" in planned.output
    found = CLI.invoke(cli.app, ["approve", waiting, "--change-id", "CHG-8"])
    assert found.exit_code == 1
    assert "not edited" in found.output


def test_the_command_does_not_vote_on_a_display_that_was_changed(
    command: type[LocalClient], waiting: str, approvals: InMemoryApprovals
) -> None:
    known = approvals.found[waiting]
    approvals.found[waiting] = replace(known, proposal=replace(known.proposal, display="harmless\n"))
    found = CLI.invoke(cli.app, ["approve", waiting, *FLAGS])
    assert found.exit_code == 1
    assert "does not match its digest" in found.output


def test_the_command_lists_rejects_and_cancels(command: type[LocalClient], waiting: str) -> None:
    assert waiting in CLI.invoke(cli.app, ["list"]).output
    rows = CLI.invoke(cli.app, ["list", "--json"]).output.splitlines()
    assert json.loads(rows[0])["id"] == waiting
    assert "no requests" in CLI.invoke(cli.app, ["list", "--state", "PENDING"]).output
    assert json.loads(CLI.invoke(cli.app, ["show", waiting, "--json"]).output)["risk"] == "R3"
    assert f"{waiting}: REJECTED" in CLI.invoke(cli.app, ["reject", waiting, "--reason", "no"]).output
    late = CLI.invoke(cli.app, ["cancel", waiting])
    assert late.exit_code == 1
    assert "REJECTED" in late.output


def test_the_command_reports_and_says_what_is_on_record(
    command: type[LocalClient], waiting: str, approvals: InMemoryApprovals
) -> None:
    approvals.found[waiting] = replace(approvals.found[waiting], state=ApprovalState.CONSUMED)
    approvals.concluded[waiting] = Conclusion(ApprovalId(waiting), "g" * 32, approvals.clock.now_ms())
    reported = CLI.invoke(cli.app, ["report", waiting, "--outcome", "failed", "--exit-code", "2", "--note", "no luck"])
    assert reported.output == f"{waiting}: failed\n"
    rolled_back = CLI.invoke(cli.app, ["rollback", waiting, "--outcome", "not_needed"])
    assert rolled_back.output == f"{waiting}: rollback not_needed\n"
    again = CLI.invoke(cli.app, ["report", waiting, "--outcome", "succeeded"])
    assert again.exit_code == 1
    assert "already" in again.output
    assert CLI.invoke(cli.app, ["report", waiting, "--outcome", "perhaps"]).exit_code == 2
