import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.clock import FixedClock
from deployments.errors import (
    ApprovalConflict,
    AuditInDoubt,
    AuditUnavailable,
    Forbidden,
    GateUnavailable,
    NotFound,
    PartUnavailable,
)
from deployments.gate import states
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.binding import ActionBinding
from deployments.gate.settings import GateSettings
from deployments.gate.store import ApprovalStore
from deployments.ports import (
    Approval,
    ApprovalId,
    ApprovalState,
    Digests,
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
from deployments.store import open_store, sqlite_url
from tests.fakes_audit import InMemoryAudit

POLICY = "a" * 64
PLAN = RollbackPlan(("kubectl create namespace staging", "restore the backup"), "kubectl get namespace staging")


def person(name: str | None, *scopes: Scope, tenant: str = "acme", key: str | None = None) -> Principal:
    granted = frozenset(scopes or (Scope.APPROVE,))
    return Principal(TenantId(tenant), KeyId(key or f"key_{name}"), name, granted)


AGENT = person("ann", Scope.INFERENCE, key="key_agent")
BOB, CAROL, DAN = person("bob"), person("carol"), person("dan")
ANN_TOO = person("ann", key="key_ann")
ROOT = person("root", Scope.ADMIN, Scope.APPROVE, tenant="operators")
EVERYBODY = {each.key_id: each for each in (AGENT, BOB, CAROL, DAN, ANN_TOO, ROOT)}


def proposal(number: int = 1, risk: Risk = Risk.R2, policy: str = POLICY, **changes: str) -> Proposal:
    arguments = changes.get("arguments", '{"command":"kubectl delete namespace staging"}')
    session = changes.get("session", "s1")
    binding = ActionBinding(f"{number:032x}", "acme", AGENT.key_id, session, "shell", arguments, policy)
    return Proposal(
        gate_call_id=binding.gate_call_id,
        action_digest=binding.action_digest(),
        fingerprint=binding.fingerprint(),
        request_id=RequestId(f"req_{number}"),
        session=SessionId(session),
        tenant=AGENT.tenant,
        requester_key=AGENT.key_id,
        requester_person=AGENT.person,
        tool="shell",
        arguments=arguments,
        display="what an approver sees\n",
        display_digest="d" * 64,
        risk=risk,
        reasons=("k8s.delete: deletes objects of the cluster",),
        policy_digest=policy,
        model=ModelId("demo-20b"),
    )


def seen(approval: Approval) -> Digests:
    return Digests(approval.proposal.action_digest, approval.proposal.display_digest)


class Keyring:
    """What the ledger says: `keys` are the good ones."""

    def __init__(self) -> None:
        self.keys = dict(EVERYBODY)
        self.down = False

    async def holders(self, key_ids: Sequence[KeyId]) -> Sequence[Principal]:
        if self.down:
            raise PartUnavailable("The ledger is down.")
        return [self.keys[each] for each in key_ids if each in self.keys]


class Desk:
    """A desk over a real SQLite file, with the steps that every test repeats."""

    def __init__(self, path: Path) -> None:
        self.clock = FixedClock()
        self.audit = InMemoryAudit()
        self.store = ApprovalStore(open_store(sqlite_url(path)))
        self.settings = GateSettings(approval_ttl_s=600)
        self.ledger = Keyring()
        self.desk = self.at(self.store)

    def at(self, store: ApprovalStore, policy: str = POLICY) -> ApprovalDesk:
        """A desk over the same log and keys."""
        return ApprovalDesk(store, self.audit, self.clock, self.settings, policy, holders=self.ledger.holders)

    async def opened(self, risk: Risk = Risk.R2) -> Approval:
        found = await self.desk.propose(proposal(risk=risk))
        assert isinstance(found, Approval)
        return found

    async def planned(self, risk: Risk = Risk.R2) -> Approval:
        return await self.desk.plan(AGENT, (await self.opened(risk)).approval_id, "CHG-1", PLAN)

    async def approved(self) -> Approval:
        approval = await self.planned()
        return await self.desk.vote(BOB, approval.approval_id, seen(approval), True, "looks right")

    async def state(self, approval: Approval) -> ApprovalState:
        return (await self.desk.get(None, approval.approval_id)).state


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path / "gate.db")
    await desk.store.open()
    yield desk
    await desk.store.close()


# --- the way through -------------------------------------------------------------------------------------------------


