"""Reports, alerts, bypass attempts and announcements, over a real SQLite file and the real record schema."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from deployments.clock import FixedClock
from deployments.errors import (
    ApprovalConflict,
    AuditInDoubt,
    AuditRefused,
    AuditUnavailable,
    Forbidden,
    NotFound,
    WitnessStale,
)
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.settings import GateSettings, Running
from deployments.gate.store import ApprovalStore
from deployments.ports import (
    SYSTEM_TENANT,
    ActionOutcome,
    Approval,
    ApprovalState,
    AuditEvent,
    BodyField,
    CallResult,
    Digests,
    GateContext,
    KeyId,
    ModelId,
    Permit,
    Principal,
    Receipt,
    Refusal,
    RequestId,
    Risk,
    RollbackOutcome,
    RouteId,
    Scope,
    SessionId,
    TenantId,
)
from deployments.store import open_store, sqlite_url
from tests.fakes_audit import InMemoryAudit
from tests.unit.gate.test_approvals import AGENT, BOB, PLAN, POLICY, Keyring, person, proposal, seen

HELD_ID, CALL_ID = "call_heldheld1", "call_freefree2"
SUCCEEDED, FAILED, UNKNOWN = ActionOutcome.SUCCEEDED, ActionOutcome.FAILED, ActionOutcome.UNKNOWN
RUNNING = Running("c" * 64, "dev", ("demo-20b",), "1.2.3", "CHG-9")


class FailingAudit(InMemoryAudit):
    """Fails in the ways a log can, by name of the event: certain (`refuse`), or with the answer lost (`lose`)."""

    def __init__(self) -> None:
        super().__init__()
        self.refuse: dict[str, AuditUnavailable] = {}
        self.lose = False

    async def append(self, events: Sequence[AuditEvent]) -> Sequence[Receipt]:
        for event in events:
            if event.name in self.refuse:
                raise self.refuse[event.name]
        receipts = await super().append(events)
        if self.lose:
            raise AuditInDoubt("no answer")
        return receipts


class Desk:
    """Desks over one SQLite file and one log: `desk`, and `other` for a second replica or the same after a restart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FixedClock()
        self.audit = FailingAudit()
        self.settings = GateSettings(report_timeout_s=900)
        self.stores: list[ApprovalStore] = []
        self.ledger = Keyring()
        self.desk = self.other()

    def other(self, policy: str = POLICY, keeps: bool = False) -> ApprovalDesk:
        store = ApprovalStore(open_store(sqlite_url(self.path)))
        self.stores.append(store)
        return ApprovalDesk(
            store, self.audit, self.clock, self.settings, policy, lambda _tenant: keeps, holders=self.ledger.holders
        )

    async def approved(self, risk: Risk = Risk.R2) -> Approval:
        found = await self.desk.propose(replace(proposal(risk=risk), call_id=HELD_ID))
        assert isinstance(found, Approval)
        found = await self.desk.plan(AGENT, found.approval_id, "CHG-1", PLAN)
        return await self.desk.vote(BOB, found.approval_id, seen(found), True, "looks right")

    async def consumed(self) -> Approval:
        approval = await self.approved()
        assert isinstance(await self.desk.propose(replace(proposal(2), call_id=CALL_ID)), Permit)
        return await self.desk.get(None, approval.approval_id)


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path / "gate.db")
    await desk.stores[0].open()
    yield desk
    for store in desk.stores:
        await store.close()


def context(session: str = "s1", principal: Principal = AGENT) -> GateContext:
    return GateContext(
        RequestId("req_next"), principal, SessionId(session), ModelId("demo-20b"), RouteId("rt_2"), frozenset()
    )


def result(call_id: str = CALL_ID, outcome: ActionOutcome = SUCCEEDED, refused: Refusal | None = None) -> CallResult:
    return CallResult(call_id, sha256(b"output").digest(), outcome, 0 if outcome is SUCCEEDED else None, refused)


# --- reports from the conversation -----------------------------------------------------------------------------------


