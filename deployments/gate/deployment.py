"""`PolicyGate`: the approval desk as a Serve deployment."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deployments.clients import AuditClient, LedgerClient, RolloutsClient
from deployments.clock import Clock, SystemClock
from deployments.errors import GatehouseError
from deployments.gate.approvals import ApprovalDesk
from deployments.gate.bundle import bundle_path
from deployments.gate.candidate import read_candidate
from deployments.gate.live import LivePolicies, LivePolicy
from deployments.gate.notify import Notifier
from deployments.gate.office import PermitOffice
from deployments.gate.policy import read_policy
from deployments.gate.settings import GateSettings, Running
from deployments.gate.signature import check_signature
from deployments.gate.store import ApprovalStore
from deployments.gate.tenant_names import with_tenants
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
    IssuedPermit,
    JsonValue,
    Keeps,
    KeyId,
    Permit,
    PermitAsk,
    Principal,
    Proposal,
    QueueHealth,
    RollbackOutcome,
    RollbackPlan,
    RunReport,
    TenantId,
    keeps_nothing,
)
from deployments.store import open_store
from deployments.tasks import Opening, Rounds, to_its_end

_log = logging.getLogger("gatehouse.gate")
_AGAIN_S = 1.0
_LEDGER_TIMEOUT_S = 5.0
_ROLLOUTS_TIMEOUT_S = 2.0


class PolicyGate:
    """Implements `ports.Approvals` and `ports.Permits` (its `report` is `report_run` here).

    `audit`, `ledger` and `rollouts` are handles; a policy or a candidate that cannot be read fails the constructor.
    `keys_dir` holds the keys that permits are signed with. `rollouts` is asked which policy judges a session, and only
    where a candidate is configured; without it no session is the candidate's.

    The classifier runs in every ingress replica; here live only the requests that wait for humans, and what became of
    the calls that left. `running` is what this deployment runs, for the records of what has changed; `keeps_arguments`
    says whose words are kept, encrypted, beside the log.
    """

    def __init__(
        self,
        audit: Any,
        ledger: Any,
        store_url: str,
        keys_dir: str,
        settings: GateSettings,
        running: Running = Running(),  # noqa: B008 - frozen
        keeps_arguments: Keeps = keeps_nothing,
        clock: Clock | None = None,
        rollouts: Any = None,
    ) -> None:
        policy = read_policy(bundle_path(settings.bundle))
        if settings.bundle_key is not None:
            check_signature(policy.policy_digest, bundle_path(settings.bundle), Path(settings.bundle_key))
        policy = with_tenants(policy, settings.tenants)
        candidate = read_candidate(settings)
        self._rule_set = policy.name
        self._running = running
        self._sweep_s = settings.sweep_s
        self._store = ApprovalStore(open_store(store_url))
        sink, clock = AuditClient(audit, settings.audit_timeout_s), clock or SystemClock()
        keys = LedgerClient(ledger, _LEDGER_TIMEOUT_S)
        policies = LivePolicies(
            LivePolicy.of(policy, settings.revision),
            None if settings.candidate is None or candidate is None
            else LivePolicy.of(candidate, settings.candidate.revision),
            None if rollouts is None else RolloutsClient(rollouts, _ROLLOUTS_TIMEOUT_S).slices,
            clock,
        )  # fmt: skip
        self._desk = ApprovalDesk(
            self._store,
            sink,
            clock,
            settings,
            keeps_arguments=keeps_arguments,
            holders=keys.holders,
            policies=policies,
        )
        self._notifier = Notifier(self._desk.outbox, settings.notices, clock) if settings.notices.receivers else None
        self._office = PermitOffice(
            self._desk, self._store.engine, sink, clock, settings, Path(keys_dir), keeps_arguments, policies
        )
        self._opening = Opening(self._open)
        self._rounds = Rounds()

    async def propose(self, proposal: Proposal) -> Permit | Approval:
        """Consume a matching approval, or open the request that waits for one."""
        return await (await self._opened()).propose(proposal)

    async def list_approvals(self, tenant: TenantId | None, state: ApprovalState | None) -> Sequence[Approval]:
        """Requests, newest first; None means all."""
        return await (await self._opened()).list_approvals(tenant, state)

    async def get(self, tenant: TenantId | None, approval_id: ApprovalId) -> Approval:
        """One request by its id or by the id of its call, or `NotFound`."""
        return await (await self._opened()).get(tenant, approval_id)

    async def plan(self, principal: Principal, approval_id: ApprovalId, change_id: str, plan: RollbackPlan) -> Approval:
        """Record change id and rollback plan."""
        return await (await self._opened()).plan(principal, approval_id, change_id, plan)

    async def vote(
        self, principal: Principal, approval_id: ApprovalId, digests: Digests, approve: bool, reason: str
    ) -> Approval:
        """One human's vote on what was shown to them."""
        return await (await self._opened()).vote(principal, approval_id, digests, approve, reason)

    async def cancel(self, principal: Principal, approval_id: ApprovalId, reason: str) -> Approval:
        """Withdraw a request."""
        return await (await self._opened()).cancel(principal, approval_id, reason)

    async def expire(self, principal: Principal, approval_id: ApprovalId, reason: str) -> Approval:
        """End a request now."""
        return await (await self._opened()).expire(principal, approval_id, reason)

    async def advise(self, approval_id: ApprovalId, advice: Advice) -> None:
        """Put a model's review beside an open request."""
        await (await self._opened()).advise(approval_id, advice)

    async def advice(self, tenant: TenantId | None, approval_id: ApprovalId) -> Advice | None:
        """The newest review of a request."""
        return await (await self._opened()).advice(tenant, approval_id)

    async def frozen(self) -> Sequence[Frozen]:
        """Every key whose tool calls do not leave."""
        return await (await self._opened()).frozen()

    async def freeze(self, principal: Principal, key_id: KeyId, reason: str) -> Frozen:
        """Let none of a key's tool calls leave from now on."""
        return await (await self._opened()).freeze(principal, key_id, reason)

    async def unfreeze(self, principal: Principal, key_id: KeyId, change_id: str, reason: str) -> None:
        """Let a key's tool calls leave again."""
        await (await self._opened()).unfreeze(principal, key_id, change_id, reason)

    async def health(self) -> QueueHealth:
        """How the queue stands."""
        return await (await self._opened()).health()

    async def issue(self, principal: Principal, ask: PermitAsk) -> IssuedPermit:
        """A permit for a call that was just released."""
        await self._opened()
        return await to_its_end(self._office.issue(principal, ask))

    async def claim(self, principal: Principal, tool: str, arguments: str, audience: str) -> IssuedPermit:
        """The permit of an approved call that was not executed yet."""
        await self._opened()
        return await to_its_end(self._office.claim(principal, tool, arguments, audience))

    async def redeem(
        self, principal: Principal, permit_id: str, action_digest: str, audience: str, nonce: str | None = None
    ) -> IssuedPermit:
        """Take the one execution."""
        await self._opened()
        return await to_its_end(self._office.redeem(principal, permit_id, action_digest, audience, nonce))

    async def report_run(self, principal: Principal, permit_id: str, report: RunReport) -> IssuedPermit:
        """Say how the execution ended."""
        await self._opened()
        return await to_its_end(self._office.report(principal, permit_id, report))

    async def permit(self, principal: Principal, permit_id: str) -> IssuedPermit:
        """A permit, without its token."""
        await self._opened()
        return await self._office.permit(principal, permit_id)

    async def permit_keys(self) -> Mapping[str, JsonValue]:
        """The public keys as a JWK set."""
        await self._opened()
        return await self._office.keys()

    async def observe(self, context: GateContext, results: Sequence[CallResult]) -> None:
        """Record what a conversation says of calls."""
        await (await self._opened()).observe(context, results)

    async def report(
        self, principal: Principal, approval_id: ApprovalId, outcome: ActionOutcome, exit_code: int | None, note: str
    ) -> Conclusion:
        """Say what became of a released call."""
        return await (await self._opened()).report(principal, approval_id, outcome, exit_code, note)

    async def rollback(
        self, principal: Principal, approval_id: ApprovalId, outcome: RollbackOutcome, note: str
    ) -> Conclusion:
        """Say how taking a released call back ended."""
        return await (await self._opened()).rollback(principal, approval_id, outcome, note)

    async def ready(self) -> bool:
        """True when the store answers."""
        return await (await self._opened()).ready()

    async def check_health(self) -> None:
        """Raise when the store could not be opened, or when nobody sweeps or sends messages any more."""
        await self._opened()
        self._rounds.check()

    async def close(self) -> None:
        """Stop looking for anything, and give the connections back."""
        await self._opening.close()
        await self._rounds.close()
        if self._notifier is not None:
            await self._notifier.close()
        await self._store.close()

    async def _opened(self) -> ApprovalDesk:
        """The desk, its tables made."""
        await self._opening.done()
        return self._desk

    async def _open(self) -> None:
        await self._desk.open(self._rule_set, self._running)
        await self._office.open()
        self._rounds.begin(self._sweep)
        if self._notifier is not None:
            self._rounds.begin(self._notifier.round)

    async def _sweep(self) -> float:
        """After a failure soon again: what has changed should be on record first."""
        try:
            await self._desk.sweep()
            await self._office.sweep()
        except GatehouseError as error:
            _log.warning("the gate's sweep failed: %s", type(error).__name__)
            return min(_AGAIN_S, self._sweep_s)
        return self._sweep_s
