"""The states of an approval, move by move and without a store: what each condition is there for."""

from dataclasses import replace

import pytest

from deployments.errors import ApprovalConflict, Forbidden, NotFound
from deployments.gate import states
from deployments.ports import Approval, ApprovalState, Digests, KeyId, Principal, Risk, RollbackPlan, Scope, TenantId
from tests.unit.gate.test_vote_rules import ANN, BOB, PLAN, digests, vote, waiting

ENDED = sorted(set(ApprovalState) - states.OPEN)
CAROL = replace(BOB, key_id=KeyId("key_carol"), person="Carol")
ROOT = Principal(TenantId("operators"), KeyId("key_root"), "Root", frozenset({Scope.ADMIN}))
NOBODY = replace(ANN, key_id=KeyId("key_none"), person="Nina", scopes=frozenset())
RIVAL = replace(ANN, key_id=KeyId("key_rival"), person="Rita", tenant=TenantId("other"))
OTHER_PLAN = RollbackPlan(("restore something else",), "look")


def opened(risk: Risk = Risk.R2) -> Approval:
    return replace(waiting(risk), state=ApprovalState.NEEDS_PLAN, change_id=None, plan=None)


# --- time, and who sees it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(ApprovalState))
def test_only_what_is_open_expires_and_only_when_its_time_is_over(state: ApprovalState) -> None:
    approval = replace(waiting(), state=state)
    assert states.as_of(approval, approval.expires_ms - 1) is approval
    late = states.as_of(approval, approval.expires_ms)
    assert late.state is (ApprovalState.EXPIRED if state in states.OPEN else state)


def test_a_key_sees_its_tenant_and_an_administrator_everybody() -> None:
    assert (states.visible_tenant(ROOT), states.visible_tenant(BOB)) == (None, "acme")
    states.may_see(ROOT, waiting())
    states.may_see(NOBODY, waiting())
    with pytest.raises(NotFound):
        states.may_see(RIVAL, waiting())


@pytest.mark.parametrize(("risk", "votes"), [(Risk.R1, 0), (Risk.R2, 1), (Risk.R3, 2)])
def test_each_class_needs_its_votes(risk: Risk, votes: int) -> None:
    assert states.votes_required(risk) == votes


@pytest.mark.parametrize("risk", [Risk.R0, Risk.FORBIDDEN])
def test_what_flows_and_what_is_forbidden_is_no_matter_of_approval(risk: Risk) -> None:
    with pytest.raises(ApprovalConflict):
        states.votes_required(risk)


# --- plans -----------------------------------------------------------------------------------------------------------


def test_a_plan_grants_r1_and_lets_the_others_wait_for_votes() -> None:
    for risk, state in ((Risk.R1, ApprovalState.APPROVED), (Risk.R3, ApprovalState.PENDING)):
        found = states.planned(opened(risk), ANN, "CHG-1", PLAN)
        assert (found.state, found.change_id, found.plan) == (state, "CHG-1", PLAN)


def test_the_same_plan_again_changes_nothing_and_another_is_a_conflict() -> None:
    approval = waiting()
    assert states.planned(approval, ANN, "CHG-1", PLAN) is approval
    for change_id, plan in (("CHG-2", PLAN), ("CHG-1", OTHER_PLAN)):
        with pytest.raises(ApprovalConflict, match="no longer be recorded"):
            states.planned(approval, ANN, change_id, plan)


@pytest.mark.parametrize("state", ENDED)
def test_what_has_ended_takes_no_plan_not_even_its_own(state: ApprovalState) -> None:
    for approval in (waiting(), opened()):
        with pytest.raises(ApprovalConflict):
            states.planned(replace(approval, state=state), ANN, "CHG-1", PLAN)


@pytest.mark.parametrize("scope", [Scope.INFERENCE, Scope.APPROVE, Scope.ADMIN])
def test_each_of_three_scopes_plans_and_cancels(scope: Scope) -> None:
    principal = replace(NOBODY, scopes=frozenset({scope}))
    assert states.planned(opened(), principal, "CHG-1", PLAN).plan == PLAN
    assert states.cancelled(opened(), principal).state is ApprovalState.CANCELLED


def test_a_key_without_a_scope_or_of_another_tenant_moves_nothing() -> None:
    for principal, error in ((NOBODY, Forbidden), (RIVAL, NotFound)):
        with pytest.raises(error):
            states.planned(opened(), principal, "CHG-1", PLAN)
        with pytest.raises(error):
            states.cancelled(opened(), principal)
        with pytest.raises(error):
            states.expired(opened(), principal)