async def test_the_result_of_a_permitted_call_is_its_report(at: Desk) -> None:
    approval = await at.consumed()
    await at.desk.observe(context(), [result()])
    (event,) = at.audit.named("action.reported")
    assert event.data == {
        "gate_call_id": proposal(2).gate_call_id,
        "approval_id": approval.approval_id,
        "action_digest": approval.proposal.action_digest,
        "risk": "R2",
        "tool": "shell",
        "change_id": "CHG-1",
        "policy_digest": POLICY,
        "call_id": CALL_ID,
        "outcome": "succeeded",
        "source": "conversation",
        "exit_code": 0,
    }
    assert event.bodies[BodyField.OUTPUT].digest == sha256(b"output").digest()
    assert event.bodies[BodyField.OUTPUT].data is None
    assert (event.tenant, event.session, event.principal) == ("acme", "s1", "key_agent")


async def test_a_result_that_comes_again_is_not_reported_again(at: Desk) -> None:
    await at.consumed()
    other = at.other()
    await at.desk.observe(context(), [result()])
    await at.desk.observe(context(), [result(outcome=FAILED)])
    await other.observe(context(), [result()])
    assert len(at.audit.named("action.reported")) == 1


async def test_two_replicas_that_see_a_result_at_once_report_it_once(at: Desk) -> None:
    await at.consumed()
    desks = [at.desk, at.other()]
    await asyncio.gather(*(desks[number % 2].observe(context(), [result()]) for number in range(40)))
    assert len(at.audit.named("action.reported")) == 1


@pytest.mark.parametrize(
    "who",
    [
        context("s2"),
        context(principal=replace(AGENT, key_id=KeyId("key_other"))),
        context(principal=replace(AGENT, tenant=TenantId("other"))),
    ],
)
async def test_nobody_reports_calls_of_another_session_key_or_tenant(at: Desk, who: GateContext) -> None:
    await at.consumed()
    await at.desk.observe(who, [result(), result(HELD_ID)])
    assert at.audit.named("action.reported") == at.audit.named("bypass.attempted") == []


async def test_results_of_calls_that_nobody_knows_are_nothing(at: Desk) -> None:
    await at.consumed()
    size = len(at.audit.events)
    await at.desk.observe(context(), [result("call_somethingelse"), result("")])
    assert len(at.audit.events) == size


async def test_a_report_that_the_log_did_not_take_is_sent_later_and_once(at: Desk) -> None:
    await at.consumed()
    at.audit.down = True
    with pytest.raises(AuditUnavailable):
        await at.desk.observe(context(), [result()])
    at.audit.down = False
    restarted = at.other()
    await restarted.open("default", Running())
    await restarted.sweep()
    await at.desk.sweep()
    assert len(at.audit.named("action.reported")) == 1


async def test_a_report_whose_acknowledgement_was_lost_is_in_the_log_once(at: Desk) -> None:
    await at.consumed()
    at.audit.lose = True
    with pytest.raises(AuditInDoubt):
        await at.desk.observe(context(), [result()])
    at.audit.lose = False
    at.clock.advance(5_000)
    await at.desk.sweep()
    await at.desk.sweep()
    assert len(at.audit.named("action.reported")) == 1


async def test_a_record_that_the_log_refuses_for_good_is_not_offered_for_ever(at: Desk) -> None:
    await at.consumed()
    at.audit.refuse = {"action.reported": AuditRefused("no")}
    with pytest.raises(AuditRefused):
        await at.desk.observe(context(), [result(), result(HELD_ID)])
    assert len(at.audit.named("bypass.attempted")) == 1, "what came with it is not lost"
    at.audit.refuse = {}
    await at.desk.sweep()
    assert at.audit.named("action.reported") == []


# --- reports by the API ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [AGENT, BOB, person("root", Scope.ADMIN, tenant="operators")])
async def test_requester_approver_and_administrator_may_report(at: Desk, who: Principal) -> None:
    approval = await at.consumed()
    found = await at.desk.report(who, approval.approval_id, FAILED, 2, "it did not work")
    assert (found.reported, found.reported_ms, found.rollback) == (FAILED, at.clock.now_ms(), None)
    (event,) = at.audit.named("action.reported")
    assert (event.data["source"], event.data["exit_code"], event.data["reporter"]) == ("api", 2, who.person)
    assert event.principal == who.key_id
    assert event.bodies[BodyField.REASON].digest == sha256(b"it did not work").digest()


