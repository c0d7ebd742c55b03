"""The rules of the permit office, one at a time: each refuses, or is recorded, for its own reason."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, update

from deployments.errors import ApprovalConflict, AuditInDoubt, Forbidden, GateUnavailable, InvalidRequest, NotFound
from deployments.gate import permit_rows
from deployments.gate.commands import run_of
from deployments.gate.database import commit, fetch
from deployments.gate.permit_moves import PermitMoves
from deployments.gate.permit_rows import PermitRow
from deployments.gate.permits import ISSUER, ONLINE, Claims, binding_of, verify
from deployments.gate.schema import permits
from deployments.gate.settings import GateSettings
from deployments.ports import ActionOutcome, IssuedPermit, PermitAsk, PermitState, Principal, Risk, RollbackPlan
from tests.unit.gate.permit_office import (
    AGENT,
    BOB,
    COMMAND,
    MATE,
    PLAN,
    POLICY,
    RUNNER,
    Office,
    arguments_of,
    ask_for,
    ended,
    step_of,
)

HOUR_MS = 3_600_000
NONCE = "n" * 43


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Office]:
    office = Office(tmp_path)
    await office.open()
    yield office
    await office.close()


async def row_of(at: Office, permit_id: str) -> PermitRow:
    (row,) = await fetch(at.stores[0].engine, select(permits).where(permits.c.permit_id == permit_id))
    return permit_rows.read(row)


async def put(at: Office, row: PermitRow) -> None:
    """Write a row as nobody of the office would."""
    change = update(permits).where(permits.c.permit_id == row.permit_id).values(**permit_rows.changing(row))
    assert await commit(at.stores[0].engine, change) == 1


async def take(at: Office, permit: IssuedPermit, who: Principal = AGENT, nonce: str | None = None) -> IssuedPermit:
    return await at.office.redeem(who, permit.permit_id, permit.ask.action_digest, RUNNER, nonce)


async def run_step(at: Office, ask: PermitAsk, outcome: ActionOutcome = ActionOutcome.SUCCEEDED) -> IssuedPermit:
    permit = await at.office.issue(AGENT, ask)
    await take(at, permit)
    return await at.office.report(AGENT, permit.permit_id, ended(outcome))


def bound(ask: PermitAsk) -> PermitAsk:
    return replace(ask, action_digest=binding_of(AGENT, ask).action_digest())


# --- what is written -------------------------------------------------------------------------------------------------


async def test_a_token_says_all_that_the_row_says(at: Office) -> None:
    permit = await at.claimed()
    said = verify(permit.token, await at.office.keys(), RUNNER, at.clock.now_ms() / 1000)
    begin = at.clock.now_ms() // 1000
    assert said == Claims(
        iss=ISSUER, aud=RUNNER, sub=AGENT.key_id, jti=permit.permit_id, iat=begin, nbf=begin, exp=begin + 900,
        act=permit.ask.action_digest, risk="R2", exec_profile=ONLINE, policy_digest=POLICY,
        gate_call_id=permit.ask.gate_call_id, approval_id=permit.ask.approval_id, change_id="CHG-1",
        rollback_digest=permit.ask.rollback_digest,
    )  # fmt: skip
    assert permit.ask.rollback_digest is not None


async def test_every_move_of_a_permit_leaves_the_record_and_the_row_of_it(at: Office) -> None:
    origin = await at.executed()
    at.clock.advance(1_234)
    ask = step_of(origin, 0)
    permit = await at.office.issue(AGENT, ask)
    fields = {
        "permit_id": permit.permit_id, "gate_call_id": ask.gate_call_id, "approval_id": ask.approval_id,
        "action_digest": ask.action_digest, "tool": "run", "risk": "R2", "audience": RUNNER, "change_id": "CHG-1",
        "exec_profile": ONLINE, "expires_ms": at.clock.now_ms() + 900_000, "policy_digest": POLICY,
        "rollback_digest": ask.rollback_digest, "rollback_of": origin.permit_id, "step": 0,
    }  # fmt: skip
    issued = at.audit.named("permit.issued")[-1]
    assert (issued.event_id, issued.data) == (f"{permit.permit_id}.permit.issued", fields)
    assert (issued.at_ms, issued.tenant, issued.principal, issued.session) == (at.clock.now_ms(), "acme", *_who(ask))
    row = await row_of(at, permit.permit_id)
    assert row == PermitRow(
        permit_id=permit.permit_id, state=PermitState.ISSUED, tenant=AGENT.tenant, key_id=AGENT.key_id, ask=ask,
        issued_ms=at.clock.now_ms(), expires_ms=at.clock.now_ms() + 900_000, redeemed_ms=None, exec_profile=ONLINE,
        plan=None, outcome=None, redeemer=None,
    )  # fmt: skip
    at.clock.advance(5)
    shown = await take(at, permit, nonce=NONCE)
    assert shown == replace(permit, state=PermitState.REDEEMED, token="")
    taken = await row_of(at, permit.permit_id)
    assert taken == replace(row, state=PermitState.REDEEMED, redeemed_ms=at.clock.now_ms(), redeemer=taken.redeemer)
    event = at.audit.named("permit.redeemed")[-1]
    assert (event.event_id, event.at_ms) == (f"{permit.permit_id}.permit.redeemed", at.clock.now_ms())
    assert (event.data, event.bodies) == ({**fields, "redeemer": taken.redeemer}, {})
    done = await at.office.report(AGENT, permit.permit_id, ended())
    assert done == replace(shown, state=PermitState.REPORTED)
    assert await row_of(at, permit.permit_id) == replace(taken, state=PermitState.REPORTED, outcome="succeeded")


def _who(ask: PermitAsk) -> tuple[str, str]:
    return AGENT.key_id, ask.session


async def test_an_approved_call_lies_ready_with_its_plan_and_is_claimed_as_it_was_approved(at: Office) -> None:
    left = await at.left()
    (row,) = [permit_rows.read(each) for each in await fetch(at.stores[0].engine, select(permits))]
    assert (row.state, row.plan, row.ask.audience, row.exec_profile) == (PermitState.ISSUED, PLAN, "", "")
    assert (row.issued_ms, row.expires_ms) == (at.clock.now_ms(), at.clock.now_ms() + 900_000)
    assert (row.ask.arguments, row.ask.change_id, row.redeemed_ms) == (left.arguments, "CHG-1", None)
    at.clock.advance(899_999)
    permit = await at.office.claim(AGENT, "run", arguments_of(COMMAND), RUNNER)
    assert permit.token
    claimed = replace(
        row, ask=replace(row.ask, audience=RUNNER), exec_profile=ONLINE, issued_ms=at.clock.now_ms(),
        expires_ms=at.clock.now_ms() + 900_000,
    )  # fmt: skip
    assert await row_of(at, permit.permit_id) == claimed, "the runner has the whole time, from now"
    await take(at, permit)
    assert await row_of(at, permit.permit_id) == replace(
        claimed, state=PermitState.REDEEMED, redeemed_ms=at.clock.now_ms()
    )


async def test_a_call_approved_without_a_plan_has_no_way_back(at: Office) -> None:
    permit = await at.office.issue(AGENT, ask_for("git commit -m x", Risk.R1))
    await take(at, permit)
    assert (await at.office.permit(AGENT, permit.permit_id)).plan is None
    step = ask_for("git reset --hard")
    with pytest.raises(ApprovalConflict, match="No plan was recorded"):
        await at.office.issue(AGENT, replace(step, rollback_of=permit.permit_id, step=0))


async def test_a_permit_has_an_id_of_128_bits_and_a_row_of_plain_text(at: Office) -> None:
    permit = await at.office.issue(AGENT, ask_for("echo \u00e9\U0001f600"))
    assert re.fullmatch(r"prm_[0-9a-f]{32}", permit.permit_id)
    (row,) = await fetch(at.stores[0].engine, select(permits))
    assert str(row.body).isascii()
    assert (await at.office.permit(AGENT, permit.permit_id)).ask == permit.ask


async def test_a_row_that_cannot_be_read_is_no_permit(at: Office) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    for values in ({"body": "{}"}, {"body": "x"}, {"state": "NEW"}):
        await commit(at.stores[0].engine, update(permits).values(**values))
        with pytest.raises(GateUnavailable):
            await at.office.permit(AGENT, permit.permit_id)


# --- who gets one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("audience", ["a", "a" * 128, "gatehouse-run@host 1"], ids=["one", "longest", "space"])
async def test_a_runner_has_a_name_of_up_to_128_plain_characters(at: Office, audience: str) -> None:
    assert (await at.office.issue(AGENT, ask_for(audience=audience))).ask.audience == audience


@pytest.mark.parametrize("audience", ["", "a" * 129, "a\nb", "a\u202eb"], ids=["none", "long", "line", "turned"])
async def test_nobody_else_claims(at: Office, audience: str) -> None:
    await at.left()
    with pytest.raises(InvalidRequest, match="128 plain characters"):
        await at.office.claim(AGENT, "run", arguments_of(COMMAND), audience)


async def test_arguments_without_a_canonical_form_are_claimed_by_nobody(at: Office) -> None:
    with pytest.raises(InvalidRequest):
        await at.office.claim(AGENT, "run", '{"command":"ls","command":"rm"}', RUNNER)


async def test_a_claim_finds_the_call_however_its_arguments_are_written(at: Office) -> None:
    await at.left()
    spelled = f'{{ "timeout_s" : 5, "command" : "{COMMAND}" }}'
    assert (await at.office.claim(AGENT, "Bash", spelled, RUNNER)).ask.arguments == arguments_of(COMMAND)


async def test_two_equal_calls_are_claimed_one_after_the_other_the_oldest_first(at: Office) -> None:
    first = await at.left()
    at.clock.advance(1_000)
    second = await at.left()
    claimed = [await at.office.claim(AGENT, "run", arguments_of(COMMAND), RUNNER) for _ in range(2)]
    assert [each.ask.gate_call_id for each in claimed] == [first.gate_call_id, second.gate_call_id]


async def test_many_claims_of_two_equal_calls_are_two(at: Office) -> None:
    for _ in range(2):
        await at.left()
    offices = [at.office, at.other()[1]]
    answers = await asyncio.gather(
        *(offices[n % 2].claim(AGENT, "run", arguments_of(COMMAND), f"runner-{n}") for n in range(12)),
        return_exceptions=True,
    )
    won = [each for each in answers if isinstance(each, IssuedPermit)]
    assert len({each.permit_id for each in won}) == len(won) == 2
    assert {type(each) for each in answers} == {IssuedPermit, NotFound}


async def test_a_permit_whose_record_is_in_doubt_is_not_there_and_its_call_gets_another(at: Office) -> None:
    ask = ask_for()
    at.audit.lose = True
    with pytest.raises(AuditInDoubt):
        await at.office.issue(AGENT, ask)
    at.audit.lose = False
    assert (await at.office.issue(AGENT, ask)).state is PermitState.ISSUED
    assert len({str(event.data["permit_id"]) for event in at.audit.named("permit.issued")}) == 2


async def test_a_claim_whose_record_is_in_doubt_can_be_made_again(at: Office) -> None:
    await at.left()
    at.audit.lose = True
    with pytest.raises(AuditInDoubt):
        await at.office.claim(AGENT, "run", arguments_of(COMMAND), RUNNER)
    at.audit.lose = False
    assert (await at.office.claim(AGENT, "run", arguments_of(COMMAND), RUNNER)).state is PermitState.ISSUED


# --- who may execute -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "kind", "says"),
    [
        (PermitState.REVOKED, "permit_invalid", "taken back"),
        (PermitState.EXPIRED, "permit_expired", "has expired"),
    ],
    ids=["taken-back", "given-away"],
)
async def test_a_permit_that_was_taken_back_or_whose_room_was_given_away_is_over(
    at: Office, state: PermitState, kind: str, says: str
) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    await put(at, replace(await row_of(at, permit.permit_id), state=state))
    with pytest.raises(ApprovalConflict, match=says):
        await take(at, permit)
    assert at.bypasses() == [kind]
    assert (await at.office.permit(AGENT, permit.permit_id)).state is state


async def test_a_call_that_nobody_claimed_is_redeemed_by_nobody(at: Office) -> None:
    await at.left()
    (row,) = await fetch(at.stores[0].engine, select(permits))
    with pytest.raises(ApprovalConflict):
        await at.office.redeem(AGENT, str(row.permit_id), str(row.action_digest), "")
    assert at.bypasses() == ["permit_mismatch"]


async def test_a_permit_is_good_until_the_moment_it_ends(at: Office) -> None:
    early, late = [await at.office.issue(AGENT, ask_for(command)) for command in ("ls", "pwd")]
    at.clock.advance(299_999)
    assert (await at.office.permit(AGENT, early.permit_id)).state is PermitState.ISSUED
    await take(at, early, nonce=NONCE)
    at.clock.advance(1)
    assert (await at.office.permit(AGENT, late.permit_id)).state is PermitState.EXPIRED
    assert (await at.office.permit(AGENT, early.permit_id)).state is PermitState.REDEEMED
    for permit in (early, late):
        with pytest.raises(ApprovalConflict, match="expired"):
            await take(at, permit, nonce=NONCE)


async def test_each_permit_key_kind_and_hour_has_one_record_of_attempts(at: Office) -> None:
    at.settings = GateSettings(freeze_on=())
    at.desk, at.office = at.other()
    first, second = [await at.office.issue(AGENT, ask_for(command)) for command in ("ls", "pwd")]

    async def attempt(permit_id: str, who: Principal = AGENT) -> None:
        with pytest.raises((ApprovalConflict, NotFound)):
            await at.office.redeem(who, permit_id, "0" * 64, RUNNER)

    for permit_id in (first.permit_id, first.permit_id, second.permit_id, "prm_guessed", "prm_guessed_too"):
        await attempt(permit_id)
    await attempt(first.permit_id, MATE)
    hour = at.clock.now_ms() // HOUR_MS
    key, mate = AGENT.key_id, MATE.key_id
    expected = [
        f"{first.permit_id}.bypass.permit_mismatch.{key}.{hour}",
        f"{second.permit_id}.bypass.permit_mismatch.{key}.{hour}",
        f"none.bypass.permit_unknown.{key}.{hour}",
        f"{first.permit_id}.bypass.permit_invalid.{mate}.{hour}",
    ]
    assert [event.event_id for event in at.audit.named("bypass.attempted")] == expected
    at.clock.advance(HOUR_MS)
    await attempt("prm_guessed")
    assert at.audit.named("bypass.attempted")[-1].event_id == f"none.bypass.permit_unknown.{key}.{hour + 1}"


async def test_what_a_frozen_key_tries_is_recorded_with_the_call(at: Office) -> None:
    await at.left()
    await at.desk.freeze(BOB, AGENT.key_id, "suspicious")
    ask = ask_for()
    for attempt in (
        at.office.issue(AGENT, ask), at.office.claim(AGENT, "run\u202e" + "x" * 4096, arguments_of(COMMAND), RUNNER)
    ):  # fmt: skip
        with pytest.raises(Forbidden, match="^principal_frozen"):
            await attempt
    issued, *claimed = at.audit.named("bypass.attempted")
    assert (issued.data["gate_call_id"], issued.data["risk"]) == (ask.gate_call_id, "R0")
    assert all(len(str(event.data["tool"])) <= 4096 and "\u202e" not in str(event.data) for event in claimed)


async def test_a_permit_that_keeps_changing_is_given_to_nobody(at: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    looks: list[str] = []

    async def slower(moves: PermitMoves, principal: Principal, row: PermitRow, *_: object) -> bool:
        del moves, principal
        looks.append(row.permit_id)
        return False

    monkeypatch.setattr(PermitMoves, "take", slower)
    with pytest.raises(ApprovalConflict, match="has just changed"):
        await take(at, permit)
    assert (looks, at.bypasses()) == ([permit.permit_id] * 3, ["permit_invalid"])


# --- the way back ----------------------------------------------------------------------------------------------------


async def own_approval(at: Office, origin: IssuedPermit, step: int) -> PermitAsk:
    """A step of a plan that was put before the approvers by itself, and has left."""
    ask = step_of(origin, step)
    run = run_of(ask.tool, ask.arguments)
    assert run is not None
    left = await at.left(str(run.command), tool=ask.tool)
    found = await at.desk.list_approvals(None, None)
    (approval_id,) = [each.approval_id for each in found if each.proposal.arguments == left.arguments]
    return replace(ask, gate_call_id=left.gate_call_id, action_digest=left.action_digest, approval_id=approval_id)


async def test_a_step_that_the_gate_releases_by_itself_needs_no_approval(at: Office) -> None:
    origin = await at.executed()
    await run_step(at, step_of(origin, 0))
    ask = replace(step_of(origin, 1, Risk.R0), approval_id=None, change_id=None, rollback_digest=None)
    permit = await run_step(at, ask)
    assert (permit.rollback_of, permit.ask.approval_id, permit.ask.step) == (origin.permit_id, None, 1)
    assert (await at.office.permit(AGENT, origin.permit_id)).taken_back == (0, 1)


async def test_a_step_under_an_approval_of_its_own_goes_under_that_one(at: Office) -> None:
    origin = await at.executed()
    permit = await at.office.issue(AGENT, await own_approval(at, origin, 0))
    assert permit.ask.approval_id not in (None, origin.ask.approval_id)
    assert (permit.rollback_of, permit.plan) == (origin.permit_id, PLAN)
    assert len(at.audit.named("permit.consumed")) == 2
    await take(at, permit)
    await at.office.report(AGENT, permit.permit_id, ended())
    assert (await at.office.permit(AGENT, origin.permit_id)).taken_back == (0,)
    # It has a plan of its own, and yet a way back has no way back.
    back = replace(step_of(permit, 0), rollback_of=permit.permit_id)
    with pytest.raises(ApprovalConflict, match="Only a call that was executed"):
        await at.office.issue(AGENT, back)


async def test_steps_count_once_they_succeeded_and_in_their_order(at: Office) -> None:
    origin = await at.executed()
    await run_step(at, step_of(origin, 0), ActionOutcome.FAILED)
    assert (await at.office.permit(AGENT, origin.permit_id)).taken_back == ()
    with pytest.raises(ApprovalConflict, match="in order"):
        await at.office.issue(AGENT, step_of(origin, 1, Risk.R0))
    await run_step(at, step_of(origin, 0))
    with pytest.raises(ApprovalConflict, match="in order"):
        await at.office.issue(AGENT, step_of(origin, 0))
    with pytest.raises(ApprovalConflict, match="in order"):
        await at.office.issue(AGENT, step_of(origin, 2, Risk.R0))
    await run_step(at, step_of(origin, 1, Risk.R0))
    await run_step(at, step_of(origin, 2, Risk.R0))
    for step, says in ((3, "no such step"), (-1, "no such step")):
        with pytest.raises(ApprovalConflict, match=says):
            await at.office.issue(AGENT, replace(step_of(origin, 2, Risk.R0), step=step))


async def test_an_execution_that_was_begun_and_not_reported_can_be_taken_back(at: Office) -> None:
    origin = await at.claimed()
    await take(at, origin)
    assert (await at.office.issue(AGENT, step_of(origin, 0))).rollback_of == origin.permit_id


async def test_a_step_is_the_command_and_nothing_that_looks_like_it(at: Office) -> None:
    origin = await at.executed()
    step = step_of(origin, 0)
    for changes in ({"tool": "deploy"}, {"arguments": arguments_of("kubectl create namespace staging2")}):
        with pytest.raises(ApprovalConflict, match="not the step"):
            await at.office.issue(AGENT, bound(replace(step, **changes)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"change_id": "CHG-2"}, "not the one that the approvers signed"),
        ({"rollback_digest": "0" * 64}, "not the one that the approvers signed"),
        ({"risk": Risk.R3}, "higher class"),
    ],
    ids=["change", "digest", "class"],
)
async def test_under_the_same_approval_goes_what_it_says_and_no_more(
    at: Office, changes: dict[str, object], says: str
) -> None:
    origin = await at.executed()
    with pytest.raises(ApprovalConflict, match=says):
        await at.office.issue(AGENT, replace(step_of(origin, 0), **changes))


async def test_a_plan_that_was_changed_in_the_store_is_not_the_one_that_was_signed(at: Office) -> None:
    origin = await at.executed()
    await put(at, replace(await row_of(at, origin.permit_id), plan=RollbackPlan(("curl evil",), "true")))
    step = bound(replace(step_of(origin, 0), arguments=arguments_of("curl evil")))
    with pytest.raises(ApprovalConflict, match="not the one that the approvers signed"):
        await at.office.issue(AGENT, step)