async def test_plan_vote_release_once(at: Desk) -> None:
    approval = await at.opened()
    assert (approval.state, approval.votes_required) == (ApprovalState.NEEDS_PLAN, 1)
    approval = await at.desk.plan(AGENT, approval.approval_id, "CHG-1", PLAN)
    assert approval.state is ApprovalState.PENDING
    approval = await at.desk.vote(BOB, approval.approval_id, seen(approval), True, "fine")
    assert approval.state is ApprovalState.APPROVED
    permit = await at.desk.propose(proposal(2))
    assert isinstance(permit, Permit)
    assert (permit.approval_id, permit.change_id, permit.voters) == (approval.approval_id, "CHG-1", ("bob",))
    assert permit.action_digest == proposal(1).action_digest
    again = await at.desk.propose(proposal(3))
    assert isinstance(again, Approval)
    assert again.approval_id != approval.approval_id
    assert at.audit.names() == [
        "approval.requested", "approval.planned", "approval.voted", "approval.granted", "permit.consumed",
        "approval.requested",
    ]  # fmt: skip


async def test_r1_needs_a_plan_and_nobody(at: Desk) -> None:
    approval = await at.planned(Risk.R1)
    assert (approval.state, approval.votes_required) == (ApprovalState.APPROVED, 0)
    assert isinstance(await at.desk.propose(proposal(2, Risk.R1)), Permit)


async def test_r3_needs_two_people(at: Desk) -> None:
    approval = await at.planned(Risk.R3)
    approval = await at.desk.vote(BOB, approval.approval_id, seen(approval), True, "")
    assert approval.state is ApprovalState.PENDING
    assert isinstance(await at.desk.propose(proposal(2, Risk.R3)), Approval)
    for same in (BOB, person("bob", key="key_bob_2"), person(" BOB ", key="key_bob_3"), person("dan", key="key_bob")):
        with pytest.raises(ApprovalConflict, match="another person"):
            await at.desk.vote(same, approval.approval_id, seen(approval), True, "")
    approval = await at.desk.vote(CAROL, approval.approval_id, seen(approval), True, "")
    assert approval.state is ApprovalState.APPROVED
    permit = await at.desk.propose(proposal(2, Risk.R3))
    assert isinstance(permit, Permit)
    assert permit.voters == ("bob", "carol")


async def test_the_same_call_meets_its_own_request(at: Desk) -> None:
    first = await at.opened()
    assert await at.desk.propose(proposal(2)) == first
    assert len(await at.desk.list_approvals(None, None)) == 1


@pytest.mark.parametrize("changes", [{"arguments": "{}"}, {"session": "s2"}])
async def test_another_call_opens_another_request(at: Desk, changes: dict[str, str]) -> None:
    await at.approved()
    assert isinstance(await at.desk.propose(proposal(2, **changes)), Approval)


# --- who may --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("voter", "error"),
    [
        (person("ann", key="key_other"), ApprovalConflict),
        (person("ANN", key="key_other"), ApprovalConflict),
        (person("zoe", key="key_agent"), ApprovalConflict),
        (person(None, key="key_service"), Forbidden),
        (person("  ", key="key_blank"), Forbidden),
        (person("bob", Scope.INFERENCE), Forbidden),
        (person("bob", Scope.ADMIN), Forbidden),
        (person("eve", tenant="other"), NotFound),
    ],
)
async def test_whose_vote_does_not_count(at: Desk, voter: Principal, error: type[Exception]) -> None:
    approval = await at.planned()
    with pytest.raises(error):
        await at.desk.vote(voter, approval.approval_id, seen(approval), True, "")
    assert await at.state(approval) is ApprovalState.PENDING
    assert "approval.voted" not in at.audit.names()


async def test_a_requester_without_a_person_is_told_apart_by_key(at: Desk) -> None:
    found = await at.desk.propose(replace(proposal(), requester_person=None))
    assert isinstance(found, Approval)
    found = await at.desk.plan(AGENT, found.approval_id, "CHG-1", PLAN)
    with pytest.raises(ApprovalConflict):
        await at.desk.vote(person("ann", key="key_agent"), found.approval_id, seen(found), True, "")
    after = await at.desk.vote(person("ann", key="key_ann"), found.approval_id, seen(found), True, "")
    assert after.state is ApprovalState.APPROVED


async def test_an_administrator_who_approves_may_vote_across_tenants(at: Desk) -> None:
    approval = await at.planned()
    root = person("root", Scope.ADMIN, Scope.APPROVE, tenant="operators")
    after = await at.desk.vote(root, approval.approval_id, seen(approval), True, "")
    assert after.state is ApprovalState.APPROVED