@pytest.mark.parametrize(
    ("who", "error"),
    [
        (person("zoe", Scope.INFERENCE), Forbidden),
        (person("ann", Scope.AUDIT_READ, key="key_agent"), Forbidden),
        (person("eve", Scope.APPROVE, tenant="other"), NotFound),
    ],
)
async def test_who_may_not_report(at: Desk, who: Principal, error: type[Exception]) -> None:
    approval = await at.consumed()
    with pytest.raises(error):
        await at.desk.report(who, approval.approval_id, SUCCEEDED, None, "")
    with pytest.raises(error):
        await at.desk.rollback(who, approval.approval_id, RollbackOutcome.SUCCEEDED, "")
    assert "action.reported" not in at.audit.names()


async def test_only_a_call_that_was_released_is_reported(at: Desk) -> None:
    approval = await at.approved()
    with pytest.raises(ApprovalConflict, match="APPROVED"):
        await at.desk.report(AGENT, approval.approval_id, SUCCEEDED, 0, "")
    with pytest.raises(ApprovalConflict, match="APPROVED"):
        await at.desk.rollback(AGENT, approval.approval_id, RollbackOutcome.FAILED, "")


async def test_a_report_is_not_changed(at: Desk) -> None:
    approval = await at.consumed()
    await at.desk.observe(context(), [result()])
    assert (await at.desk.report(BOB, approval.approval_id, SUCCEEDED, 0, "")).reported is SUCCEEDED
    with pytest.raises(ApprovalConflict, match="succeeded"):
        await at.desk.report(BOB, approval.approval_id, FAILED, 1, "")
    assert len(at.audit.named("action.reported")) == 1


async def test_somebody_may_know_what_the_conversation_did_not_say(at: Desk) -> None:
    approval = await at.consumed()
    await at.desk.observe(context(), [result(outcome=UNKNOWN)])
    await at.desk.report(BOB, approval.approval_id, FAILED, 1, "")
    assert [event.data["outcome"] for event in at.audit.named("action.reported")] == ["unknown", "failed"]


async def test_a_report_is_acknowledged_only_when_it_is_on_record(at: Desk) -> None:
    approval = await at.consumed()
    at.audit.down = True
    for _ in range(2):
        with pytest.raises(AuditUnavailable):
            await at.desk.report(AGENT, approval.approval_id, SUCCEEDED, 0, "")
    at.audit.down = False
    await at.desk.report(AGENT, approval.approval_id, SUCCEEDED, 0, "")
    assert len(at.audit.named("action.reported")) == 1


async def test_words_are_kept_only_where_the_tenant_keeps_them(at: Desk) -> None:
    approval = await at.consumed()
    await at.desk.report(BOB, approval.approval_id, UNKNOWN, None, "hunter2")
    await at.other(keeps=True).report(BOB, approval.approval_id, FAILED, None, "hunter3")
    assert [event.bodies[BodyField.REASON].data for event in at.audit.named("action.reported")] == [None, b"hunter3"]
    assert b"hunter" not in at.path.read_bytes()


async def test_a_rollback_is_reported_with_its_plan_until_it_worked(at: Desk) -> None:
    approval = await at.consumed()
    for outcome in (RollbackOutcome.FAILED, RollbackOutcome.SUCCEEDED, RollbackOutcome.SUCCEEDED):
        assert (await at.desk.rollback(BOB, approval.approval_id, outcome, "")).rollback is outcome
    with pytest.raises(ApprovalConflict, match="succeeded"):
        await at.desk.rollback(BOB, approval.approval_id, RollbackOutcome.FAILED, "")
    events = at.audit.named("rollback.reported")
    assert [event.data["outcome"] for event in events] == ["failed", "succeeded"]
    consumed = at.audit.named("permit.consumed")[0].data
    assert {event.data["rollback_digest"] for event in events} == {consumed["rollback_digest"]}
    assert {event.data["change_id"] for event in events} == {"CHG-1"}


