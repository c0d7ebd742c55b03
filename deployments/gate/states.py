"""The states of an approval and who may move it where: decisions without I/O.

```
NEEDS_PLAN -> PENDING | APPROVED (R1) | REJECTED | EXPIRED | CANCELLED | STALE
PENDING    -> APPROVED (enough votes) | REJECTED | EXPIRED | CANCELLED | STALE
APPROVED   -> CONSUMED (once) | PENDING (a vote counts no more) | EXPIRED | CANCELLED | STALE
```
The others are terminal and stay so. No state is ever entered because something failed or took too long, except those
in which nothing can be released.
"""

from collections.abc import Mapping
from dataclasses import replace

from deployments.errors import ApprovalConflict, Forbidden, NotFound
from deployments.gate import display
from deployments.gate.people import doubtful, folded, outline, same_person
from deployments.ports import (
    Approval,
    ApprovalState,
    Digests,
    KeyId,
    Principal,
    Risk,
    RollbackPlan,
    Scope,
    TenantId,
    Vote,
)

OPEN = frozenset({ApprovalState.NEEDS_PLAN, ApprovalState.PENDING, ApprovalState.APPROVED})
NEXT: dict[ApprovalState, frozenset[ApprovalState]] = {
    ApprovalState.NEEDS_PLAN: frozenset(ApprovalState) - {ApprovalState.NEEDS_PLAN, ApprovalState.CONSUMED},
    ApprovalState.PENDING: frozenset(ApprovalState)
    - {ApprovalState.NEEDS_PLAN, ApprovalState.PENDING, ApprovalState.CONSUMED},
    ApprovalState.APPROVED: frozenset(
        {
            ApprovalState.CONSUMED,
            ApprovalState.PENDING,
            ApprovalState.EXPIRED,
            ApprovalState.CANCELLED,
            ApprovalState.STALE,
        }
    ),
}
MAX_CHANGE_ID = 128
MAX_STEPS = 50
MAX_TEXT = 4_000


def votes_required(risk: Risk) -> int:
    """How many distinct humans must approve: none for R1 (a plan suffices), one for R2, two for R3."""
    match risk:
        case Risk.R1:
            return 0
        case Risk.R2:
            return 1
        case Risk.R3:
            return 2
        case Risk.R0 | Risk.FORBIDDEN:
            raise ApprovalConflict(f"A call of class {risk.value} is not a matter of approval.")


def as_of(approval: Approval, now_ms: int) -> Approval:
    """The approval as it stands at `now_ms`: past its expiry an open one is expired, whether written down or not."""
    if approval.state in OPEN and now_ms >= approval.expires_ms:
        return replace(approval, state=ApprovalState.EXPIRED)
    return approval


def may_see(principal: Principal, approval: Approval) -> None:
    """Raise `NotFound` for another tenant's approval, unless the key administers all of them."""
    if Scope.ADMIN not in principal.scopes and principal.tenant != approval.proposal.tenant:
        raise not_found()


def visible_tenant(principal: Principal) -> TenantId | None:
    """The tenant whose approvals the key sees; None for all."""
    return None if Scope.ADMIN in principal.scopes else principal.tenant


def not_found() -> NotFound:
    """The one answer for an approval that does not exist and for one of another tenant."""
    return NotFound("There is no such approval.")


def planned(approval: Approval, principal: Principal, change_id: str, plan: RollbackPlan) -> Approval:
    """The approval with its plan. The same plan again changes nothing; another one is a conflict: there is no edit.

    The plan is part of what votes sign: what is shown grows by it, and has another digest from then on.
    """
    may_see(principal, approval)
    if not principal.scopes & {Scope.INFERENCE, Scope.APPROVE, Scope.ADMIN}:
        raise Forbidden("This key may not plan calls.")
    if approval.change_id == change_id and approval.plan == plan and approval.state in OPEN:
        return approval
    if approval.state is not ApprovalState.NEEDS_PLAN:
        raise ApprovalConflict(f"A plan can no longer be recorded: the request is {approval.state.value}.")
    _check_plan(change_id, plan)
    state = ApprovalState.APPROVED if approval.votes_required == 0 else ApprovalState.PENDING
    shown = display.planned(approval.proposal.display, change_id, plan)
    proposal = replace(approval.proposal, display=shown.text, display_digest=shown.digest)
    return replace(approval, state=state, change_id=change_id, plan=plan, proposal=proposal)


