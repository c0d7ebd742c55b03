"""What the approval desk writes into the audit log, by the move. No I/O."""

import secrets
from collections.abc import Mapping
from dataclasses import replace

from deployments.clock import Clock
from deployments.gate import states
from deployments.gate.binding import plan_digest
from deployments.gate.bodies import body_of
from deployments.gate.display import escaped
from deployments.ports import (
    Approval,
    ApprovalId,
    ApprovalState,
    AuditEvent,
    Body,
    BodyField,
    JsonValue,
    Keeps,
    KeyId,
    Principal,
    Proposal,
    Risk,
)

SYSTEM = "gatehouse"
"""Who acts when nobody does."""
MAX_TEXT = 256
"""Characters of a name that a record takes, once it is escaped."""

_ENDED = {
    ApprovalState.EXPIRED: "approval.expired",
    ApprovalState.STALE: "approval.stale",
    ApprovalState.CANCELLED: "approval.cancelled",
    ApprovalState.REJECTED: "approval.rejected",
}


def consumption_of(approval_id: ApprovalId) -> str:
    """The id of the one event in which an approval is consumed: the log itself holds it at most once."""
    return f"{approval_id}.permit.consumed"


class ApprovalRecords:
    """Makes the events. `keeps` says whose words are kept beside the log; of others it gets digests."""

    def __init__(self, clock: Clock, keeps: Keeps) -> None:
        self._clock = clock
        self._keeps = keeps

    def requested(self, approval: Approval) -> AuditEvent:
        """A call needs a plan or votes."""
        proposal = approval.proposal
        fields: dict[str, JsonValue] = {
            "risk": proposal.risk.value,
            "votes_required": approval.votes_required,
            "roles": list(proposal.approver_roles) or None,
            "requester_key": proposal.requester_key,
            "requester_person": proposal.requester_person,
            "display_digest": proposal.display_digest,
            "policy_digest": proposal.policy_digest,
            "tool": escaped(proposal.tool)[:MAX_TEXT],
            "model": escaped(proposal.model)[:MAX_TEXT],
            "expires_ms": approval.expires_ms,
            "plan_required": True,
        }
        return self._event(approval, "approval.requested", proposal.requester_key, fields)

    def planned(self, after: Approval, principal: Principal) -> list[AuditEvent]:
        """Change id and plan are there; for R1 that grants the call."""
        fields = {**_of_plan(after), "display_digest": after.proposal.display_digest}
        events = [self._event(after, "approval.planned", principal.key_id, fields)]
        if after.state is ApprovalState.APPROVED:
            events.append(self._granted(after, principal))
        return events

    def voted(self, after: Approval, principal: Principal, reason: str) -> list[AuditEvent]:
        """The newest vote, and what it brought about."""
        given = after.votes[-1]
        fields: dict[str, JsonValue] = {
            "voter": given.person,
            "voter_key": given.key_id,
            "approve": given.approve,
            "votes": states.granted(after.votes),
            "votes_required": after.votes_required,
            "display_digest": after.proposal.display_digest,
        }
        events = [self._event(after, "approval.voted", principal.key_id, fields, self._reason(after, reason))]
        if after.state is ApprovalState.APPROVED:
            events.append(self._granted(after, principal))
        elif after.state is ApprovalState.REJECTED:
            events.append(self._event(after, "approval.rejected", principal.key_id, {}))
        return events

    def reopened(self, after: Approval) -> AuditEvent:
        """Votes that were counted on count no more; `voters` are those who are left."""
        fields: dict[str, JsonValue] = {
            "votes": states.granted(after.votes),
            "votes_required": after.votes_required,
            "voters": [vote.person for vote in after.votes if vote.approve],
        }
        return self._event(after, "approval.reopened", SYSTEM, fields)

    def ended(self, after: Approval, principal: Principal | None = None, reason: str | None = None) -> AuditEvent:
        """It has ended without a release; by itself, or by somebody who may have said why."""
        by = SYSTEM if principal is None else principal.key_id
        bodies = {} if reason is None else self._reason(after, reason)
        return self._event(after, _ENDED[after.state], by, {}, bodies)

    def consumed(self, after: Approval, requester: KeyId, leaving: Proposal) -> AuditEvent:
        """The one call that was approved may leave."""
        fields: dict[str, JsonValue] = {
            **_of_plan(after),
            "voters": [vote.person for vote in after.votes if vote.approve],
            "risk": after.proposal.risk.value,
            "policy_digest": leaving.policy_digest,
        }
        event = self._event(after, "permit.consumed", requester, fields)
        return replace(event, event_id=consumption_of(after.approval_id))

    def _granted(self, approval: Approval, principal: Principal) -> AuditEvent:
        fields: dict[str, JsonValue] = {
            **_of_plan(approval),
            "votes": states.granted(approval.votes),
            "votes_required": approval.votes_required,
            "voters": [vote.person for vote in approval.votes if vote.approve],
            "risk": approval.proposal.risk.value,
            "plan_required": approval.proposal.risk.rank >= Risk.R1.rank,
        }
        return self._event(approval, "approval.granted", principal.key_id, fields)

    def _reason(self, approval: Approval, reason: str) -> dict[BodyField, Body]:
        return {BodyField.REASON: body_of(reason, approval.proposal.tenant, self._keeps)}

    def _event(
        self,
        approval: Approval,
        name: str,
        principal: str,
        data: Mapping[str, JsonValue],
        bodies: Mapping[BodyField, Body] | None = None,
    ) -> AuditEvent:
        proposal = approval.proposal
        return AuditEvent(
            event_id=f"{approval.approval_id}.{name}.{secrets.token_hex(6)}",
            name=name,
            at_ms=self._clock.now_ms(),
            tenant=proposal.tenant,
            principal=principal,
            request_id=proposal.request_id,
            session=proposal.session,
            data={
                "approval_id": approval.approval_id,
                "action_digest": proposal.action_digest,
                "gate_call_id": proposal.gate_call_id,
                "fingerprint": proposal.fingerprint,
                "state": approval.state.value,
                **data,
            },
            bodies=bodies or {},
        )


def _of_plan(approval: Approval) -> dict[str, JsonValue]:
    if approval.plan is None:
        return {}
    return {
        "change_id": approval.change_id,
        "rollback_digest": plan_digest(approval.plan.steps, approval.plan.verify),
    }
