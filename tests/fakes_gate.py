"""`ScriptedGate` and `InMemoryApprovals`: the gate's two ports without a policy, a store or an audit log."""

from collections.abc import Sequence
from dataclasses import replace

from deployments.clock import Clock, FixedClock
from deployments.errors import ApprovalConflict, Forbidden, GateUnavailable, NotFound
from deployments.gate import states
from deployments.gate.binding import plan_digest
from deployments.gate.display import requested
from deployments.gate.freezer import FROZEN
from deployments.ports import (
    ActionOutcome,
    Advice,
    Approval,
    ApprovalId,
    ApprovalState,
    CallResult,
    Conclusion,
    Digests,
    Frozen,
    GateContext,
    KeyId,
    Permit,
    Principal,
    Proposal,
    QueueHealth,
    RollbackOutcome,
    RollbackPlan,
    Scope,
    TenantId,
    ToolCall,
    ToolResult,
    Verdict,
)

TTL_MS = 3_600_000


class ScriptedGate:
    """Implements `ports.Gate`: answers what the test wrote down, one list per turn.

    `asked` is what it was shown to judge, `observed` which results.
    """

    def __init__(self, *turns: Sequence[Verdict]) -> None:
        self.turns = list(turns)
        self.asked: list[tuple[GateContext, tuple[ToolCall, ...]]] = []
        self.observed: list[tuple[GateContext, tuple[ToolResult, ...]]] = []

    async def judge(self, context: GateContext, calls: Sequence[ToolCall]) -> Sequence[Verdict]:
        self.asked.append((context, tuple(calls)))
        return self.turns.pop(0)

    async def observe(self, context: GateContext, results: Sequence[ToolResult]) -> None:
        self.observed.append((context, tuple(results)))