def voted(
    approval: Approval, principal: Principal, digests: Digests, approve: bool, reason: str, now_ms: int
) -> Approval:
    """The approval after one vote, or why the vote may not count.

    1. The key may approve and belongs to a person. 2. It sees this approval, and has a role that may approve it; to
    reject takes none, because saying no opens nothing. 3. The request waits for votes. 4. The voter saw exactly this
    call. 5. The voter is neither the requester nor somebody who has voted.
    """
    # 1
    if Scope.APPROVE not in principal.scopes:
        raise Forbidden(f"This key does not have the scope '{Scope.APPROVE.value}'.")
    person = folded(principal.person)
    if person is None:
        raise Forbidden("This key belongs to no person, so it cannot approve.")
    problem = doubtful(person)
    if problem is not None:
        raise Forbidden(f"This key cannot approve: {problem}.")
    # 2
    may_see(principal, approval)
    if approve and not _has_role(principal, approval):
        needed = ", ".join(approval.proposal.approver_roles)
        raise Forbidden(f"Approving this call takes one of the roles {needed}; this key has none of them.")
    # 3
    if approval.state is ApprovalState.NEEDS_PLAN and approve:
        raise ApprovalConflict("A change id and a rollback plan must be recorded before anybody can approve.")
    if approval.state not in {ApprovalState.PENDING, ApprovalState.NEEDS_PLAN}:
        raise ApprovalConflict(f"The request can no longer be voted on: it is {approval.state.value}.")
    # 4
    proposal = approval.proposal
    if digests != Digests(proposal.action_digest, proposal.display_digest):
        raise ApprovalConflict("The vote names other digests than this call has: look at it again.")
    # 5
    if _requested(principal, approval):
        raise ApprovalConflict("Whoever requested a call cannot vote on it: a second person must.")
    if any(same_person(person, vote.person) or vote.key_id == principal.key_id for vote in approval.votes):
        raise ApprovalConflict("This person or key has voted already: another person must vote.")
    votes = (*approval.votes, Vote(person, principal.key_id, approve, reason[:MAX_TEXT], now_ms))
    if not approve:
        return replace(approval, votes=votes, state=ApprovalState.REJECTED)
    enough = granted(votes) >= approval.votes_required
    return replace(approval, votes=votes, state=ApprovalState.APPROVED if enough else ApprovalState.PENDING)


def bypass_of(approval: Approval, principal: Principal, digests: Digests, approve: bool) -> str | None:
    """What a refused vote tried to get around, in the words of the audit record; None for a plain mistake.

    Only what `voted` refuses in its steps 4 and 5 counts: before them, the vote was of nobody who could have voted. Who
    saw the request before its plan was recorded made a plain mistake.
    """
    waits = approval.state is ApprovalState.PENDING or (approval.state is ApprovalState.NEEDS_PLAN and not approve)
    if Scope.APPROVE not in principal.scopes or folded(principal.person) is None or not waits:
        return None
    proposal = approval.proposal
    if digests not in {Digests(proposal.action_digest, proposal.display_digest), _before_plan(approval)}:
        return "digest_mismatch"
    return "self_approval" if _requested(principal, approval) and approve else None


def _requested(principal: Principal, approval: Approval) -> bool:
    """True for the requester, by key or by person."""
    proposal = approval.proposal
    return principal.key_id == proposal.requester_key or same_person(principal.person, proposal.requester_person)


def _has_role(principal: Principal, approval: Approval) -> bool:
    needed = approval.proposal.approver_roles
    return not needed or bool(principal.roles & set(needed))


def _before_plan(approval: Approval) -> Digests | None:
    """What a voter had seen who looked before the plan was recorded."""
    if approval.plan is None or approval.change_id is None:
        return None
    shown = display.unplanned(approval.proposal.display, approval.change_id, approval.plan)
    return Digests(approval.proposal.action_digest, shown.digest)