@pytest.mark.parametrize("field", ["action", "display"])
async def test_a_vote_on_something_else_does_not_count(at: Desk, field: str) -> None:
    approval = await at.planned()
    with pytest.raises(ApprovalConflict, match="digests"):
        await at.desk.vote(BOB, approval.approval_id, replace(seen(approval), **{field: "0" * 64}), True, "")


async def test_nobody_approves_before_there_is_a_plan(at: Desk) -> None:
    approval = await at.opened()
    with pytest.raises(ApprovalConflict, match="plan"):
        await at.desk.vote(BOB, approval.approval_id, seen(approval), True, "")


async def test_one_reject_ends_it(at: Desk) -> None:
    approval = await at.planned(Risk.R3)
    await at.desk.vote(BOB, approval.approval_id, seen(approval), True, "")
    after = await at.desk.vote(CAROL, approval.approval_id, seen(approval), False, "no")
    assert after.state is ApprovalState.REJECTED
    with pytest.raises(ApprovalConflict, match="REJECTED"):
        await at.desk.vote(person("dan"), approval.approval_id, seen(approval), True, "")
    assert isinstance(await at.desk.propose(proposal(2, Risk.R3)), Approval)


async def test_a_request_without_a_plan_can_be_rejected(at: Desk) -> None:
    approval = await at.opened()
    after = await at.desk.vote(BOB, approval.approval_id, seen(approval), False, "no")
    assert after.state is ApprovalState.REJECTED


# --- plans ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change_id", "plan"),
    [
        ("", PLAN),
        ("  ", PLAN),
        ("x" * 129, PLAN),
        ("CHG-1", RollbackPlan((), "v")),
        ("CHG-1", RollbackPlan(("a", " "), "v")),
        ("CHG-1", RollbackPlan(("a",), "")),
        ("CHG-1", RollbackPlan(("a",) * 51, "v")),
        ("CHG-1", RollbackPlan(("a" * 4001,), "v")),
        ("CHG-1", RollbackPlan(("a",), "\ud800")),
        ("\udfff", PLAN),
    ],
)
async def test_half_a_plan_is_none(at: Desk, change_id: str, plan: RollbackPlan) -> None:
    approval = await at.opened()
    with pytest.raises(ApprovalConflict):
        await at.desk.plan(AGENT, approval.approval_id, change_id, plan)
    assert await at.state(approval) is ApprovalState.NEEDS_PLAN


async def test_a_plan_is_not_edited(at: Desk) -> None:
    approval = await at.planned()
    assert await at.desk.plan(AGENT, approval.approval_id, "CHG-1", PLAN) == approval
    with pytest.raises(ApprovalConflict, match="no longer"):
        await at.desk.plan(AGENT, approval.approval_id, "CHG-2", PLAN)
    assert at.audit.names().count("approval.planned") == 1


async def test_a_stranger_neither_plans_nor_cancels_nor_sees(at: Desk) -> None:
    approval = await at.opened()
    stranger = person("eve", Scope.INFERENCE, Scope.APPROVE, tenant="other")
    with pytest.raises(NotFound):
        await at.desk.plan(stranger, approval.approval_id, "CHG-1", PLAN)
    with pytest.raises(NotFound):
        await at.desk.cancel(stranger, approval.approval_id, "")
    with pytest.raises(NotFound):
        await at.desk.get(stranger.tenant, approval.approval_id)
    with pytest.raises(NotFound):
        await at.desk.get(None, ApprovalId("apr_unknown"))
    assert await at.desk.list_approvals(stranger.tenant, None) == []


async def test_a_key_that_only_reads_the_log_changes_nothing(at: Desk) -> None:
    approval = await at.opened()
    reader = person("rita", Scope.AUDIT_READ)
    with pytest.raises(Forbidden):
        await at.desk.plan(reader, approval.approval_id, "CHG-1", PLAN)
    with pytest.raises(Forbidden):
        await at.desk.cancel(reader, approval.approval_id, "")


# --- ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reach", ["opened", "planned", "approved"])
async def test_every_open_request_expires(at: Desk, reach: str) -> None:
    approval: Approval = await getattr(at, reach)()
    at.clock.advance(at.settings.approval_ttl_s * 1000 - 1)
    assert await at.state(approval) is approval.state
    at.clock.advance(1)
    assert await at.state(approval) is ApprovalState.EXPIRED
    found = await at.desk.propose(proposal(2))
    assert isinstance(found, Approval)
    assert found.approval_id != approval.approval_id
    assert at.audit.names().count("approval.expired") == 1


