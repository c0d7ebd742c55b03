"""The routes of runners, over the real gate."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from deployments.gate.permits import digest_of, verify
from deployments.ports import Denied, Held, Released, RollbackPlan
from tests.api.permitting import BOB, CAROL, MATE, RIVAL, House

RUNNER = "gatehouse-run@here"
READ, CHANGE = {"command": "git status"}, {"command": "rm marker"}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with House(tmp_path).opened() as opened:
        yield opened


@pytest.fixture
async def client(house: House) -> AsyncIterator[httpx2.AsyncClient]:
    async with house.client() as opened:
        yield opened


async def propose(client: httpx2.AsyncClient, arguments: object, **more: object) -> dict[str, Any]:
    body = {"tool": "run", "arguments": arguments, "audience": RUNNER, **more}
    reply = await client.post("/v1/gate/calls", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def redeem(client: httpx2.AsyncClient, permit: dict[str, Any], **more: object) -> httpx2.Response:
    body = {"action_digest": permit["action_digest"], "audience": permit["audience"], **more}
    return await client.post(f"/v1/permits/{permit['id']}/redeem", json=body)


async def report(client: httpx2.AsyncClient, permit: dict[str, Any], **changes: object) -> httpx2.Response:
    body = {
        "outcome": "succeeded", "exit_code": 0, "output_digest": "7" * 64, "started_ms": 1, "ended_ms": 2, **changes,
    }  # fmt: skip
    return await client.post(f"/v1/permits/{permit['id']}/report", json=body)


async def execute(client: httpx2.AsyncClient, permit: dict[str, Any], **changes: object) -> None:
    assert (await redeem(client, permit)).status_code == 200
    reply = await report(client, permit, **changes)
    assert reply.status_code == 200, reply.text


async def changed(house: House, client: httpx2.AsyncClient, plan: RollbackPlan | None = None) -> dict[str, Any]:
    """An approved change, executed and reported."""
    held = await propose(client, CHANGE)
    await house.approve(held["approval_id"], *([plan] if plan else []))
    permit = (await propose(client, CHANGE))["permit"]
    await execute(client, permit)
    return permit


# --- proposing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [READ, '{"command": "git status"}', '{ "command":"git\\u0020status" }'])
async def test_a_read_is_permitted_with_all_that_its_runner_must_check(
    house: House, client: httpx2.AsyncClient, arguments: object
) -> None:
    answer = await propose(client, arguments)
    permit = answer["permit"]
    assert (answer["status"], answer["risk"], permit["state"]) == ("permitted", "R0", "ISSUED")
    jwks = (await client.get("/v1/gate/jwks", headers={"authorization": ""})).json()
    claims = verify(permit["token"], jwks, RUNNER, house.clock.now_ms() / 1000)
    assert digest_of(permit["binding"]) == claims.act == permit["action_digest"]
    assert permit["binding"]["arguments"] == '{"command":"git status"}'
    assert permit["binding"]["session"] == f"runner:{house.agent.key_id}"
    await execute(client, permit)
    assert house.audit.names()[-6:] == [
        "tool_call.proposed", "tool_call.classified", "tool_call.released",
        "permit.issued", "permit.redeemed", "action.reported",
    ]  # fmt: skip
    assert house.judged() == {}


async def test_a_dangerous_call_is_held_then_released_once(house: House, client: httpx2.AsyncClient) -> None:
    held = await propose(client, CHANGE)
    assert (held["status"], held["risk"], held["permit"], held["plan_required"]) == ("held", "R2", None, True)
    assert "change id" in held["missing"]
    again = await propose(client, CHANGE)
    assert again["approval_id"] == held["approval_id"]
    await house.approve(held["approval_id"])
    released = await propose(client, CHANGE)
    permit = released["permit"]
    assert (released["status"], permit["change_id"], permit["plan"]["verify"]) == (
        "permitted",
        "CHG-1",
        "test -e marker",
    )
    assert (await propose(client, CHANGE))["status"] == "held"
    await execute(client, permit)
    assert house.judged() == {}


async def test_what_the_policy_forbids_is_denied_and_what_cannot_be_recorded_withheld(
    house: House, client: httpx2.AsyncClient
) -> None:
    denied = await propose(client, {"command": "curl http://169.254.169.254/latest/meta-data/"})
    assert (denied["status"], denied["permit"]) == ("denied", None)
    house.audit.down = True
    withheld = await propose(client, READ)
    assert (withheld["status"], withheld["permit"]) == ("withheld", None)


@pytest.mark.parametrize(
    "changes",
    [
        {"arguments": None}, {"arguments": ["ls"]}, {"tool": ""}, {"tool": 1}, {"audience": ""},
        {"audience": "a" * 129}, {"session": ""}, {"extra": 1}, {"audience": "a\u202eb"},
    ],
    ids=str,
)  # fmt: skip
async def test_a_body_that_is_none_is_refused(client: httpx2.AsyncClient, changes: dict[str, object]) -> None:
    body = {"tool": "run", "arguments": READ, "audience": RUNNER, **changes}
    assert (await client.post("/v1/gate/calls", json=body)).status_code == 400


async def test_arguments_without_one_reading_are_withheld(client: httpx2.AsyncClient) -> None:
    assert (await propose(client, '{"command":"ls","command":"rm -rf /"}'))["status"] == "withheld"


async def test_only_keys_that_may_infer_are_runners(house: House) -> None:
    async with house.client(CAROL) as client:
        body = {"tool": "run", "arguments": READ, "audience": RUNNER}
        assert (await client.post("/v1/gate/calls", json=body)).status_code == 403
        assert (await client.post("/v1/permits/claim", json=body)).status_code == 403
    async with house.client("gh-nobody") as client:
        assert (await client.post("/v1/gate/calls", json=body)).status_code == 401


# --- claiming --------------------------------------------------------------------------------------------------------


async def test_a_call_that_was_approved_in_a_stream_needs_no_second_approval(
    house: House, client: httpx2.AsyncClient
) -> None:
    tool, arguments = "mcp__gatehouse__run", '{"command":"rm marker"}'
    held = await house.emitted(tool, arguments)
    assert isinstance(held, Held)
    await house.approve(held.approval_id)
    assert isinstance(await house.emitted(tool, arguments, call_id="call_2"), Released)
    claim = {"tool": "run", "arguments": CHANGE, "audience": RUNNER}
    reply = await client.post("/v1/permits/claim", json=claim)
    permit = reply.json()
    assert (reply.status_code, permit["risk"], permit["binding"]["session"]) == (200, "R2", "s1")
    await execute(client, permit)
    assert (await client.post("/v1/permits/claim", json=claim)).status_code == 404
    assert house.judged() == {}


@pytest.mark.parametrize("key", [MATE, RIVAL])
async def test_nobody_else_claims_it(house: House, key: str) -> None:
    held = await house.emitted("run", '{"command":"rm marker"}')
    assert isinstance(held, Held)
    await house.approve(held.approval_id)
    await house.emitted("run", '{"command":"rm marker"}')
    async with house.client(key) as client:
        claim = {"tool": "run", "arguments": CHANGE, "audience": RUNNER}
        assert (await client.post("/v1/permits/claim", json=claim)).status_code == 404


# --- redeeming -------------------------------------------------------------------------------------------------------


async def test_a_replay_is_refused_recorded_and_freezes_the_key(house: House, client: httpx2.AsyncClient) -> None:
    permit = (await propose(client, READ))["permit"]
    assert (await redeem(client, permit)).status_code == 200
    refused = await redeem(client, permit)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "approval_conflict")
    assert [event.data["kind"] for event in house.audit.named("bypass.attempted")] == ["permit_replayed"]
    assert [event.data["key_id"] for event in house.audit.named("principal.frozen")] == [house.agent.key_id]
    house.clock.advance(3_000)  # the gate of a replica learns of it within two seconds
    assert (await propose(client, READ))["status"] == "withheld"
    assert (await report(client, permit)).status_code == 200


async def test_a_runner_that_lost_its_answer_gets_it_again_and_another_does_not(
    house: House, client: httpx2.AsyncClient
) -> None:
    permit = (await propose(client, READ))["permit"]
    first, again = [await redeem(client, permit, nonce="n" * 43) for _ in range(2)]
    assert (first.status_code, again.status_code, again.json()) == (200, 200, first.json())
    assert (len(house.audit.named("permit.redeemed")), house.audit.named("bypass.attempted")) == (1, [])
    refused = await redeem(client, permit, nonce="o" * 43)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "approval_conflict")
    assert [event.data["kind"] for event in house.audit.named("bypass.attempted")] == ["permit_replayed"]
    assert [event.data["key_id"] for event in house.audit.named("principal.frozen")] == [house.agent.key_id]
    assert (await report(client, permit)).status_code == 200
    assert house.judged() == {}


@pytest.mark.parametrize("nonce", ["n" * 21, "n" * 129, "n" * 42 + "\n", "n" * 42 + "\u00e9", 7, ""])
async def test_a_nonce_that_is_none_is_refused_before_anything_happens(
    house: House, client: httpx2.AsyncClient, nonce: object
) -> None:
    permit = (await propose(client, READ))["permit"]
    assert (await redeem(client, permit, nonce=nonce)).status_code == 400
    assert house.audit.names()[-1] == "permit.issued"
    assert (await redeem(client, permit)).status_code == 200


async def test_a_permit_of_another_tenant_does_not_exist(house: House, client: httpx2.AsyncClient) -> None:
    permit = (await propose(client, READ))["permit"]
    async with house.client(RIVAL) as rival:
        assert (await redeem(rival, permit)).status_code == 404
        assert (await rival.get(f"/v1/permits/{permit['id']}")).status_code == 404
        assert (await report(rival, permit)).status_code == 404
        assert (
            await rival.post(f"/v1/permits/{permit['id']}/rollback", json={"step": 0, "audience": "x"})
        ).status_code == 404
    async with house.client(MATE) as mate:
        shown = (await mate.get(f"/v1/permits/{permit['id']}")).json()
    assert (shown["token"], shown["binding"], shown["state"]) == (None, None, "ISSUED")


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "great"}, {"output_digest": "7"}, {"exit_code": "0"}, {"started_ms": -1}, {"rollback": "maybe"},
        {"note": "x" * 4001}, {"extra": 1},
    ],
    ids=lambda each: str(each)[:30],
)  # fmt: skip
async def test_a_report_that_is_none_is_refused(client: httpx2.AsyncClient, changes: dict[str, object]) -> None:
    permit = (await propose(client, READ))["permit"]
    await redeem(client, permit)
    assert (await report(client, permit, **changes)).status_code == 400


# --- taking back -----------------------------------------------------------------------------------------------------


async def back(client: httpx2.AsyncClient, permit: dict[str, Any], step: int) -> dict[str, Any]:
    reply = await client.post(f"/v1/permits/{permit['id']}/rollback", json={"step": step, "audience": RUNNER})
    return reply.json() if reply.status_code == 200 else {"status": reply.status_code}


async def test_the_signed_steps_flow_and_the_verification_ends_it(house: House, client: httpx2.AsyncClient) -> None:
    permit = await changed(house, client)
    for step, risk in ((0, "R1"), (1, "R0")):
        answer = await back(client, permit, step)
        assert (answer["status"], answer["risk"], answer["permit"]["rollback_of"]) == ("permitted", risk, permit["id"])
        await execute(client, answer["permit"])
    assert (await report(client, answer["permit"], rollback="succeeded")).status_code == 200
    assert house.audit.named("rollback.reported")[0].data["outcome"] == "succeeded"
    assert (await client.get(f"/v1/permits/{permit['id']}")).json()["taken_back"] == [0, 1]
    assert (await back(client, permit, 0))["status"] == 400
    assert house.judged() == {}


async def test_a_step_of_a_higher_class_needs_an_approval_of_its_own(house: House, client: httpx2.AsyncClient) -> None:
    permit = await changed(house, client, RollbackPlan(("sudo reboot",), "test -e marker"))
    held = await back(client, permit, 0)
    assert (held["status"], held["risk"]) == ("held", "R3")
    assert held["approval_id"] != permit["approval_id"]
    await house.approve(held["approval_id"])
    step = (await back(client, permit, 0))["permit"]
    assert (step["rollback_of"], step["approval_id"]) == (permit["id"], held["approval_id"])
    await execute(client, step)
    assert (await client.get(f"/v1/permits/{permit['id']}")).json()["taken_back"] == [0]
    assert house.judged() == {}


async def test_words_for_a_human_are_held_as_a_step_and_left_to_them_as_verification(
    house: House, client: httpx2.AsyncClient
) -> None:
    permit = await changed(house, client, RollbackPlan(("restore the backup",), "see that customers are served"))
    held = await back(client, permit, 0)
    assert held["status"] == "held"
    assert house.audit.named("permit.issued")[-1].data["rollback_of"] is None
    told = await back(client, permit, 1)
    assert (told["status"], told["by_hand"]) == ("by_hand", "see that customers are served")


async def test_a_forbidden_step_is_denied(house: House, client: httpx2.AsyncClient) -> None:
    permit = await changed(house, client, RollbackPlan(("curl http://169.254.169.254/x",), "true"))
    assert (await back(client, permit, 0))["status"] == "denied"


async def test_only_what_was_executed_under_a_plan_is_taken_back(house: House, client: httpx2.AsyncClient) -> None:
    read = (await propose(client, READ))["permit"]
    await execute(client, read)
    assert (await back(client, read, 0))["status"] == 400
    held = await propose(client, CHANGE)
    await house.approve(held["approval_id"])
    permit = (await propose(client, CHANGE))["permit"]
    assert (await back(client, permit, 0))["status"] != "permitted"
    assert (await back(client, permit, 2))["status"] == 400


async def test_the_verdicts_of_a_conversation_are_not_permits(house: House) -> None:
    assert isinstance(await house.emitted("run", '{"command":"curl http://169.254.169.254/x"}'), Denied)
    assert house.audit.named("permit.issued") == []
    async with house.client(BOB) as client:
        claim = {"tool": "run", "arguments": READ, "audience": RUNNER}
        assert (await client.post("/v1/permits/claim", json=claim)).status_code == 404
