"""The approval desk: requests for approval, their plans and votes, and the one call that each may release.

The order of every move: decide (pure, `states.py`), write the row without committing, record it in the audit log,
commit. Whoever loses a race records nothing, a record that fails rolls the move back, and no move is visible before
its record is on disk.
"""

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Executable

from deployments.clock import Clock
from deployments.errors import ApprovalConflict, AuditInDoubt, AuditUnavailable, GatehouseError, GateUnavailable
from deployments.gate import aftermath_store, states
from deployments.gate.aftermath import SYSTEM, Aftermath
from deployments.gate.aftermath_store import AftermathStore
from deployments.gate.binding import call_key, plan_digest, subject_digest
from deployments.gate.bodies import body_of
from deployments.gate.display import escaped
from deployments.gate.settings import GateSettings, Running
from deployments.gate.store import ApprovalStore, Stored
from deployments.ports import (
    ActionOutcome,
    Approval,
    ApprovalId,
    ApprovalState,
    Audit,
    AuditEvent,
    Body,
    BodyField,
    CallResult,
    Conclusion,
    Digests,
    GateContext,
    JsonValue,
    Keeps,
    Permit,
    Principal,
    Proposal,
    Risk,
    RollbackOutcome,
    RollbackPlan,
    TenantId,
    keeps_nothing,
)

_log = logging.getLogger("gatehouse.gate")
_ATTEMPTS = 8

_ENDED = {
    ApprovalState.EXPIRED: "approval.expired",
    ApprovalState.STALE: "approval.stale",
    ApprovalState.CANCELLED: "approval.cancelled",
    ApprovalState.REJECTED: "approval.rejected",
}