def still_counting(approval: Approval, holders: Mapping[KeyId, Principal]) -> Approval:
    """The approval without the votes that count no more, waiting for others when too few are left.

    `holders` are the principals of the voters' keys that are good and free at this moment. A vote counts as long as its
    key is one of them, still approves, still sees the request, still belongs to the person who voted, and still has a
    role that the request asks for.
    """
    votes = tuple(vote for vote in approval.votes if not vote.approve or _counts(vote, approval, holders))
    if votes == approval.votes:
        return approval
    enough = granted(votes) >= approval.votes_required
    state = approval.state if enough or approval.state is not ApprovalState.APPROVED else ApprovalState.PENDING
    return replace(approval, votes=votes, state=state)


def _counts(vote: Vote, approval: Approval, holders: Mapping[KeyId, Principal]) -> bool:
    holder = holders.get(vote.key_id)
    return (
        holder is not None
        and Scope.APPROVE in holder.scopes
        and (Scope.ADMIN in holder.scopes or holder.tenant == approval.proposal.tenant)
        and same_person(holder.person, vote.person)
        and not _requested(holder, approval)
        and _has_role(holder, approval)
    )


def may_report(principal: Principal, approval: Approval) -> None:
    """Raise unless the key may say what became of the call: it requested it, or approves calls, or administers."""
    may_see(principal, approval)
    requested = principal.key_id == approval.proposal.requester_key and Scope.INFERENCE in principal.scopes
    if not (requested or principal.scopes & {Scope.APPROVE, Scope.ADMIN}):
        raise Forbidden("This key may not report on the call: it neither requested it nor approves calls.")


def granted(votes: tuple[Vote, ...]) -> int:
    """Distinct humans who approved."""
    return len({outline(vote.person) for vote in votes if vote.approve})


def cancelled(approval: Approval, principal: Principal) -> Approval:
    """The approval, withdrawn by its tenant or an administrator."""
    may_see(principal, approval)
    if not principal.scopes & {Scope.INFERENCE, Scope.APPROVE, Scope.ADMIN}:
        raise Forbidden("This key may not cancel requests.")
    if approval.state not in OPEN:
        raise ApprovalConflict(f"The request can no longer be cancelled: it is {approval.state.value}.")
    return replace(approval, state=ApprovalState.CANCELLED)


def expired(approval: Approval, principal: Principal) -> Approval:
    """The approval, ended before its time by whoever approves or administers."""
    may_see(principal, approval)
    if not principal.scopes & {Scope.APPROVE, Scope.ADMIN}:
        raise Forbidden("This key may not end requests: it neither approves calls nor administers.")
    if approval.state not in OPEN:
        raise ApprovalConflict(f"The request has ended already: it is {approval.state.value}.")
    return replace(approval, state=ApprovalState.EXPIRED)


def may_consume(approval: Approval) -> bool:
    """True when one call may leave under this approval: approved, planned, and with votes that really suffice."""
    return (
        approval.state is ApprovalState.APPROVED
        and bool(approval.change_id)
        and approval.plan is not None
        and granted(approval.votes) >= votes_required(approval.proposal.risk)
        and all(vote.approve for vote in approval.votes)
    )


def _check_plan(change_id: str, plan: RollbackPlan) -> None:
    if not change_id.strip() or len(change_id) > MAX_CHANGE_ID:
        raise ApprovalConflict("A change id is needed, of at most 128 characters.")
    if not plan.steps or len(plan.steps) > MAX_STEPS or not all(step.strip() for step in plan.steps):
        raise ApprovalConflict("A rollback plan needs 1 to 50 steps, none of them empty.")
    if not plan.verify.strip():
        raise ApprovalConflict("A rollback plan must say how to verify that it worked.")
    if any("\ud800" <= char <= "\udfff" for text in (change_id, *plan.steps, plan.verify) for char in text):
        raise ApprovalConflict("A plan is text, and half a surrogate pair is none.")
    if any(len(text) > MAX_TEXT for text in (*plan.steps, plan.verify)):
        raise ApprovalConflict(f"A rollback plan holds a text of more than {MAX_TEXT} characters.")
