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
from deployments.errors import (
    ApprovalConflict,
    AuditUnavailable,
    Forbidden,
    GatehouseError,
    GateUnavailable,
)
from deployments.gate import aftermath_store, display, permit_rows, states
from deployments.gate.advising import AdviceBook
from deployments.gate.aftermath import Aftermath
from deployments.gate.aftermath_store import AftermathStore
from deployments.gate.announcing import announce_others
from deployments.gate.approval_records import ApprovalRecords, consumption_of
from deployments.gate.binding import call_key, plan_digest, subject_digest
from deployments.gate.freezer import Freezer
from deployments.gate.health import queue_health
from deployments.gate.holders import AskHolders, Holders
from deployments.gate.live import CHANGED, MOVED, NOBODY_SAYS, Heard, LivePolicies, LivePolicy, Standing
from deployments.gate.moves import Moves
from deployments.gate.notices import Outbox
from deployments.gate.settings import GateSettings, Running
from deployments.gate.store import ApprovalStore, Stored
from deployments.ports import (
    ActionOutcome,
    Advice,
    Approval,
    ApprovalId,
    ApprovalState,
    Audit,
    AuditEvent,
    CallResult,
    Conclusion,
    Digests,
    Frozen,
    GateContext,
    JsonValue,
    Keeps,
    KeyId,
    Permit,
    Principal,
    Proposal,
    QueueHealth,
    Risk,
    RollbackOutcome,
    RollbackPlan,
    TenantId,
    keeps_nothing,
)

_log = logging.getLogger("gatehouse.gate")
_ATTEMPTS = 8
_CANARIES_KEPT_MS = 3_600_000