# --- alerts ----------------------------------------------------------------------------------------------------------


async def test_a_released_call_without_a_report_opens_an_incident_once(at: Desk) -> None:
    approval = await at.consumed()
    other = at.other()
    at.clock.advance(900_000 - 1)
    await at.desk.sweep()
    assert "incident.opened" not in at.audit.names()
    at.clock.advance(1)
    await asyncio.gather(at.desk.sweep(), other.sweep(), at.desk.sweep(), other.sweep())
    (event,) = at.audit.named("incident.opened")
    assert (event.data["kind"], event.data["severity"]) == ("action_unreported", "medium")
    assert (event.data["approval_id"], event.data["change_id"]) == (approval.approval_id, "CHG-1")


async def test_an_alert_that_the_log_did_not_take_is_sent_later(at: Desk) -> None:
    await at.consumed()
    at.clock.advance(900_000)
    at.audit.down = True
    with pytest.raises(AuditUnavailable):
        await at.desk.sweep()
    at.audit.down = False
    await at.other().sweep()
    assert len(at.audit.named("incident.opened")) == 1


async def test_a_reported_call_opens_no_incident(at: Desk) -> None:
    await at.consumed()
    await at.desk.observe(context(), [result(outcome=UNKNOWN)])
    at.clock.advance(900_000)
    await at.desk.sweep()
    assert "incident.opened" not in at.audit.names()


async def test_a_report_after_the_alert_still_counts(at: Desk) -> None:
    approval = await at.consumed()
    at.clock.advance(900_000)
    await at.desk.sweep()
    found = await at.desk.report(AGENT, approval.approval_id, SUCCEEDED, 0, "")
    assert (found.alerted_ms, found.reported) == (at.clock.now_ms(), SUCCEEDED)
    assert at.audit.names()[-2:] == ["incident.opened", "action.reported"]


async def test_a_permit_that_may_have_been_recorded_is_missed_too(at: Desk) -> None:
    await at.approved()
    at.audit.lose = True
    with pytest.raises(AuditInDoubt):
        await at.desk.propose(replace(proposal(2), call_id=CALL_ID))
    at.audit.lose = False
    at.clock.advance(900_000)
    await at.desk.sweep()
    assert len(at.audit.named("permit.consumed")) == len(at.audit.named("incident.opened")) == 1


async def test_the_sweep_records_what_has_expired(at: Desk) -> None:
    await at.approved()
    at.clock.advance(at.settings.approval_ttl_s * 1000)
    await at.desk.sweep()
    assert at.audit.names()[-1] == "approval.expired"


# --- bypass attempts -------------------------------------------------------------------------------------------------


async def test_the_result_of_a_held_call_is_a_bypass_whoever_held_it(at: Desk) -> None:
    approval = await at.approved()
    for desk in (at.other(), at.desk):
        await desk.observe(context(), [result(HELD_ID)])
    (event,) = at.audit.named("bypass.attempted")
    assert (event.data["kind"], event.data["approval_id"]) == ("held_call_executed", approval.approval_id)
    assert event.data["gate_call_id"] == proposal(1).gate_call_id
    assert "action.reported" not in at.audit.names()


async def test_a_call_that_was_released_under_the_id_it_was_held_with_is_no_bypass(at: Desk) -> None:
    await at.approved()
    assert isinstance(await at.desk.propose(replace(proposal(2), call_id=HELD_ID)), Permit)
    for _ in range(2):
        await at.desk.observe(context(), [result(HELD_ID)])
    assert "bypass.attempted" not in at.audit.names()
    assert len(at.audit.named("action.reported")) == 1


async def test_what_a_replica_knows_of_a_refused_call_is_recorded_once(at: Desk) -> None:
    refused = Refusal("g" * 32, "shell", Risk.FORBIDDEN, "The policy forbids this call.", denied=True)
    for desk in (at.desk, at.desk, at.other()):
        await desk.observe(context(), [result("call_deniedden1", refused=refused)])
    (event,) = at.audit.named("bypass.attempted")
    assert (event.data["kind"], event.data["risk"]) == ("denied_call_executed", "FORBIDDEN")


