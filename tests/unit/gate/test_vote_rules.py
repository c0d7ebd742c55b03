"""Who may vote, and what a refused vote was: every condition alone, because each of them alone protects somebody."""

from dataclasses import replace

import pytest

from deployments.errors import ApprovalConflict, Forbidden, NotFound
from deployments.gate import states
from deployments.gate.display import render, unplanned
from deployments.ports import (
    Approval,
    ApprovalId,
    ApprovalState,
    Digests,
    KeyId,
    ModelId,
    Principal,
    Proposal,
    RequestId,
    Risk,
    RollbackPlan,
    Scope,
    SessionId,
    TenantId,
)

PLAN = RollbackPlan(("restore it",), "look")
BOB = Principal(TenantId("acme"), KeyId("key_bob"), "Bob", frozenset({Scope.APPROVE}))
ANN = Principal(TenantId("acme"), KeyId("key_ann"), "Ann", frozenset({Scope.APPROVE, Scope.INFERENCE}))


def waiting(risk: Risk = Risk.R2, roles: tuple[str, ...] = ()) -> Approval:
    shown = render(
        tool="shell", arguments="{}", commands=(), risk=risk, reasons=("r",), tenant="acme", requester="Ann",
        session="s", policy_digest="p" * 64, action_digest="a" * 64,
    )  # fmt: skip
    proposal = Proposal(
        "call_1", "a" * 64, "f" * 64, RequestId("r"), SessionId("s"), TenantId("acme"), ANN.key_id, ANN.person,
        "shell", "{}", shown.text, shown.digest, risk, ("r",), "p" * 64, ModelId("m"), approver_roles=roles,
    )  # fmt: skip
    votes = states.votes_required(risk)
    opened = Approval(ApprovalId("apr_1"), ApprovalState.NEEDS_PLAN, proposal, votes, (), None, None, 1_000, 10_000_000)
    return states.planned(opened, ANN, "CHG-1", PLAN)


def digests(approval: Approval) -> Digests:
    return Digests(approval.proposal.action_digest, approval.proposal.display_digest)


def vote(approval: Approval, voter: Principal, approve: bool = True) -> Approval:
    return states.voted(approval, voter, digests(approval), approve, "", 2_000)


def test_one_stranger_grants_r2_and_two_grant_r3() -> None:
    assert vote(waiting(), BOB).state is ApprovalState.APPROVED
    first = vote(waiting(Risk.R3), BOB)
    assert first.state is ApprovalState.PENDING
    carol = replace(BOB, key_id=KeyId("key_carol"), person="Carol")
    assert vote(first, carol).state is ApprovalState.APPROVED


@pytest.mark.parametrize(
    ("voter", "error"),
    [
        (replace(BOB, scopes=frozenset({Scope.INFERENCE, Scope.ADMIN})), Forbidden),
        (replace(BOB, person=None), Forbidden),
        (replace(BOB, person="  "), Forbidden),
        (replace(BOB, tenant=TenantId("other")), NotFound),
        (ANN, ApprovalConflict),
        (replace(BOB, key_id=ANN.key_id), ApprovalConflict),
        (replace(BOB, person="  ANN "), ApprovalConflict),
    ],
    ids=["no scope", "no person", "blank person", "another tenant", "requester", "requester's key", "alias"],
)
def test_each_reason_alone_refuses_a_vote(voter: Principal, error: type[Exception]) -> None:
    with pytest.raises(error):
        vote(waiting(), voter)


def test_a_role_that_is_asked_for_is_needed_to_approve_and_not_to_reject() -> None:
    asked = waiting(roles=("platform", "security"))
    with pytest.raises(Forbidden):
        vote(asked, BOB)
    assert vote(asked, replace(BOB, roles=frozenset({"security"}))).state is ApprovalState.APPROVED
    assert vote(asked, BOB, approve=False).state is ApprovalState.REJECTED


@pytest.mark.parametrize(
    "again",
    [BOB, replace(BOB, key_id=KeyId("key_bob_2")), replace(BOB, person="Carol")],
    ids=["same", "same person, other key", "same key, other person"],
)
def test_nobody_votes_twice(again: Principal) -> None:
    with pytest.raises(ApprovalConflict):
        vote(vote(waiting(Risk.R3), BOB), again)


@pytest.mark.parametrize("wrong", [Digests("0" * 64, ""), Digests("", "0" * 64)], ids=["action", "display"])
def test_other_digests_are_a_mismatch_of_whoever_could_have_voted(wrong: Digests) -> None:
    approval = waiting()
    right = digests(approval)
    given = Digests(wrong.action or right.action, wrong.display or right.display)
    with pytest.raises(ApprovalConflict):
        states.voted(approval, BOB, given, True, "", 2_000)
    assert states.bypass_of(approval, BOB, given, True) == "digest_mismatch"
    for nobody in (replace(BOB, person=None), replace(BOB, scopes=frozenset({Scope.INFERENCE}))):
        assert states.bypass_of(approval, nobody, given, True) is None
    assert states.bypass_of(vote(approval, BOB), BOB, given, True) is None, "nothing waits for votes any more"


def test_who_saw_the_request_before_its_plan_made_a_plain_mistake() -> None:
    approval = waiting()
    early = Digests(approval.proposal.action_digest, unplanned(approval.proposal.display, "CHG-1", PLAN).digest)
    assert early != digests(approval)
    with pytest.raises(ApprovalConflict):
        states.voted(approval, BOB, early, True, "", 2_000)
    assert states.bypass_of(approval, BOB, early, True) is None


def test_an_own_call_approved_is_a_bypass_and_rejected_is_none() -> None:
    approval = waiting()
    alias = replace(BOB, person="ann")
    for own in (ANN, alias, replace(BOB, key_id=ANN.key_id)):
        assert states.bypass_of(approval, own, digests(approval), True) == "self_approval"
        assert states.bypass_of(approval, own, digests(approval), False) is None
    assert states.bypass_of(approval, BOB, digests(approval), True) is None


@pytest.mark.parametrize(
    "holder",
    [
        None,
        replace(BOB, scopes=frozenset({Scope.INFERENCE})),
        replace(BOB, tenant=TenantId("other")),
        replace(BOB, person="Carol"),
        replace(BOB, person=None),
        replace(BOB, person="Ann"),
    ],
    ids=["gone", "no scope", "moved", "another person", "no person", "the requester now"],
)
def test_a_vote_counts_as_long_as_its_voter_does(holder: Principal | None) -> None:
    granted = vote(waiting(), BOB)
    assert states.still_counting(granted, {BOB.key_id: BOB}) == granted
    left = states.still_counting(granted, {} if holder is None else {BOB.key_id: holder})
    assert (left.state, left.votes) == (ApprovalState.PENDING, ())
    assert not states.may_consume(left)


def test_a_role_that_is_gone_takes_the_vote_with_it() -> None:
    holder = replace(BOB, roles=frozenset({"platform"}))
    granted = vote(waiting(roles=("platform",)), holder)
    assert states.still_counting(granted, {BOB.key_id: holder}).state is ApprovalState.APPROVED
    assert states.still_counting(granted, {BOB.key_id: BOB}).state is ApprovalState.PENDING