async def test_nothing_moves_an_expired_request(at: Desk) -> None:
    approval = await at.planned()
    at.clock.advance(600_000)
    with pytest.raises(ApprovalConflict, match="expired"):
        await at.desk.vote(BOB, approval.approval_id, seen(approval), True, "")
    with pytest.raises(ApprovalConflict, match="EXPIRED"):
        await at.desk.cancel(AGENT, approval.approval_id, "")


async def test_listing_records_what_has_expired(at: Desk) -> None:
    await at.opened()
    at.clock.advance(600_000)
    (approval,) = await at.desk.list_approvals(None, ApprovalState.EXPIRED)
    assert approval.state is ApprovalState.EXPIRED
    assert at.audit.names()[-1] == "approval.expired"
    assert await at.desk.list_approvals(None, ApprovalState.NEEDS_PLAN) == []


async def test_listing_works_without_the_log(at: Desk) -> None:
    await at.opened()
    at.clock.advance(600_000)
    at.audit.down = True
    (approval,) = await at.desk.list_approvals(None, None)
    assert approval.state is ApprovalState.EXPIRED


@pytest.mark.parametrize("reach", ["opened", "planned", "approved"])
async def test_another_policy_makes_it_stale(at: Desk, reach: str) -> None:
    approval: Approval = await getattr(at, reach)()
    found = await at.desk.propose(proposal(2, policy="b" * 64))
    assert isinstance(found, Approval)
    assert found.approval_id != approval.approval_id
    assert await at.state(approval) is ApprovalState.STALE


async def test_a_vote_after_a_policy_change_makes_it_stale(at: Desk) -> None:
    approval = await at.planned()
    changed = at.at(at.store, "b" * 64)
    with pytest.raises(ApprovalConflict, match="policy has changed"):
        await changed.vote(BOB, approval.approval_id, seen(approval), True, "")
    assert await at.state(approval) is ApprovalState.STALE


async def test_an_approval_of_a_lower_class_does_not_serve_a_higher_one(at: Desk) -> None:
    approval = await at.planned(Risk.R1)
    assert approval.state is ApprovalState.APPROVED
    found = await at.desk.propose(proposal(2, Risk.R2))
    assert isinstance(found, Approval)
    assert (found.state, found.votes_required) == (ApprovalState.NEEDS_PLAN, 1)


@pytest.mark.parametrize("reach", ["opened", "planned", "approved"])
async def test_an_open_request_can_be_cancelled(at: Desk, reach: str) -> None:
    approval: Approval = await getattr(at, reach)()
    assert (await at.desk.cancel(AGENT, approval.approval_id, "never mind")).state is ApprovalState.CANCELLED
    with pytest.raises(ApprovalConflict):
        await at.desk.cancel(AGENT, approval.approval_id, "again")


# --- the log, the store, races ---------------------------------------------------------------------------------------


async def test_without_a_record_nothing_moves(at: Desk) -> None:
    at.audit.down = True
    with pytest.raises(AuditUnavailable):
        await at.desk.propose(proposal())
    assert await at.desk.list_approvals(None, None) == []
    at.audit.down = False
    approval = await at.opened()
    for down in (True, False):
        at.audit.down = down
        if down:
            with pytest.raises(AuditUnavailable):
                await at.desk.plan(AGENT, approval.approval_id, "CHG-1", PLAN)
            assert await at.state(approval) is ApprovalState.NEEDS_PLAN
        else:
            approval = await at.desk.plan(AGENT, approval.approval_id, "CHG-1", PLAN)
    at.audit.down = True
    with pytest.raises(AuditUnavailable):
        await at.desk.vote(BOB, approval.approval_id, seen(approval), True, "")
    assert await at.state(approval) is ApprovalState.PENDING
    at.audit.down = False
    await at.desk.vote(BOB, approval.approval_id, seen(approval), True, "")
    at.audit.down = True
    with pytest.raises(AuditUnavailable):
        await at.desk.propose(proposal(2))
    assert await at.state(approval) is ApprovalState.APPROVED
    at.audit.down = False
    assert isinstance(await at.desk.propose(proposal(2)), Permit)


class LostAnswers(InMemoryAudit):
    """Writes the record, and the acknowledgement is lost."""

    lose = False

    async def append(self, events):
        receipts = await super().append(events)
        if self.lose:
            raise AuditInDoubt("no answer")
        return receipts