@pytest.mark.parametrize("risk", [Risk.R2, Risk.R3])
async def test_a_vote_on_ones_own_request_is_recorded_before_it_is_refused(at: Desk, risk: Risk) -> None:
    found = await at.desk.propose(proposal(risk=risk))
    assert isinstance(found, Approval)
    found = await at.desk.plan(AGENT, found.approval_id, "CHG-1", PLAN)
    for _ in range(2):
        with pytest.raises(ApprovalConflict, match="second person"):
            await at.desk.vote(person("ANN", key="key_ann"), found.approval_id, seen(found), True, "")
    (event,) = at.audit.named("bypass.attempted")
    assert (event.data["kind"], event.data["risk"], event.principal) == ("self_approval", risk.value, "key_ann")


async def test_a_vote_on_other_digests_is_recorded_before_it_is_refused(at: Desk) -> None:
    found = await at.desk.propose(proposal())
    assert isinstance(found, Approval)
    found = await at.desk.plan(AGENT, found.approval_id, "CHG-1", PLAN)
    with pytest.raises(ApprovalConflict, match="digests"):
        await at.desk.vote(BOB, found.approval_id, Digests("0" * 64, "d" * 64), True, "")
    (event,) = at.audit.named("bypass.attempted")
    assert (event.data["kind"], event.principal) == ("digest_mismatch", "key_bob")


async def test_a_refusal_stays_one_without_the_log_and_is_recorded_when_it_is_back(at: Desk) -> None:
    found = await at.desk.propose(proposal())
    assert isinstance(found, Approval)
    found = await at.desk.plan(AGENT, found.approval_id, "CHG-1", PLAN)
    at.audit.down = True
    with pytest.raises(ApprovalConflict, match="second person"):
        await at.desk.vote(person("ann", key="key_ann"), found.approval_id, seen(found), True, "")
    at.audit.down = False
    assert (await at.desk.get(None, found.approval_id)).state is ApprovalState.PENDING
    await at.desk.sweep()
    assert at.audit.names()[-2:] == ["bypass.attempted", "incident.opened"]


async def test_plain_mistakes_are_no_bypass(at: Desk) -> None:
    found = await at.desk.propose(proposal(risk=Risk.R3))
    assert isinstance(found, Approval)
    tries = [
        (BOB, seen(found), True, ApprovalConflict),  # no plan yet
        (person("bob", Scope.INFERENCE), seen(found), True, Forbidden),
        (person("eve", tenant="other"), Digests("0" * 64, "0" * 64), True, NotFound),
        (person("ann", key="key_ann"), seen(found), False, ApprovalConflict),  # a requester who votes against
    ]
    for who, digests, approve, error in tries:
        with pytest.raises(error):
            await at.desk.vote(who, found.approval_id, digests, approve, "")
    found = await at.desk.plan(AGENT, found.approval_id, "CHG-1", PLAN)
    await at.desk.vote(BOB, found.approval_id, seen(found), True, "")
    with pytest.raises(ApprovalConflict, match="another person"):
        await at.desk.vote(BOB, found.approval_id, seen(found), True, "")
    assert "bypass.attempted" not in at.audit.names()


# --- the log refuses a permit ----------------------------------------------------------------------------------------


async def test_a_stale_witness_burns_no_approval(at: Desk) -> None:
    approval = await at.approved()
    at.audit.refuse = {"permit.consumed": WitnessStale("no witness")}
    with pytest.raises(WitnessStale):
        await at.desk.propose(replace(proposal(2), call_id=CALL_ID))
    assert (await at.desk.get(None, approval.approval_id)).state is ApprovalState.APPROVED
    at.audit.refuse = {}
    assert isinstance(await at.desk.propose(replace(proposal(3), call_id=CALL_ID)), Permit)
    await at.desk.observe(context(), [result()])
    assert len(at.audit.named("action.reported")) == 1