class ApprovalDesk:
    """Implements `ports.Approvals` over a store and the audit log.

    `policy_digest` is the live policy's; a request that was made under another one becomes STALE when it is met.
    `keeps_arguments` says whose words are kept beside the log; of others it gets digests.
    """

    def __init__(
        self,
        store: ApprovalStore,
        audit: Audit,
        clock: Clock,
        settings: GateSettings,
        policy_digest: str | None = None,
        keeps_arguments: Keeps = keeps_nothing,
    ) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock
        self._settings = settings
        self._policy_digest = policy_digest
        # SQLite has one writer; waiting here is fair and in order, waiting in the database is neither.
        self._turn = asyncio.Lock()
        self._keeps = keeps_arguments
        self._after = Aftermath(
            store, AftermathStore(store.engine), audit, clock, settings, self._turn, keeps_arguments
        )

    async def open(self, rule_set: str, running: Running) -> None:
        """Make the tables, and see to it that the policy and the configuration in force are on record.

        Without the log the desk opens all the same: the records wait for the next sweep.
        """
        await self._store.open()
        await self._after.adopt()
        await self._after.announce(self._policy_digest, rule_set, running)
        try:
            await self._after.flush()
        except AuditUnavailable:
            _log.warning("what has changed is not recorded yet: the audit log does not answer")

    async def sweep(self) -> None:
        """Record what has expired, alert on released calls without a report, and send records that wait."""
        await self._sweep(self._clock.now_ms())
        await self._after.sweep()

    async def propose(self, proposal: Proposal) -> Permit | Approval:
        """Consume the approval that this call has, or open (or find) the request that waits for one."""
        states.votes_required(proposal.risk)
        subject = _subject(proposal)
        for _ in range(_ATTEMPTS):
            async with self._turn:
                found = await self._current(subject, proposal)
                if found is None:
                    opened = await self._open(proposal, subject)
                    if opened is not None:
                        return opened
                elif not states.may_consume(found.approval):
                    return found.approval
                else:
                    permit = await self._consume(found, proposal)
                    if permit is not None:
                        return permit
        raise GateUnavailable("The approval store is too busy.")

    async def list_approvals(self, tenant: TenantId | None, state: ApprovalState | None) -> Sequence[Approval]:
        """Requests, newest first; those whose time is over are recorded as such on the way."""
        now_ms = self._clock.now_ms()
        await self._sweep(now_ms)
        found = [states.as_of(stored.approval, now_ms) for stored in await self._store.listed(tenant)]
        return [approval for approval in found if state is None or approval.state is state]

    async def get(self, tenant: TenantId | None, approval_id: ApprovalId) -> Approval:
        """One request by its id or by the id of its call, or `NotFound`."""
        stored = await self._store.get(approval_id)
        if stored is None or (tenant is not None and stored.approval.proposal.tenant != tenant):
            raise states.not_found()
        return states.as_of(stored.approval, self._clock.now_ms())

    async def plan(self, principal: Principal, approval_id: ApprovalId, change_id: str, plan: RollbackPlan) -> Approval:
        """Record change id and rollback plan. An R1 call needs no more."""
        async with self._turn:
            stored = await self._live(principal, approval_id)
            after = states.planned(stored.approval, principal, change_id, plan)
            if after == stored.approval:
                return after
            events = [self._event(after, "approval.planned", principal.key_id, _plan_fields(after))]
            if after.state is ApprovalState.APPROVED:
                events.append(self._event(after, "approval.granted", principal.key_id, _grant_fields(after)))
            return await self._move(stored, after, events)

    async def vote(
        self, principal: Principal, approval_id: ApprovalId, digests: Digests, approve: bool, reason: str
    ) -> Approval:
        """One human's vote. The last one that is needed grants the call, one reject ends it.

        A refused vote that was an attempt to get around the rules is recorded before it is refused.
        """
        async with self._turn:
            stored = await self._live(principal, approval_id)
            try:
                after = states.voted(stored.approval, principal, digests, approve, reason, self._clock.now_ms())
            except ApprovalConflict as error:
                refused = error
            else:
                return await self._move(stored, after, self._vote_events(after, principal, reason))
        kind = states.bypass_of(stored.approval, principal, digests, approve)
        if kind is not None:
            try:
                await self._after.refused_vote(stored.approval, principal, kind)
            except GatehouseError as error:  # it stays refused either way
                _log.error("no record yet of a vote that was refused (%s): %s", kind, type(error).__name__)
        raise refused

    async def cancel(self, principal: Principal, approval_id: ApprovalId, reason: str) -> Approval:
        """Withdraw a request."""
        async with self._turn:
            stored = await self._live(principal, approval_id)
            after = states.cancelled(stored.approval, principal)
            event = self._event(after, "approval.cancelled", principal.key_id, {}, self._reason(after, reason))
            return await self._move(stored, after, [event])

    async def observe(self, context: GateContext, results: Sequence[CallResult]) -> None:
        """Record what a conversation says of calls, once."""
        await self._after.observe(context, results)

    async def report(
        self, principal: Principal, approval_id: ApprovalId, outcome: ActionOutcome, exit_code: int | None, note: str
    ) -> Conclusion:
        """Say what became of a released call."""
        return await self._after.report(principal, approval_id, outcome, exit_code, note)

    async def rollback(
        self, principal: Principal, approval_id: ApprovalId, outcome: RollbackOutcome, note: str
    ) -> Conclusion:
        """Say how taking a released call back ended."""
        return await self._after.rollback(principal, approval_id, outcome, note)

    async def ready(self) -> bool:
        """True when the store answers."""
        return await self._store.ready()

    # --- moves -------------------------------------------------------------------------------------------------------

    async def _current(self, subject: str, proposal: Proposal) -> Stored | None:
        """The open request for this call, if it may still serve it; one that may not is ended."""
        stored = await self._store.open_for(subject)
        if stored is None:
            return None
        now = states.as_of(stored.approval, self._clock.now_ms())
        if now.state is ApprovalState.EXPIRED:
            await self._end(stored, ApprovalState.EXPIRED)
            return None
        other_policy = now.proposal.fingerprint != proposal.fingerprint
        if other_policy or now.proposal.risk.rank < proposal.risk.rank:
            await self._end(stored, ApprovalState.STALE)
            return None
        return stored

    async def _open(self, proposal: Proposal, subject: str) -> Approval | None:
        now_ms = self._clock.now_ms()
        approval = Approval(
            approval_id=ApprovalId(f"apr_{secrets.token_hex(10)}"),
            state=ApprovalState.NEEDS_PLAN,
            proposal=proposal,
            votes_required=states.votes_required(proposal.risk),
            votes=(),
            change_id=None,
            plan=None,
            created_ms=now_ms,
            expires_ms=now_ms + self._settings.approval_ttl_s * 1000,
        )
        fields: dict[str, JsonValue] = {
            "risk": proposal.risk.value,
            "votes_required": approval.votes_required,
            "requester_key": proposal.requester_key,
            "requester_person": proposal.requester_person,
            "display_digest": proposal.display_digest,
            "policy_digest": proposal.policy_digest,
            "tool": escaped(proposal.tool)[:256],
            "model": escaped(proposal.model)[:256],
            "expires_ms": approval.expires_ms,
            "plan_required": True,
        }
        event = self._event(approval, "approval.requested", proposal.requester_key, fields)
        key = _call_key(proposal)
        held = [aftermath_store.held(approval.approval_id, key, proposal.gate_call_id)] if key else []
        async with self._store.adding(approval, subject, held) as added:
            if added:
                await self._record([event])
        return approval if added else None

    async def _consume(self, stored: Stored, proposal: Proposal) -> Permit | None:
        approval = stored.approval
        if approval.plan is None or approval.change_id is None:
            raise ApprovalConflict("The request has no plan.")
        voters = tuple(vote.person for vote in approval.votes if vote.approve)
        rollback_digest = plan_digest(approval.plan.steps, approval.plan.verify)
        after = replace(approval, state=ApprovalState.CONSUMED)
        fields: dict[str, JsonValue] = {
            "change_id": approval.change_id,
            "rollback_digest": rollback_digest,
            "voters": list(voters),
            "risk": approval.proposal.risk.value,
            "policy_digest": proposal.policy_digest,
        }
        event = self._event(after, "permit.consumed", proposal.requester_key, fields)
        # The call that leaves is the repetition: its ids are those that a report will name.
        consumed = aftermath_store.consumed(
            approval.approval_id, _call_key(proposal), proposal.gate_call_id, self._clock.now_ms()
        )
        if not await self._apply(stored, after, [event], consumed):
            return None
        return Permit(
            approval_id=approval.approval_id,
            action_digest=approval.proposal.action_digest,
            change_id=approval.change_id,
            rollback_digest=rollback_digest,
            voters=voters,
        )

    async def _live(self, principal: Principal, approval_id: ApprovalId) -> Stored:
        """A request that is about to be moved by somebody; expired or stale ones are ended first."""
        stored = await self._store.get(approval_id)
        if stored is None:
            raise states.not_found()
        states.may_see(principal, stored.approval)
        if stored.approval.state not in states.OPEN:
            return stored
        if states.as_of(stored.approval, self._clock.now_ms()).state is ApprovalState.EXPIRED:
            await self._end(stored, ApprovalState.EXPIRED)
            raise ApprovalConflict("The request has expired.")
        if self._policy_digest is not None and stored.approval.proposal.policy_digest != self._policy_digest:
            await self._end(stored, ApprovalState.STALE)
            raise ApprovalConflict("The policy has changed since the call was proposed: it must be proposed again.")
        return stored

    async def _end(self, stored: Stored, state: ApprovalState) -> None:
        """Move to a state in which nothing can be released."""
        after = replace(stored.approval, state=state)
        await self._apply(stored, after, [self._event(after, _ENDED[state], SYSTEM, {})])

    async def _move(self, stored: Stored, after: Approval, events: Sequence[AuditEvent]) -> Approval:
        if after.state is not stored.approval.state and after.state not in states.NEXT[stored.approval.state]:
            raise ApprovalConflict(
                f"A request that is {stored.approval.state.value} cannot become {after.state.value}."
            )
        if not await self._apply(stored, after, events):
            raise ApprovalConflict("The request has just been changed by somebody else: look at it again.")
        return after

    async def _apply(self, stored: Stored, after: Approval, events: Sequence[AuditEvent], *also: Executable) -> bool:
        """Make a move whose records are durable first; False when somebody was faster.

        Without an acknowledgement nothing changes, with one exception. When the log may hold the record of a final
        state, the state stays final: a permit that may be recorded as consumed must not be consumed again, and the log
        would contradict whatever happened next. The caller still gets the error, so nothing is released.
        """
        doubt: AuditInDoubt | None = None
        async with self._store.moving(stored, after, also) as moved:
            if moved:
                try:
                    await self._record(events)
                except AuditInDoubt as error:
                    if after.state in states.OPEN:
                        raise
                    doubt = error
        if doubt is not None:
            raise doubt
        return moved

    async def _sweep(self, now_ms: int) -> None:
        """Record what has expired. Reading goes on without the log: `as_of` shows the truth either way."""
        async with self._turn:
            try:
                for stored in await self._store.due(now_ms):
                    await self._end(stored, ApprovalState.EXPIRED)
            except AuditUnavailable:
                _log.warning("expired requests are not recorded yet: the audit log does not answer")

    # --- records -----------------------------------------------------------------------------------------------------

    async def _record(self, events: Sequence[AuditEvent]) -> None:
        try:
            async with asyncio.timeout(self._settings.audit_timeout_s):
                await self._audit.append(events)
        except TimeoutError:
            raise AuditInDoubt("The audit log did not acknowledge in time; nothing is released.") from None

    def _vote_events(self, after: Approval, principal: Principal, reason: str) -> list[AuditEvent]:
        given = after.votes[-1]
        fields: dict[str, JsonValue] = {
            "voter": given.person,
            "voter_key": given.key_id,
            "approve": given.approve,
            "votes": states.granted(after.votes),
            "votes_required": after.votes_required,
        }
        events = [self._event(after, "approval.voted", principal.key_id, fields, self._reason(after, reason))]
        if after.state is ApprovalState.APPROVED:
            events.append(self._event(after, "approval.granted", principal.key_id, _grant_fields(after)))
        elif after.state is ApprovalState.REJECTED:
            events.append(self._event(after, "approval.rejected", principal.key_id, {}))
        return events

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


def _subject(proposal: Proposal) -> str:
    return subject_digest(proposal.tenant, proposal.requester_key, proposal.session, proposal.tool, proposal.arguments)


def _call_key(proposal: Proposal) -> str:
    """The name of the call in its conversation; empty where the model gave it no id."""
    if not proposal.call_id:
        return ""
    return call_key(proposal.tenant, proposal.requester_key, proposal.session, proposal.call_id)


def _plan_fields(approval: Approval) -> dict[str, JsonValue]:
    if approval.plan is None:
        return {}
    return {
        "change_id": approval.change_id,
        "rollback_digest": plan_digest(approval.plan.steps, approval.plan.verify),
    }


def _grant_fields(approval: Approval) -> dict[str, JsonValue]:
    return {
        **_plan_fields(approval),
        "votes": states.granted(approval.votes),
        "votes_required": approval.votes_required,
        "voters": [vote.person for vote in approval.votes if vote.approve],
        "risk": approval.proposal.risk.value,
        "plan_required": approval.proposal.risk.rank >= Risk.R1.rank,
    }