LONG = "x" * states.MAX_TEXT


@pytest.mark.parametrize(
    ("change_id", "plan", "good"),
    [
        ("C" * 128, PLAN, True),
        ("C" * 129, PLAN, False),
        ("", PLAN, False),
        (" \t", PLAN, False),
        ("C\ud800", PLAN, False),
        ("C", RollbackPlan((), "look"), False),
        ("C", RollbackPlan(("a",) * 50, "look"), True),
        ("C", RollbackPlan(("a",) * 51, "look"), False),
        ("C", RollbackPlan(("a", " "), "look"), False),
        ("C", RollbackPlan(("a",), " "), False),
        ("C", RollbackPlan((LONG,), LONG), True),
        ("C", RollbackPlan((LONG + "x",), "look"), False),
        ("C", RollbackPlan(("a",), LONG + "x"), False),
        ("C", RollbackPlan(("a\udfff",), "look"), False),
        ("C", RollbackPlan(("a",), "\ud800"), False),
        ("C", RollbackPlan(("a\ud7ff\ue000",), "\U0001f600"), True),
    ],
    ids=lambda each: None if isinstance(each, RollbackPlan) else str(each)[:9].encode("ascii", "replace").decode(),
)
def test_a_plan_is_some_steps_a_change_and_a_verification(change_id: str, plan: RollbackPlan, good: bool) -> None:
    if good:
        assert states.planned(opened(), ANN, change_id, plan).change_id == change_id
        return
    with pytest.raises(ApprovalConflict):
        states.planned(opened(), ANN, change_id, plan)


# --- votes -----------------------------------------------------------------------------------------------------------


def test_a_key_of_no_person_is_told_so() -> None:
    for person in (None, " "):
        with pytest.raises(Forbidden, match="belongs to no person"):
            vote(waiting(), replace(BOB, person=person))


def test_without_a_plan_one_can_say_no_and_not_yes() -> None:
    approval = opened()
    with pytest.raises(ApprovalConflict, match="must be recorded"):
        vote(approval, BOB)
    assert vote(approval, BOB, approve=False).state is ApprovalState.REJECTED


@pytest.mark.parametrize("state", [*ENDED, ApprovalState.APPROVED])
def test_what_waits_for_no_vote_takes_none(state: ApprovalState) -> None:
    for approve in (True, False):
        with pytest.raises(ApprovalConflict, match="no longer"):
            vote(replace(waiting(), state=state), BOB, approve)


def test_a_vote_is_kept_as_it_was_given() -> None:
    found = states.voted(waiting(), BOB, digests(waiting()), True, "y" * 5_000, 2_000).votes
    assert [(each.key_id, each.approve, each.reason, each.at_ms) for each in found] == [
        (BOB.key_id, True, "y" * states.MAX_TEXT, 2_000)
    ]


@pytest.mark.parametrize("lost", [{}, {"plan": None}, {"change_id": None}, {"plan": None, "change_id": None}])
def test_wrong_digests_are_a_bypass_whatever_is_known_of_the_plan(lost: dict[str, None]) -> None:
    wrong = Digests("0" * 64, "0" * 64)
    assert states.bypass_of(replace(waiting(), **lost), BOB, wrong, True) == "digest_mismatch"
    assert states.bypass_of(opened(), BOB, wrong, False) == "digest_mismatch"
    assert states.bypass_of(opened(), BOB, wrong, True) is None, "nobody can approve what has no plan"


@pytest.mark.parametrize("state", [*ENDED, ApprovalState.APPROVED])
def test_a_vote_that_comes_too_late_is_no_bypass(state: ApprovalState) -> None:
    for approve in (True, False):
        assert states.bypass_of(replace(waiting(), state=state), BOB, Digests("0" * 64, ""), approve) is None


def test_an_administrators_vote_counts_in_every_team_and_anothers_only_in_its_own() -> None:
    approved = vote(waiting(), BOB)
    moved = replace(BOB, tenant=TenantId("other"))
    assert states.still_counting(approved, {BOB.key_id: moved}).votes == ()
    admin = replace(moved, scopes=moved.scopes | {Scope.ADMIN})
    assert states.still_counting(approved, {BOB.key_id: admin}) is approved


def test_no_vote_lapses_while_every_voter_is_good() -> None:
    approved = vote(waiting(), BOB)
    assert states.still_counting(approved, {BOB.key_id: BOB}) is approved
    odd = replace(approved, votes_required=2)
    assert states.still_counting(odd, {BOB.key_id: BOB}) is odd


