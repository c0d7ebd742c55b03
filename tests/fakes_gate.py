"""`ScriptedGate` and `InMemoryApprovals`: the gate's two ports without a policy, a store or an audit log."""

from collections.abc import Sequence
from dataclasses import replace

from deployments.clock import Clock, FixedClock
from deployments.errors import ApprovalConflict, GateUnavailable
from deployments.gate import states
from deployments.gate.binding import plan_digest
from deployments.ports import (
    ActionOutcome,
    Approval,
    ApprovalId,
    ApprovalState,
    CallResult,
    Conclusion,
    Digests,
    GateContext,
    Permit,
    Principal,
    Proposal,
    RollbackOutcome,
    RollbackPlan,
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
        self.down = False

    async def propose(self, proposal: Proposal) -> Permit | Approval:
        self._check_up()
        self.proposals.append(proposal)
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
        approval = Approval(
            approval_id=ApprovalId(f"apr_{len(self.found) + 1}"),
            state=ApprovalState.NEEDS_PLAN,
            proposal=proposal,
            votes_required=states.votes_required(proposal.risk),
            votes=(),
            change_id=None,
            plan=None,
            created_ms=self.clock.now_ms(),
            expires_ms=self.clock.now_ms() + TTL_MS,
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
        return self._keep(states.voted(approval, principal, digests, approve, reason, self.clock.now_ms()))

    async def cancel(self, principal: Principal, approval_id: ApprovalId, reason: str) -> Approval:
        del reason
        return self._keep(states.cancelled(await self.get(None, approval_id), principal))

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

    def _check_up(self) -> None:
        if self.down:
            raise GateUnavailable("The approval store is down.")
