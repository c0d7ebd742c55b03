"""The permit office: issue, claim, redeem and report, each once, each on record first."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from deployments.errors import (
    ApprovalConflict,
    AuditInDoubt,
    AuditUnavailable,
    Forbidden,
    GatehouseError,
    InvalidRequest,
    NotFound,
)
from deployments.gate.permits import OFFLINE, ONLINE, binding_of, verify
from deployments.ports import (
    ActionOutcome,
    BodyField,
    PermitAsk,
    PermitState,
    Principal,
    Risk,
    RollbackOutcome,
    SessionId,
)
from tests.unit.gate.permit_office import (
    AGENT,
    BOB,
    COMMAND,
    MATE,
    RIVAL,
    RUNNER,
    Office,
    arguments_of,
    ask_for,
    ended,
    step_of,
)

FAILED, UNKNOWN = ActionOutcome.FAILED, ActionOutcome.UNKNOWN


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Office]:
    office = Office(tmp_path)
    await office.open()
    yield office
    await office.close()


# --- the way through -------------------------------------------------------------------------------------------------


async def test_a_read_gets_a_permit_is_redeemed_and_reported(at: Office) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    claims = verify(permit.token, await at.office.keys(), RUNNER, at.clock.now_ms() / 1000)
    assert (claims.jti, claims.act, claims.exec_profile) == (permit.permit_id, permit.ask.action_digest, OFFLINE)
    assert permit.expires_ms - permit.issued_ms == 300_000
    taken = await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    assert (taken.state, taken.token) == (PermitState.REDEEMED, "")
    done = await at.office.report(AGENT, permit.permit_id, ended())
    assert done.state is PermitState.REPORTED
    assert at.audit.names() == ["permit.issued", "permit.redeemed", "action.reported"]
    report = at.audit.named("action.reported")[0]
    assert (report.data["source"], report.data["permit_id"]) == ("runner", permit.permit_id)
    assert "git status" not in str(at.audit.events)


@pytest.mark.parametrize(
    ("risk", "lives_ms"), [(Risk.R0, 300_000), (Risk.R1, 300_000), (Risk.R2, 900_000), (Risk.R3, 300_000)]
)
async def test_a_permit_lives_as_long_as_its_class_says(at: Office, risk: Risk, lives_ms: int) -> None:
    permit = await at.claimed(risk=risk) if risk is not Risk.R0 else await at.office.issue(AGENT, ask_for())
    claims = verify(permit.token, await at.office.keys(), RUNNER, at.clock.now_ms() / 1000)
    assert (permit.expires_ms - permit.issued_ms, (claims.exp - claims.iat) * 1000) == (lives_ms, lives_ms)


async def test_an_approved_call_that_left_in_a_stream_is_claimed_once_whatever_its_tool_is_called(at: Office) -> None:
    left = await at.left(tool="Bash")
    permit = await at.office.claim(AGENT, "mcp__gatehouse__run", arguments_of(COMMAND), RUNNER)
    assert (permit.ask.gate_call_id, permit.ask.action_digest) == (left.gate_call_id, left.action_digest)
    assert (permit.ask.tool, permit.ask.change_id, permit.exec_profile) == ("Bash", "CHG-1", ONLINE)
    with pytest.raises(NotFound):
        await at.office.claim(AGENT, "Bash", arguments_of(COMMAND), RUNNER)
    await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    await at.office.report(AGENT, permit.permit_id, ended())
    assert permit.ask.approval_id is not None
    conclusion = await at.desk.report(AGENT, permit.ask.approval_id, ActionOutcome.SUCCEEDED, 0, "")
    assert conclusion.reported is ActionOutcome.SUCCEEDED
    assert len(at.audit.named("action.reported")) == 1
    at.clock.advance(2_000_000)
    await at.desk.sweep()
    await at.office.sweep()
    assert at.audit.named("incident.opened") == []


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("run", arguments_of("kubectl delete namespace prod")),
        ("run", '{"command":"kubectl delete namespace staging","cwd":"sub"}'),
        ("deploy", arguments_of(COMMAND)),
        ("run", '{"command":"kubectl delete namespace staging","sudo":true}'),
    ],
)
async def test_another_call_is_not_claimed(at: Office, tool: str, arguments: str) -> None:
    await at.left()
    with pytest.raises(NotFound):
        await at.office.claim(AGENT, tool, arguments, RUNNER)


async def test_a_call_of_a_tool_that_runs_no_commands_is_claimed_by_that_tool_alone(at: Office) -> None:
    await at.left(tool="deploy")
    with pytest.raises(NotFound):
        await at.office.claim(AGENT, "run", arguments_of(COMMAND), RUNNER)
    assert (await at.office.claim(AGENT, "deploy", arguments_of(COMMAND), RUNNER)).ask.tool == "deploy"


@pytest.mark.parametrize("stranger", [MATE, RIVAL])
async def test_nobody_claims_a_call_of_another_key(at: Office, stranger: Principal) -> None:
    await at.left()
    with pytest.raises(NotFound):
        await at.office.claim(stranger, "run", arguments_of(COMMAND), RUNNER)


async def test_a_call_is_not_claimed_too_late_nor_after_its_client_has_run_it(at: Office) -> None:
    await at.left()
    at.clock.advance(900_000)
    with pytest.raises(NotFound):
        await at.office.claim(AGENT, "run", arguments_of(COMMAND), RUNNER)
    at.clock.advance(-900_000)
    (approval,) = await at.desk.list_approvals(None, None)
    await at.desk.report(AGENT, approval.approval_id, ActionOutcome.SUCCEEDED, 0, "")
    with pytest.raises(NotFound):
        await at.office.claim(AGENT, "run", arguments_of(COMMAND), RUNNER)


async def test_a_call_released_to_the_runner_itself_has_one_permit(at: Office) -> None:
    left = await at.left(tool="run")
    (approval,) = await at.desk.list_approvals(None, None)
    ask = replace(
        ask_for(COMMAND, Risk.R2), gate_call_id=left.gate_call_id, action_digest=left.action_digest,
        approval_id=approval.approval_id, change_id="CHG-9", rollback_digest="9" * 64, session=SessionId("s1"),
    )  # fmt: skip
    permit = await at.office.issue(AGENT, ask)
    assert (permit.ask.change_id, permit.plan) == ("CHG-1", approval.plan)
    with pytest.raises(NotFound):
        await at.office.claim(AGENT, "run", arguments_of(COMMAND), RUNNER)
    with pytest.raises(ApprovalConflict):
        await at.office.issue(AGENT, ask)
    assert len(at.audit.named("permit.issued")) == 1


async def test_a_released_call_gets_no_second_permit(at: Office) -> None:
    ask = ask_for()
    await at.office.issue(AGENT, ask)
    with pytest.raises(ApprovalConflict):
        await at.office.issue(AGENT, ask)


@pytest.mark.parametrize(
    "changes",
    [
        {"arguments": arguments_of("git push")},
        {"tool": "shell"},
        {"session": "s2"},
        {"policy_digest": "b" * 64},
        {"gate_call_id": "0" * 32},
        {"action_digest": "0" * 64},
        {"approval_id": "apr_unknown"},
    ],
)
async def test_the_office_signs_only_the_call_whose_digest_it_was_given(at: Office, changes: dict[str, str]) -> None:
    with pytest.raises(ApprovalConflict):
        await at.office.issue(AGENT, replace(ask_for(), **changes))  # type: ignore[arg-type]
    assert at.audit.events == []


async def test_there_is_no_permit_for_what_is_forbidden_or_for_a_runner_without_a_name(at: Office) -> None:
    with pytest.raises(Forbidden):
        await at.office.issue(AGENT, replace(ask_for(), risk=Risk.FORBIDDEN))
    for audience in ("", "a" * 129, "a\nb", "a\u202eb"):
        with pytest.raises(InvalidRequest):
            await at.office.issue(AGENT, replace(ask_for(), audience=audience))


# --- what is refused is recorded -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "digest", "audience", "late_ms", "kind", "error"),
    [
        (MATE, None, RUNNER, 0, "permit_invalid", ApprovalConflict),
        (RIVAL, None, RUNNER, 0, "permit_unknown", NotFound),
        (AGENT, "0" * 64, RUNNER, 0, "permit_mismatch", ApprovalConflict),
        (AGENT, None, "another", 0, "permit_mismatch", ApprovalConflict),
        (AGENT, None, "", 0, "permit_mismatch", ApprovalConflict),
        (AGENT, None, RUNNER, 300_000, "permit_expired", ApprovalConflict),
    ],
)
async def test_a_permit_that_does_not_fit_is_a_bypass_attempt(
    at: Office, who: Principal, digest: str | None, audience: str, late_ms: int, kind: str, error: type[GatehouseError]
) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    at.clock.advance(late_ms)
    with pytest.raises(error):
        await at.office.redeem(who, permit.permit_id, digest or permit.ask.action_digest, audience)
    assert at.bypasses() == [kind]
    assert at.audit.named("permit.redeemed") == []
    assert at.audit.named("bypass.attempted")[0].principal == who.key_id


async def test_an_unknown_permit_is_a_bypass_attempt(at: Office) -> None:
    with pytest.raises(NotFound):
        await at.office.redeem(AGENT, "prm_guessed", "0" * 64, RUNNER)
    assert at.bypasses() == ["permit_unknown"]


async def test_a_permit_is_good_once_and_a_second_use_freezes_its_key(at: Office) -> None:
    permit = await at.claimed()
    await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    for _ in range(2):
        with pytest.raises(GatehouseError):
            await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    assert at.bypasses()[0] == "permit_replayed"
    assert await at.desk.freezer.is_frozen(AGENT.key_id)
    # What it began may still be reported: the evidence is wanted.
    assert (await at.office.report(AGENT, permit.permit_id, ended())).state is PermitState.REPORTED


async def test_a_frozen_key_gets_redeems_and_claims_nothing(at: Office) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    await at.left()
    await at.desk.freeze(BOB, AGENT.key_id, "suspicious")
    with pytest.raises(Forbidden, match="^principal_frozen"):
        await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    with pytest.raises(Forbidden, match="^principal_frozen"):
        await at.office.claim(AGENT, "run", arguments_of(COMMAND), RUNNER)
    with pytest.raises(Forbidden, match="^principal_frozen"):
        await at.office.issue(AGENT, ask_for("ls"))
    assert set(at.bypasses()) == {"frozen_principal"}
    assert [event.data["gate_call_id"] for event in at.audit.named("permit.issued")] == [permit.ask.gate_call_id]


async def test_permits_of_another_tenant_do_not_exist(at: Office) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    for answer in (at.office.permit(RIVAL, permit.permit_id), at.office.report(RIVAL, permit.permit_id, ended())):
        with pytest.raises(NotFound):
            await answer
    with pytest.raises(Forbidden):
        await at.office.report(MATE, permit.permit_id, ended())
    assert (await at.office.permit(MATE, permit.permit_id)).token == ""


# --- no record, no permit --------------------------------------------------------------------------------------------


async def test_without_the_log_nothing_is_issued_claimed_or_redeemed_and_nothing_is_lost(at: Office) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    await at.left()
    at.audit.down = True
    with pytest.raises(AuditUnavailable):
        await at.office.issue(AGENT, ask_for("ls"))
    with pytest.raises(AuditUnavailable):
        await at.office.claim(AGENT, "run", arguments_of(COMMAND), RUNNER)
    with pytest.raises(AuditUnavailable):
        await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    at.audit.down = False
    assert (await at.office.claim(AGENT, "run", arguments_of(COMMAND), RUNNER)).state is PermitState.ISSUED
    taken = await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    assert taken.state is PermitState.REDEEMED
    assert at.bypasses() == []


async def test_a_permit_that_may_be_on_record_as_redeemed_stays_redeemed(at: Office) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    at.audit.lose = True
    with pytest.raises(AuditInDoubt):
        await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    at.audit.lose = False
    with pytest.raises(ApprovalConflict):
        await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)


# --- reports ---------------------------------------------------------------------------------------------------------


async def test_the_first_word_counts_and_may_be_said_again(at: Office) -> None:
    permit = await at.claimed()
    with pytest.raises(ApprovalConflict):
        await at.office.report(AGENT, permit.permit_id, ended())
    await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    for _ in range(2):
        assert (await at.office.report(AGENT, permit.permit_id, ended(FAILED))).state is PermitState.REPORTED
    with pytest.raises(ApprovalConflict):
        await at.office.report(AGENT, permit.permit_id, ended())
    assert [event.data["outcome"] for event in at.audit.named("action.reported")] == ["failed"]


async def test_a_report_that_somebody_made_before_is_not_made_twice(at: Office) -> None:
    permit = await at.claimed()
    assert permit.ask.approval_id is not None
    await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    await at.desk.report(BOB, permit.ask.approval_id, ActionOutcome.SUCCEEDED, 0, "saw it")
    assert (await at.office.report(AGENT, permit.permit_id, ended())).state is PermitState.REPORTED
    assert len(at.audit.named("action.reported")) == 1


async def test_a_report_waits_for_a_log_that_is_down_and_is_delivered_once(at: Office) -> None:
    permit = await at.claimed()
    await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    at.audit.down = True
    with pytest.raises(AuditUnavailable):
        await at.office.report(AGENT, permit.permit_id, ended())
    at.audit.down = False
    await at.office.report(AGENT, permit.permit_id, ended())
    await at.desk.sweep()
    assert len(at.audit.named("action.reported")) == 1


@pytest.mark.parametrize(("risk", "incidents"), [(Risk.R0, 0), (Risk.R1, 1)])
async def test_a_change_that_nobody_reports_opens_one_incident(at: Office, risk: Risk, incidents: int) -> None:
    permit = await at.office.issue(AGENT, ask_for("git commit -m x", risk))
    await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    for _ in range(3):
        at.clock.advance(450_000)
        await at.office.sweep()
    found = at.audit.named("incident.opened")
    assert [event.data["kind"] for event in found] == ["action_unreported"] * incidents


async def test_an_approved_call_that_nobody_reports_opens_one_incident(at: Office) -> None:
    permit = await at.claimed()
    await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    for _ in range(3):
        at.clock.advance(900_000)
        await at.office.sweep()
        await at.desk.sweep()
    assert len(at.audit.named("incident.opened")) == 1


# --- the way back ----------------------------------------------------------------------------------------------------


async def test_the_steps_of_a_signed_plan_go_under_its_approval_in_order(at: Office) -> None:
    origin = await at.executed()
    for step in range(3):
        permit = await at.office.issue(AGENT, step_of(origin, step, Risk.R2 if step == 0 else Risk.R0))
        assert permit.rollback_of == origin.permit_id
        await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
        await at.office.report(AGENT, permit.permit_id, ended())
    done = await at.office.permit(AGENT, origin.permit_id)
    assert done.taken_back == (0, 1, 2)
    await at.office.report(AGENT, permit.permit_id, ended(rollback=RollbackOutcome.SUCCEEDED))
    (event,) = at.audit.named("rollback.reported")
    assert (event.data["outcome"], event.data["source"]) == ("succeeded", "runner")
    assert len(at.audit.named("action.reported")) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 1},  # before the first
        {"step": 5},
        {"step": -1},
        {"step": None},
        {"arguments": arguments_of("kubectl create namespace other")},
        {"risk": Risk.R3},
        {"rollback_digest": "0" * 64},
        {"change_id": "CHG-2"},
        {"rollback_of": "prm_unknown"},
        {"approval_id": "apr_other", "change_id": None},
    ],
)
async def test_only_the_steps_that_were_signed_go_under_the_approval(at: Office, changes: dict[str, object]) -> None:
    origin = await at.executed()
    ask = replace(step_of(origin, 0), **changes)  # type: ignore[arg-type]
    before = len(at.audit.events)
    with pytest.raises((ApprovalConflict, NotFound)):
        await at.office.issue(AGENT, _rebound(ask))
    assert len(at.audit.events) == before


@pytest.mark.parametrize("step", [1, 2])
async def test_no_step_goes_before_the_one_in_front_of_it(at: Office, step: int) -> None:
    origin = await at.executed()
    with pytest.raises(ApprovalConflict, match="in order"):
        await at.office.issue(AGENT, step_of(origin, step, Risk.R0))


async def test_what_was_not_executed_is_not_taken_back(at: Office) -> None:
    origin = await at.claimed()
    with pytest.raises(ApprovalConflict):
        await at.office.issue(AGENT, step_of(origin, 0))


async def test_a_step_runs_once_at_a_time_and_a_failed_one_again(at: Office) -> None:
    origin = await at.executed()
    first = await at.office.issue(AGENT, step_of(origin, 0))
    with pytest.raises(ApprovalConflict):
        await at.office.issue(AGENT, step_of(origin, 0))
    await at.office.redeem(AGENT, first.permit_id, first.ask.action_digest, RUNNER)
    await at.office.report(AGENT, first.permit_id, ended(FAILED, RollbackOutcome.FAILED))
    again = await at.office.issue(AGENT, step_of(origin, 0))
    await at.office.redeem(AGENT, again.permit_id, again.ask.action_digest, RUNNER)
    await at.office.report(AGENT, again.permit_id, ended())
    with pytest.raises(ApprovalConflict):
        await at.office.issue(AGENT, step_of(origin, 0))
    with pytest.raises(ApprovalConflict):  # two steps are left
        await at.office.report(AGENT, again.permit_id, ended(rollback=RollbackOutcome.SUCCEEDED))
    assert [event.data["outcome"] for event in at.audit.named("rollback.reported")] == ["failed"]


async def test_a_step_that_nobody_took_in_time_makes_room(at: Office) -> None:
    origin = await at.executed()
    await at.office.issue(AGENT, step_of(origin, 0))
    at.clock.advance(900_000)
    assert (await at.office.issue(AGENT, step_of(origin, 0))).state is PermitState.ISSUED


async def test_a_call_without_an_approval_has_no_way_back_to_report_on(at: Office) -> None:
    permit = await at.office.issue(AGENT, ask_for())
    await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    with pytest.raises(ApprovalConflict):
        await at.office.report(AGENT, permit.permit_id, ended(rollback=RollbackOutcome.NOT_NEEDED))


@pytest.mark.parametrize("tenant", ["acme", "rival", None])
async def test_words_of_steps_and_reports_are_kept_for_the_tenants_whose_words_are(
    at: Office, tenant: str | None
) -> None:
    """Each once: the arguments of a step with its permit, those of other calls with their proposal."""
    at.keeps = lambda asked: asked == tenant
    at.desk, at.office = at.other()
    origin = await at.executed()
    permit = await at.office.issue(AGENT, step_of(origin, 0))
    await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    await at.office.report(AGENT, permit.permit_id, ended(FAILED, RollbackOutcome.FAILED, note="no luck"))
    found = [
        (event.name, field.value, body.data, body.digest)
        for event in at.audit.events
        for field, body in event.bodies.items()
        if event.data.get("permit_id") is not None and field is not BodyField.OUTPUT
    ]
    kept = tenant == "acme"
    step, note = permit.ask.arguments.encode(), b"no luck"
    assert found == [
        ("permit.issued", "arguments", step if kept else None, sha256(step).digest()),
        ("action.reported", "reason", note if kept else None, sha256(note).digest()),
        ("rollback.reported", "reason", note if kept else None, sha256(note).digest()),
    ]
    outputs = [event.bodies[BodyField.OUTPUT] for event in at.audit.named("action.reported")]
    assert [each.data for each in outputs] == [None, None], "a runner hands on a digest, never what was printed"


def _rebound(ask: PermitAsk) -> PermitAsk:
    """With the digest of what it now says, so that nothing but the rule under test refuses it."""
    return replace(ask, action_digest=binding_of(AGENT, ask).action_digest())


# --- keys ------------------------------------------------------------------------------------------------------------


async def test_two_replicas_share_keys_and_permits(at: Office) -> None:
    _desk, other = at.other()
    await other.open()
    permit = await at.office.issue(AGENT, ask_for())
    assert await other.keys() == await at.office.keys()
    await other.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)
    with pytest.raises(ApprovalConflict):
        await at.office.redeem(AGENT, permit.permit_id, permit.ask.action_digest, RUNNER)


async def test_of_many_claims_at_once_one_wins(at: Office) -> None:
    await at.left()
    answers = await asyncio.gather(
        *(at.office.claim(AGENT, "run", arguments_of(COMMAND), f"runner-{n}") for n in range(32)),
        return_exceptions=True,
    )
    assert sum(not isinstance(each, BaseException) for each in answers) == 1
    assert len(at.audit.named("permit.issued")) == 1