def test_a_vote_that_lapses_reopens_only_what_it_granted() -> None:
    approved = vote(waiting(), BOB)
    reopened = states.still_counting(approved, {})
    assert (reopened.state, reopened.votes) == (ApprovalState.PENDING, ())
    both = replace(approved, votes=(*approved.votes, *vote(waiting(), CAROL).votes))
    enough = states.still_counting(both, {CAROL.key_id: CAROL})
    assert (enough.state, [each.key_id for each in enough.votes]) == (ApprovalState.APPROVED, [CAROL.key_id])
    rejected = vote(vote(waiting(Risk.R3), BOB), CAROL, approve=False)
    left = states.still_counting(rejected, {})
    assert (left.state, [each.approve for each in left.votes]) == (ApprovalState.REJECTED, [False])


def test_whoever_has_become_the_requester_approves_no_more() -> None:
    approved = vote(waiting(), BOB)
    own = replace(approved, proposal=replace(approved.proposal, requester_person="BOB"))
    assert states.still_counting(own, {BOB.key_id: BOB}).votes == ()


def test_two_names_of_one_person_are_one_vote() -> None:
    (given,) = vote(waiting(), BOB).votes
    assert states.granted((given, replace(given, person="bob "))) == 1
    assert states.granted((given, replace(given, person="carol"))) == 2
    assert states.granted((given, replace(given, person="carol", approve=False))) == 1


# --- ends, releases, reports -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(ApprovalState))
def test_what_is_open_can_be_cancelled_and_ended_and_nothing_else(state: ApprovalState) -> None:
    approval = replace(waiting(), state=state)
    if state in states.OPEN:
        assert states.cancelled(approval, ANN).state is ApprovalState.CANCELLED
        assert states.expired(approval, BOB).state is ApprovalState.EXPIRED
        return
    with pytest.raises(ApprovalConflict):
        states.cancelled(approval, ANN)
    with pytest.raises(ApprovalConflict):
        states.expired(approval, BOB)


def test_who_may_end_a_request_before_its_time() -> None:
    for scope, good in ((Scope.APPROVE, True), (Scope.ADMIN, True), (Scope.INFERENCE, False)):
        principal = replace(NOBODY, scopes=frozenset({scope}))
        if good:
            assert states.expired(waiting(), principal).state is ApprovalState.EXPIRED
            continue
        with pytest.raises(Forbidden):
            states.expired(waiting(), principal)


@pytest.mark.parametrize("risk", [Risk.R1, Risk.R2, Risk.R3])
def test_one_call_leaves_only_under_what_is_approved_planned_and_voted_for(risk: Risk) -> None:
    found = waiting(risk)
    for voter in (BOB, CAROL)[: found.votes_required]:
        found = vote(found, voter)
    assert states.may_consume(found)
    lacking = [replace(found, plan=None), replace(found, change_id=None), replace(found, change_id="")]
    lacking += [replace(found, state=state) for state in ApprovalState if state is not ApprovalState.APPROVED]
    against = vote(waiting(Risk.R3), CAROL, approve=False).votes
    lacking.append(replace(found, votes=(*found.votes, *against)))
    if found.votes:
        lacking.append(replace(found, votes=found.votes[1:]))
    assert not any(states.may_consume(each) for each in lacking)


def test_who_may_say_what_became_of_a_call() -> None:
    approval = waiting()
    for principal in (ANN, BOB, ROOT, replace(NOBODY, scopes=frozenset({Scope.ADMIN}))):
        states.may_report(principal, approval)
    mate = replace(ANN, key_id=KeyId("key_mate"), scopes=frozenset({Scope.INFERENCE}))
    states.may_report(replace(ANN, scopes=frozenset({Scope.INFERENCE})), approval)
    for principal in (mate, NOBODY, replace(ANN, scopes=frozenset())):
        with pytest.raises(Forbidden):
            states.may_report(principal, approval)
    with pytest.raises(NotFound):
        states.may_report(replace(RIVAL, scopes=frozenset({Scope.APPROVE})), approval)


def test_no_state_leads_back_and_only_an_approved_one_is_consumed() -> None:
    assert states.NEXT.keys() == states.OPEN
    assert all(state not in targets for state, targets in states.NEXT.items())
    assert {state for state, targets in states.NEXT.items() if ApprovalState.CONSUMED in targets} == {
        ApprovalState.APPROVED
    }
    assert all(ApprovalState.NEEDS_PLAN not in targets for targets in states.NEXT.values())