class InMemoryApprovals:
    """Implements `ports.Approvals` over the real state machine. Set `down` to make every call fail.

    `results` is what conversations said, `concluded` what became of consumed approvals.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or FixedClock()
        self.found: dict[str, Approval] = {}
        self.proposals: list[Proposal] = []
        self.results: list[CallResult] = []
        self.concluded: dict[str, Conclusion] = {}
        self.reviews: dict[str, Advice] = {}
        self.frozen_keys: dict[KeyId, Frozen] = {}
        self.down = False

    async def propose(self, proposal: Proposal) -> Permit | Approval:
        self._check_up()
        self.proposals.append(proposal)
        self._check_free(proposal.requester_key)
        for approval in list(self.found.values()):
            now = states.as_of(approval, self.clock.now_ms())
            if now.proposal.fingerprint != proposal.fingerprint or now.state not in states.OPEN:
                continue
            if not states.may_consume(now) or now.plan is None or now.change_id is None:
                return now
            self.found[now.approval_id] = replace(now, state=ApprovalState.CONSUMED)
            self.concluded[now.approval_id] = Conclusion(now.approval_id, proposal.gate_call_id, self.clock.now_ms())
            digest = plan_digest(now.plan.steps, now.plan.verify)
            voters = tuple(vote.person for vote in now.votes)
            return Permit(now.approval_id, now.proposal.action_digest, now.change_id, digest, voters)
        approval_id, votes = ApprovalId(f"apr_{len(self.found) + 1}"), states.votes_required(proposal.risk)
        expires_ms = self.clock.now_ms() + TTL_MS
        shown = requested(proposal.display, approval_id, votes, proposal.approver_roles, expires_ms)
        approval = Approval(
            approval_id=approval_id,
            state=ApprovalState.NEEDS_PLAN,
            proposal=replace(proposal, display=shown.text, display_digest=shown.digest),
            votes_required=votes,
            votes=(),
            change_id=None,
            plan=None,
            created_ms=self.clock.now_ms(),
            expires_ms=expires_ms,
        )
        self.found[approval.approval_id] = approval
        return approval

    async def list_approvals(self, tenant: TenantId | None, state: ApprovalState | None) -> Sequence[Approval]:
        self._check_up()
        found = [states.as_of(approval, self.clock.now_ms()) for approval in reversed(self.found.values())]
        return [
            approval
            for approval in found
            if tenant in {None, approval.proposal.tenant} and state in {None, approval.state}
        ]

    async def get(self, tenant: TenantId | None, approval_id: ApprovalId) -> Approval:
        self._check_up()
        for approval in self.found.values():
            named = approval_id in {approval.approval_id, approval.proposal.gate_call_id}
            if named and tenant in {None, approval.proposal.tenant}:
                return states.as_of(approval, self.clock.now_ms())
        raise states.not_found()

    async def plan(self, principal: Principal, approval_id: ApprovalId, change_id: str, plan: RollbackPlan) -> Approval:
        return self._keep(states.planned(await self.get(None, approval_id), principal, change_id, plan))

    async def vote(
        self, principal: Principal, approval_id: ApprovalId, digests: Digests, approve: bool, reason: str
    ) -> Approval:
        approval = await self.get(None, approval_id)
        self._check_free(principal.key_id)
        return self._keep(states.voted(approval, principal, digests, approve, reason, self.clock.now_ms()))

    async def cancel(self, principal: Principal, approval_id: ApprovalId, reason: str) -> Approval:
        del reason
        return self._keep(states.cancelled(await self.get(None, approval_id), principal))

    async def expire(self, principal: Principal, approval_id: ApprovalId, reason: str) -> Approval:
        del reason
        return self._keep(states.expired(await self.get(None, approval_id), principal))

    async def advise(self, approval_id: ApprovalId, advice: Advice) -> None:
        approval = await self.get(None, approval_id)
        if approval.state not in states.OPEN:
            raise ApprovalConflict("A review comes too late.")
        self.reviews[approval.approval_id] = advice

    async def advice(self, tenant: TenantId | None, approval_id: ApprovalId) -> Advice | None:
        return self.reviews.get((await self.get(tenant, approval_id)).approval_id)

    async def frozen(self) -> Sequence[Frozen]:
        self._check_up()
        return list(self.frozen_keys.values())

    async def freeze(self, principal: Principal, key_id: KeyId, reason: str) -> Frozen:
        self._check_up()
        if not principal.scopes & {Scope.APPROVE, Scope.ADMIN}:
            raise Forbidden("This key may not freeze keys.")
        frozen = Frozen(key_id, principal.tenant, "manual", reason, self.clock.now_ms())
        return self.frozen_keys.setdefault(key_id, frozen)

    async def unfreeze(self, principal: Principal, key_id: KeyId, change_id: str, reason: str) -> None:
        del change_id, reason
        self._check_up()
        if Scope.ADMIN not in principal.scopes or principal.key_id == key_id:
            raise Forbidden("This key may not release that key.")
        if self.frozen_keys.pop(key_id, None) is None:
            raise NotFound("This key is not frozen.")

    async def health(self) -> QueueHealth:
        self._check_up()
        now_ms = self.clock.now_ms()
        found = [states.as_of(approval, now_ms) for approval in self.found.values()]
        waiting = [each for each in found if each.state in {ApprovalState.NEEDS_PLAN, ApprovalState.PENDING}]
        oldest_ms = min((each.created_ms for each in waiting), default=None)
        return QueueHealth(
            waiting=len(waiting),
            oldest_s=None if oldest_ms is None else (now_ms - oldest_ms) / 1000,
            approved_unused=sum(each.state is ApprovalState.APPROVED for each in found),
            unreported=sum(each.reported is None for each in self.concluded.values()),
            frozen=len(self.frozen_keys),
        )

    async def observe(self, context: GateContext, results: Sequence[CallResult]) -> None:
        self._check_up()
        self.results.extend(results)

    async def report(
        self, principal: Principal, approval_id: ApprovalId, outcome: ActionOutcome, exit_code: int | None, note: str
    ) -> Conclusion:
        del exit_code, note
        known = await self._conclusion(principal, approval_id)
        if known.reported not in {None, outcome}:
            raise ApprovalConflict("The call has been reported already.")
        return self._conclude(replace(known, reported=outcome, reported_ms=self.clock.now_ms()))

    async def rollback(
        self, principal: Principal, approval_id: ApprovalId, outcome: RollbackOutcome, note: str
    ) -> Conclusion:
        del note
        known = await self._conclusion(principal, approval_id)
        return self._conclude(replace(known, rollback=outcome))

    async def ready(self) -> bool:
        return not self.down

    async def _conclusion(self, principal: Principal, approval_id: ApprovalId) -> Conclusion:
        approval = await self.get(None, approval_id)
        states.may_report(principal, approval)
        if approval.approval_id not in self.concluded:
            raise ApprovalConflict("Only a call that was released can be reported.")
        return self.concluded[approval.approval_id]

    def _conclude(self, conclusion: Conclusion) -> Conclusion:
        self.concluded[conclusion.approval_id] = conclusion
        return conclusion

    def _keep(self, approval: Approval) -> Approval:
        self.found[approval.approval_id] = approval
        return approval

    def _check_free(self, key_id: KeyId) -> None:
        if key_id in self.frozen_keys:
            raise Forbidden(FROZEN)

    def _check_up(self) -> None:
        if self.down:
            raise GateUnavailable("The approval store is down.")