class ApprovalDesk:
    """Implements `ports.Approvals` over a store and the audit log.

    `policy_digest` is the live policy's, `tenant_digests` those of tenants that have names of their own in it, and
    `approvers` the roles that it wants for a class; `policies` says all that in their place, also of two live ones. A
    request that was made under another policy than judges its session now becomes STALE when it is met.
    `keeps_arguments` says whose words are kept beside the log; of others it gets digests. `holders` tells whom the keys
    of voters belong to now.
    """

    def __init__(
        self,
        store: ApprovalStore,
        audit: Audit,
        clock: Clock,
        settings: GateSettings,
        policy_digest: str | None = None,
        keeps_arguments: Keeps = keeps_nothing,
        *,
        holders: AskHolders,
        approvers: Mapping[Risk, tuple[str, ...]] | None = None,
        tenant_digests: Mapping[str, str] | None = None,
        policies: LivePolicies | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        if policies is None:
            only = None if policy_digest is None else LivePolicy(policy_digest, tenants=tenant_digests or {})
            policies = LivePolicies(only, clock=clock)
        self._policies = policies
        # SQLite has one writer; waiting here is fair and in order, waiting in the database is neither.
        self._turn = asyncio.Lock()
        self._approvers = approvers
        self._records = ApprovalRecords(clock, keeps_arguments)
        self._holders = Holders(holders, settings.ledger_timeout_s)
        self._outbox = Outbox(store.engine, settings.notices)
        self._moves = Moves(store, audit, self._outbox, clock, settings.audit_timeout_s)
        self._rows = AftermathStore(store.engine, self._outbox.of)
        self._after = Aftermath(store, self._rows, audit, clock, settings, self._turn, keeps_arguments)
        self._freezer = Freezer(store.engine, self._after.say, self._holders, clock, keeps_arguments)
        self._advice = AdviceBook(store.engine, self._after.say, clock, keeps_arguments)

    @property
    def freezer(self) -> Freezer:
        """Who is frozen."""
        return self._freezer

    @property
    def outbox(self) -> Outbox:
        """The messages that the desk wants to be sent."""
        return self._outbox

    async def open(self, rule_set: str, running: Running) -> None:
        """Make the tables, and see to it that the policy and the configuration in force are on record.

        Without the log the desk opens all the same: the records wait for the next sweep.
        """
        await self._store.open()
        await self._after.adopt()
        live = self._policies.all
        await self._after.announce(live[0].digest if live else None, rule_set, running)
        try:
            await self._after.flush()
        except AuditUnavailable:
            _log.warning("what has changed is not recorded yet: the audit log does not answer")
        await announce_others(live, self._after, running)

    async def sweep(self) -> None:
        """Record what has expired, alert on released calls without a report, and send records that wait."""
        now_ms = self._clock.now_ms()
        await self._sweep(now_ms)
        await self._sweep_moved()
        await self._store.forget_canaries(now_ms - _CANARIES_KEPT_MS)
        await self._after.sweep()

    async def propose(self, proposal: Proposal) -> Permit | Approval:
        """Consume the approval that this call has, or open (or find) the request that waits for one.

        `Forbidden` for a frozen key. `GateUnavailable` also when nobody can say whether the votes still count, or
        whether the policy still judges the session.
        """
        states.votes_required(proposal.risk)
        subject = _subject(proposal)
        for _ in range(_ATTEMPTS):
            heard = await self._policies.hear()
            async with self._turn:
                await self._freezer.check(proposal.requester_key)
                found = await self._current(subject, proposal, heard)
                if found is None:
                    opened = await self._open(proposal, subject, heard)
                    if opened is not None:
                        return opened
                    continue
            if not states.may_consume(found.approval):
                return found.approval
            # Nobody else waits for the ledger. Whatever moves the request meanwhile makes the move below fail.
            holders = await self._counting(found.approval)
            spent = await self._moves.recorded(consumption_of(found.approval.approval_id))
            heard = await self._policies.hear()
            async with self._turn:
                if not spent and heard.standing_of(found.approval.proposal) is not Standing.LIVE:
                    continue  # a rollout may have moved the session meanwhile: the next look decides
                answer = await self._consume(found, proposal, holders, spent)
                if answer is not None:
                    return answer
        raise GateUnavailable("The approval store is too busy.")

    async def list_approvals(self, tenant: TenantId | None, state: ApprovalState | None) -> Sequence[Approval]:
        """Requests, newest first; those whose time is over are recorded as such on the way."""
        now_ms = self._clock.now_ms()
        await self._sweep(now_ms)
        return [states.as_of(stored.approval, now_ms) for stored in await self._store.listed(tenant, state, now_ms)]

    async def get(self, tenant: TenantId | None, approval_id: ApprovalId) -> Approval:
        """One request by its id or by the id of its call, or `NotFound`."""
        stored = await self._store.get(approval_id)
        if stored is None or (tenant is not None and stored.approval.proposal.tenant != tenant):
            raise states.not_found()
        return states.as_of(stored.approval, self._clock.now_ms())

    async def plan(self, principal: Principal, approval_id: ApprovalId, change_id: str, plan: RollbackPlan) -> Approval:
        """Record change id and rollback plan. An R1 call needs no more."""
        heard = await self._policies.hear()
        async with self._turn:
            await self._freezer.check(principal.key_id)
            stored = await self._live(principal, approval_id, heard)
            after = states.planned(stored.approval, principal, change_id, plan)
            if after == stored.approval:
                return after
            return await self._move(stored, after, self._records.planned(after, principal))

    async def vote(
        self, principal: Principal, approval_id: ApprovalId, digests: Digests, approve: bool, reason: str
    ) -> Approval:
        """One human's vote. The last one that is needed grants the call, one reject ends it.

        A refused vote that was an attempt to get around the rules is recorded before it is refused.
        """
        kind: str | None
        heard = await self._policies.hear()
        async with self._turn:
            stored = await self._live(principal, approval_id, heard)
            try:
                after = states.voted(stored.approval, principal, digests, approve, reason, self._clock.now_ms())
                await self._freezer.check(principal.key_id)
            except ApprovalConflict as error:
                refused: GatehouseError = error
                kind = states.bypass_of(stored.approval, principal, digests, approve)
            except Forbidden as error:
                refused = error
                kind = "frozen_principal" if await self._freezer.is_frozen(principal.key_id) else None
            else:
                return await self._move(stored, after, self._records.voted(after, principal, reason))
        if kind is not None:
            try:
                await self._after.refused_vote(stored.approval, principal, kind)
            except GatehouseError as error:  # it stays refused either way
                _log.error("no record yet of a vote that was refused (%s): %s", kind, type(error).__name__)
        raise refused

    async def cancel(self, principal: Principal, approval_id: ApprovalId, reason: str) -> Approval:
        """Withdraw a request."""
        heard = await self._policies.hear()
        async with self._turn:
            stored = await self._live(principal, approval_id, heard)
            after = states.cancelled(stored.approval, principal)
            return await self._move(stored, after, [self._records.ended(after, principal, reason)])

    async def expire(self, principal: Principal, approval_id: ApprovalId, reason: str) -> Approval:
        """End a request now, as if its time were over."""
        heard = await self._policies.hear()
        async with self._turn:
            stored = await self._live(principal, approval_id, heard)
            after = states.expired(stored.approval, principal)
            return await self._move(stored, after, [self._records.ended(after, principal, reason)])

    async def advise(self, approval_id: ApprovalId, advice: Advice) -> None:
        """Put a model's review beside an open request; a later one takes its place."""
        approval = await self.get(None, approval_id)
        if approval.state not in states.OPEN:
            raise ApprovalConflict(f"A review comes too late: the request is {approval.state.value}.")
        await self._advice.put(approval, advice)

    async def advice(self, tenant: TenantId | None, approval_id: ApprovalId) -> Advice | None:
        """The newest review of a request, or `NotFound` for a request of somebody else."""
        return await self._advice.get((await self.get(tenant, approval_id)).approval_id)

    async def frozen(self) -> Sequence[Frozen]:
        """Every key whose tool calls do not leave, the newest first."""
        return await self._freezer.frozen()

    async def freeze(self, principal: Principal, key_id: KeyId, reason: str) -> Frozen:
        """Let none of a key's tool calls leave from now on."""
        return await self._freezer.freeze(principal, key_id, reason)

    async def unfreeze(self, principal: Principal, key_id: KeyId, change_id: str, reason: str) -> None:
        """Let a key's tool calls leave again."""
        await self._freezer.unfreeze(principal, key_id, change_id, reason)

    async def say(self, event: AuditEvent, *changes: Executable) -> bool:
        """Make changes with their record, on disk when this returns; False, and neither, when it was said."""
        return await self._after.say(event, *changes)

    async def say_again(self, prefix: str) -> None:
        """Offer the log once more the records of these event ids that it has not acknowledged."""
        await self._after.say_again(prefix)

    async def bypass(self, principal: Principal, kind: str, fields: Mapping[str, JsonValue], event_id: str) -> None:
        """Record an attempt of a key to get around a control, with incident, message, and freezing by policy.

        An event id is recorded once, with all that follows. Never raises `GatehouseError`: what was attempted stays
        refused, whether or not it is on record yet.
        """
        try:
            await self._after.bypass(principal, kind, fields, event_id)
        except GatehouseError as error:
            _log.error("no record yet of an attempt to bypass the gate (%s): %s", kind, type(error).__name__)

    async def health(self) -> QueueHealth:
        """How the queue stands, over all tenants."""
        return await queue_health(
            self._store, self._rows, self._freezer, self._outbox, self._settings, self._clock.now_ms()
        )

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

    async def _current(self, subject: str, proposal: Proposal, heard: Heard) -> Stored | None:
        """The open request for this call, if it may still serve it; one that may not is ended.

        `GateUnavailable` for one that could be consumed, if only somebody said that its policy judges the session.
        """
        stored = await self._store.open_for(subject)
        if stored is None:
            return None
        now = states.as_of(stored.approval, self._clock.now_ms())
        if now.state is ApprovalState.EXPIRED:
            await self._end(stored, ApprovalState.EXPIRED)
            return None
        other_policy = now.proposal.fingerprint != proposal.fingerprint
        standing = heard.standing_of(now.proposal)
        # Also where a replica that has not got the new policy yet would consume what was approved under the old one.
        outdated = states.may_consume(now) and standing.outdated
        if other_policy or outdated or now.proposal.risk.rank < proposal.risk.rank:
            await self._end(stored, ApprovalState.STALE)
            return None
        if states.may_consume(now) and standing is Standing.UNKNOWN:
            raise GateUnavailable(NOBODY_SAYS)
        return stored

    async def _open(self, proposal: Proposal, subject: str, heard: Heard) -> Approval | None:
        now_ms = self._clock.now_ms()
        approval_id = ApprovalId(f"apr_{secrets.token_hex(10)}")
        expires_ms = now_ms + self._settings.approval_ttl_s * 1000
        votes = states.votes_required(proposal.risk)
        approvers = heard.approvers(proposal) if self._approvers is None else self._approvers
        roles = approvers.get(proposal.risk, proposal.approver_roles)
        shown = display.requested(proposal.display, approval_id, votes, roles, expires_ms)
        approval = Approval(
            approval_id=approval_id,
            state=ApprovalState.NEEDS_PLAN,
            proposal=replace(proposal, display=shown.text, display_digest=shown.digest, approver_roles=roles),
            votes_required=votes,
            votes=(),
            change_id=None,
            plan=None,
            created_ms=now_ms,
            expires_ms=expires_ms,
        )
        event = self._records.requested(approval)
        key = _call_key(proposal)
        also = [aftermath_store.held(approval_id, key, proposal.gate_call_id)] if key else []
        return approval if await self._moves.open(approval, subject, [event], also) else None

    async def _counting(self, approval: Approval) -> Mapping[KeyId, Principal]:
        """The voters whose votes may still count: their keys are good at this moment, and not frozen."""
        found = await self._holders.of([vote.key_id for vote in approval.votes])
        frozen = await self._freezer.which(found.keys())
        return {key_id: principal for key_id, principal in found.items() if key_id not in frozen}

    async def _consume(
        self, stored: Stored, proposal: Proposal, holders: Mapping[KeyId, Principal], spent: bool
    ) -> Permit | Approval | None:
        """The permit; the request again when votes have lapsed; None when somebody was faster, or it is `spent`."""
        now_ms = self._clock.now_ms()
        await self._freezer.check(proposal.requester_key)
        approval = states.still_counting(states.as_of(stored.approval, now_ms), holders)
        if approval.state is ApprovalState.PENDING:
            moved = await self._moves.make(stored, approval, [self._records.reopened(approval)])
            return approval if moved else None
        if not states.may_consume(approval) or approval.plan is None or approval.change_id is None:
            return None
        after = replace(approval, state=ApprovalState.CONSUMED)
        # The call that leaves is the repetition: its ids are those that a report will name.
        leaving = aftermath_store.consumed(approval.approval_id, _call_key(proposal), proposal.gate_call_id, now_ms)
        if spent:  # what the log has is final; whether the call has left nobody knows
            await self._moves.make(stored, after, [], leaving)
            return None
        event = self._records.consumed(after, proposal.requester_key, proposal)
        claimable = permit_rows.released(approval, proposal, now_ms)
        if not await self._moves.make(stored, after, [event], leaving, last=claimable):
            return None
        return Permit(
            approval_id=approval.approval_id,
            action_digest=approval.proposal.action_digest,
            change_id=approval.change_id,
            rollback_digest=plan_digest(approval.plan.steps, approval.plan.verify),
            voters=tuple(vote.person for vote in approval.votes if vote.approve),
        )

    async def _live(self, principal: Principal, approval_id: ApprovalId, heard: Heard) -> Stored:
        """A request that is about to be moved by somebody; expired or stale ones are ended first.

        While nobody says whether its policy judges its session it may be moved: to let its call leave is another step.
        """
        stored = await self._store.get(approval_id)
        if stored is None:
            raise states.not_found()
        states.may_see(principal, stored.approval)
        if stored.approval.state not in states.OPEN:
            return stored
        if states.as_of(stored.approval, self._clock.now_ms()).state is ApprovalState.EXPIRED:
            await self._end(stored, ApprovalState.EXPIRED)
            raise ApprovalConflict("The request has expired.")
        standing = heard.standing_of(stored.approval.proposal)
        if standing.outdated:
            await self._end(stored, ApprovalState.STALE)
            raise ApprovalConflict(MOVED if standing is Standing.MOVED else CHANGED)
        return stored

    async def _end(self, stored: Stored, state: ApprovalState) -> None:
        """Move to a state in which nothing can be released."""
        after = replace(stored.approval, state=state)
        await self._moves.make(stored, after, [self._records.ended(after)])

    async def _move(self, stored: Stored, after: Approval, events: Sequence[AuditEvent]) -> Approval:
        if after.state is not stored.approval.state and after.state not in states.NEXT[stored.approval.state]:
            raise ApprovalConflict(
                f"A request that is {stored.approval.state.value} cannot become {after.state.value}."
            )
        if not await self._moves.make(stored, after, events):
            raise ApprovalConflict("The request has just been changed by somebody else: look at it again.")
        return after

    async def _sweep_moved(self) -> None:
        """End what a rollout of the policy has left behind, so that nobody looks at what can release nothing.

        What was made under a policy that is none of the live ones is left alone: another replica may begin with it.
        """
        heard = await self._policies.hear()
        if heard.candidate is None:
            return
        async with self._turn:
            try:
                for stored in await self._store.open_ones():
                    if heard.standing_of(stored.approval.proposal) is Standing.MOVED:
                        await self._end(stored, ApprovalState.STALE)
            except AuditUnavailable:
                _log.warning("requests that a rollout has left behind are not recorded yet: the log does not answer")

    async def _sweep(self, now_ms: int) -> None:
        """Record what has expired. Reading goes on without the log: `as_of` shows the truth either way."""
        async with self._turn:
            try:
                for stored in await self._store.due(now_ms):
                    await self._end(stored, ApprovalState.EXPIRED)
            except AuditUnavailable:
                _log.warning("expired requests are not recorded yet: the audit log does not answer")


def _subject(proposal: Proposal) -> str:
    return subject_digest(proposal.tenant, proposal.requester_key, proposal.session, proposal.tool, proposal.arguments)


def _call_key(proposal: Proposal) -> str:
    """The name of the call in its conversation; empty where the model gave it no id."""
    if not proposal.call_id:
        return ""
    return call_key(proposal.tenant, proposal.requester_key, proposal.session, proposal.call_id)