async def test_votes_and_cancellations_give_words_as_digests_only(at: Desk) -> None:
    approval = await at.approved()
    await at.desk.cancel(AGENT, approval.approval_id, "never mind")
    for name, words in (("approval.voted", b"looks right"), ("approval.cancelled", b"never mind")):
        (event,) = at.audit.named(name)
        assert event.bodies[BodyField.REASON].digest == sha256(words).digest()
        assert event.bodies[BodyField.REASON].data is None


# --- what has changed ------------------------------------------------------------------------------------------------


async def test_the_first_opening_announces_policy_and_configuration(at: Desk) -> None:
    await at.desk.open("default", RUNNING)
    policy, config = at.audit.events
    assert (policy.name, config.name) == ("policy.changed", "config.changed")
    assert policy.tenant == config.tenant == SYSTEM_TENANT
    assert policy.data == {
        "policy_digest": POLICY, "rule_set": "default", "previous_digest": None, "change_id": "CHG-9",
    }  # fmt: skip
    assert config.data == {
        "config_digest": "c" * 64, "profile": "dev", "models": ["demo-20b"], "version": "1.2.3",
        "previous_digest": None, "change_id": "CHG-9",
    }  # fmt: skip


async def test_what_has_not_changed_is_not_announced_again(at: Desk) -> None:
    await asyncio.gather(at.desk.open("default", RUNNING), at.other().open("default", RUNNING))
    await at.other().open("default", RUNNING)
    assert sorted(at.audit.names()) == ["config.changed", "policy.changed"]


async def test_every_change_is_announced_with_what_was_before(at: Desk) -> None:
    for policy in (POLICY, "b" * 64, POLICY):
        await at.other(policy).open("default", Running())
    announced = [(event.data["policy_digest"], event.data["previous_digest"]) for event in at.audit.events]
    assert announced == [(POLICY, None), ("b" * 64, POLICY), (POLICY, "b" * 64)]


async def test_a_change_is_announced_late_when_the_log_is_down_at_the_start(at: Desk) -> None:
    at.audit.down = True
    await at.desk.open("default", RUNNING)
    at.audit.down = False
    await at.other().open("default", RUNNING)
    await at.desk.sweep()
    assert at.audit.names() == ["policy.changed", "config.changed"]


# --- an older store --------------------------------------------------------------------------------------------------

# The table as the version before this one made it, and a row of it.
_OLD = """
CREATE TABLE approvals (
    approval_id VARCHAR(64) NOT NULL, version INTEGER NOT NULL, state VARCHAR(16) NOT NULL,
    tenant VARCHAR(128) NOT NULL, gate_call_id VARCHAR(64) NOT NULL, fingerprint VARCHAR(64) NOT NULL,
    subject VARCHAR(64) NOT NULL, created_ms BIGINT NOT NULL, expires_ms BIGINT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (approval_id), UNIQUE (gate_call_id)
);
"""


async def test_a_store_of_the_version_before_is_taken_over(at: Desk, tmp_path: Path) -> None:
    consumed = await at.consumed()
    path = tmp_path / "old.db"
    with sqlite3.connect(at.path) as new, sqlite3.connect(path) as old:
        old.executescript(_OLD)
        (row,) = new.execute("SELECT * FROM approvals").fetchall()
        *columns, body = row
        assert ',"call_id":"call_heldheld1"' in body
        old.execute(
            "INSERT INTO approvals VALUES (?,?,?,?,?,?,?,?,?,?)",
            (*columns, body.replace(',"call_id":"call_heldheld1"', "")),
        )
    new.close()
    old.close()
    later = Desk(path)
    later.clock.advance(10_000_000)
    await later.desk.open("default", Running())
    await later.other().open("default", Running())
    assert (await later.desk.get(None, consumed.approval_id)).state is ApprovalState.CONSUMED
    await later.desk.sweep()
    assert "incident.opened" not in later.audit.names(), "its time begins now"
    later.clock.advance(900_000)
    await later.desk.sweep()
    assert len(later.audit.named("incident.opened")) == 1
    found = await later.desk.report(AGENT, consumed.approval_id, SUCCEEDED, 0, "")
    assert found.gate_call_id == consumed.proposal.gate_call_id
    for store in later.stores:
        await store.close()