async def test_a_permit_that_may_be_recorded_as_consumed_is_spent(tmp_path: Path) -> None:
    audit = LostAnswers()
    store = ApprovalStore(open_store(sqlite_url(tmp_path / "gate.db")))
    await store.open()
    desk = ApprovalDesk(store, audit, FixedClock(), GateSettings(), POLICY, holders=Keyring().holders)
    opened = await desk.propose(proposal())
    assert isinstance(opened, Approval)
    opened = await desk.plan(AGENT, opened.approval_id, "CHG-1", PLAN)
    await desk.vote(BOB, opened.approval_id, seen(opened), True, "")
    audit.lose = True
    with pytest.raises(AuditInDoubt):  # nothing is released
        await desk.propose(proposal(2))
    audit.lose = False
    again = await desk.propose(proposal(3))
    assert isinstance(again, Approval), "the old permit must not be consumed twice"
    assert again.approval_id != opened.approval_id
    assert len(audit.named("permit.consumed")) == 1
    await store.close()


async def test_a_hundred_calls_at_once_consume_one_permit(at: Desk, tmp_path: Path) -> None:
    await at.approved()
    other_store = ApprovalStore(open_store(sqlite_url(tmp_path / "gate.db")))
    other = at.at(other_store)
    desks = [at.desk, other]
    found = await asyncio.gather(*(desks[number % 2].propose(proposal(number)) for number in range(2, 102)))
    await other_store.close()
    assert sum(isinstance(answer, Permit) for answer in found) == 1
    assert at.audit.names().count("permit.consumed") == 1
    assert len({answer.approval_id for answer in found if isinstance(answer, Approval)}) == 1


async def test_a_hundred_votes_of_one_person_count_once(at: Desk) -> None:
    approval = await at.planned(Risk.R3)
    votes = [at.desk.vote(BOB, approval.approval_id, seen(approval), True, "") for _ in range(100)]
    found = await asyncio.gather(*votes, return_exceptions=True)
    assert sum(isinstance(answer, Approval) for answer in found) == 1
    assert await at.state(approval) is ApprovalState.PENDING


async def test_a_vote_and_a_cancellation_at_once_leave_one_end(at: Desk) -> None:
    approval = await at.planned()
    await asyncio.gather(
        at.desk.vote(BOB, approval.approval_id, seen(approval), True, ""),
        at.desk.cancel(AGENT, approval.approval_id, ""),
        return_exceptions=True,
    )
    assert await at.state(approval) is ApprovalState.CANCELLED
    assert isinstance(await at.desk.propose(proposal(2)), Approval)


async def test_what_was_approved_survives_a_restart(at: Desk, tmp_path: Path) -> None:
    approval = await at.approved()
    await at.store.close()
    store = ApprovalStore(open_store(sqlite_url(tmp_path / "gate.db")))
    desk = at.at(store)
    await store.open()
    assert await desk.get(None, approval.approval_id) == approval
    assert isinstance(await desk.propose(proposal(2)), Permit)
    await store.close()


async def test_a_broken_store_is_gate_unavailable(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "gate.db")
    (tmp_path / "gate.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(GateUnavailable):
        await desk.desk.propose(proposal())
    assert not await desk.desk.ready()
    await desk.store.close()


async def test_a_call_can_be_found_by_its_own_id(at: Desk) -> None:
    approval = await at.opened()
    assert await at.desk.get(TenantId("acme"), ApprovalId(approval.proposal.gate_call_id)) == approval


# --- the state machine -----------------------------------------------------------------------------------------------


def test_terminal_states_lead_nowhere() -> None:
    assert set(states.NEXT) == set(states.OPEN)
    for reachable in states.NEXT.values():
        assert ApprovalState.NEEDS_PLAN not in reachable
    assert [state for state in states.OPEN if ApprovalState.CONSUMED in states.NEXT[state]] == [ApprovalState.APPROVED]


@pytest.mark.parametrize("risk", [Risk.R0, Risk.FORBIDDEN])
async def test_what_is_no_matter_of_approval_is_refused(at: Desk, risk: Risk) -> None:
    with pytest.raises(ApprovalConflict):
        await at.desk.propose(proposal(risk=risk))


async def test_no_approval_is_consumed_with_too_few_votes(at: Desk) -> None:
    approval = await at.approved()
    assert states.may_consume(approval)
    for broken in (
        replace(approval, votes=()),
        replace(approval, plan=None),
        replace(approval, change_id=""),
        replace(approval, state=ApprovalState.PENDING),
        replace(approval, proposal=replace(approval.proposal, risk=Risk.R3)),
        replace(approval, votes=(*approval.votes, replace(approval.votes[0], person="carol", approve=False))),
        replace(
            approval,
            proposal=replace(approval.proposal, risk=Risk.R3),
            votes=(*approval.votes, replace(approval.votes[0], key_id=KeyId("key_2"))),
        ),
    ):
        assert not states.may_consume(broken)
